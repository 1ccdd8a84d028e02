"""The admin's log of operations: who requested one, who stopped it, and how it ended.

If the admin is installed, the relay logs the end in the name of the user who requested the
operation. A relay that crashes right after the last step does not log it, but the operation's own
row has the time and the result.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.dispatch import receiver

from django_broadcaster.models import OutboxOperation
from django_broadcaster.signals import operation_ended


def log_request(user: Any, operation: OutboxOperation) -> None:
    """Log who requested an operation, and for how many events."""
    message = f"Requested for {operation.total:,} events."
    if operation.forget_inbox:
        message += f" Handlers to run again: {', '.join(operation.forget_inbox)}."
    _log(user.pk, operation, ADDITION, message)


def log_stop(user: Any, operation: OutboxOperation) -> None:
    """Log who stopped an operation, and after how many events."""
    _log(user.pk, operation, CHANGE, f"Stopped at {operation.done:,} events.")


@receiver(operation_ended, dispatch_uid="django_broadcaster.operations_audit")
def log_end(operation: OutboxOperation, **_more: Any) -> None:
    """Log how an operation ended, if the user who requested it still exists."""
    if not operation.user_pk:
        return
    user = get_user_model()._default_manager.filter(pk=operation.user_pk).first()
    if user is not None:
        _log(user.pk, operation, CHANGE, f"Ended: {operation.state}, {operation.done:,} events.")


def _log(user_pk: Any, operation: OutboxOperation, flag: int, message: str) -> None:
    LogEntry.objects.log_actions(user_pk, [operation], flag, change_message=message)
