"""The admin: view, retry and cancel the events of the outbox. Rows can't be edited.

The outbox may hold millions of rows. No page reads all of them, and lists read no payloads.
"""

from .dashboard import DashboardAdmin
from .endpoints import WebhookEndpointAdmin
from .inbox import InboxEventAdmin
from .operations import OperationAdmin
from .outbox import OutboxEventAdmin
from .receivers import ReceiverAdmin
from .relays import RelayAdmin

__all__ = [
    "DashboardAdmin",
    "InboxEventAdmin",
    "OperationAdmin",
    "OutboxEventAdmin",
    "ReceiverAdmin",
    "RelayAdmin",
    "WebhookEndpointAdmin",
]
