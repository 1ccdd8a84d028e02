"""The tables: events waiting to be sent, who delivers them, and events already handled."""

from ..states import OutboxEventStatus
from .endpoints import WebhookEndpoint
from .inbox import InboxEvent
from .operations import Operation
from .outbox import ArchivedEvent, OutboxEvent
from .relays import Attempt, BackendState, Dashboard, Partition, Relay, Sample

__all__ = [
    "ArchivedEvent",
    "Attempt",
    "BackendState",
    "Dashboard",
    "InboxEvent",
    "Operation",
    "OutboxEvent",
    "OutboxEventStatus",
    "Partition",
    "Relay",
    "Sample",
    "WebhookEndpoint",
]
