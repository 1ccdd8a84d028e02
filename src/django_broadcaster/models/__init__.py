"""The tables: events to deliver, the relays that deliver them, and events already processed."""

from ..states import OutboxEventStatus
from .endpoints import OutboxWebhookEndpoint
from .inbox import InboxEvent
from .operations import OutboxOperation
from .outbox import OutboxArchivedEvent, OutboxEvent
from .relays import (
    OutboxAttempt,
    OutboxBackendState,
    OutboxDashboard,
    OutboxMove,
    OutboxPartition,
    OutboxPosition,
    OutboxReceiver,
    OutboxRelay,
    OutboxSample,
)
from .task_runs import OutboxTaskRun

__all__ = [
    "InboxEvent",
    "OutboxArchivedEvent",
    "OutboxAttempt",
    "OutboxBackendState",
    "OutboxDashboard",
    "OutboxEvent",
    "OutboxEventStatus",
    "OutboxMove",
    "OutboxOperation",
    "OutboxPartition",
    "OutboxPosition",
    "OutboxReceiver",
    "OutboxRelay",
    "OutboxSample",
    "OutboxTaskRun",
    "OutboxWebhookEndpoint",
]
