"""The admin: see what is in the outbox and why, retry it or cancel it. Nothing can be edited.

The outbox may hold millions of rows: nothing here reads all of them to draw a page, and lists leave
the payloads in the database.
"""

from .dashboard import DashboardAdmin
from .endpoints import WebhookEndpointAdmin
from .inbox import InboxEventAdmin
from .operations import OperationAdmin
from .outbox import OutboxEventAdmin
from .relays import RelayAdmin

__all__ = [
    "DashboardAdmin",
    "InboxEventAdmin",
    "OperationAdmin",
    "OutboxEventAdmin",
    "RelayAdmin",
    "WebhookEndpointAdmin",
]
