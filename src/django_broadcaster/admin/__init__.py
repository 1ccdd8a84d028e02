"""The admin: view, retry and cancel the events of the outbox. Rows can't be edited.

The outbox may hold millions of rows. No page reads all of them, and lists read no payloads.
"""

import django

from .dashboard import DashboardAdmin
from .endpoints import WebhookEndpointAdmin
from .inbox import InboxEventAdmin
from .operations import OperationAdmin
from .outbox import OutboxEventAdmin
from .receivers import ReceiverAdmin
from .relays import RelayAdmin

if django.VERSION >= (6, 0):  # older versions have no tasks
    from . import task_runs  # noqa: F401  # registers its page

__all__ = [
    "DashboardAdmin",
    "InboxEventAdmin",
    "OperationAdmin",
    "OutboxEventAdmin",
    "ReceiverAdmin",
    "RelayAdmin",
    "WebhookEndpointAdmin",
]
