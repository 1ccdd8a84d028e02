"""The admin's log of operations: who requested one, who stopped it, and how it ended.

The end is written for who requested it, by the relay, if the admin is installed. A relay that dies
right after the last step does not write it; the operation itself says when and how it ended.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.dispatch import receiver

from django_broadcaster.models import OutboxOperation
from django_broadcaster.signals import operation_ended


def log_request(user: Any, operation: OutboxOperation) -> None:
    """Write down who requested it, and how many events it was about."""
    _log(user.pk, operation, ADDITION, f"Requested for {operation.total:,} events.")


def log_stop(user: Any, operation: OutboxOperation) -> None:
    """Write down who stopped it, and how far it had come."""
    _log(user.pk, operation, CHANGE, f"Stopped at {operation.done:,} events.")


@receiver(operation_ended, dispatch_uid="django_broadcaster.operations_audit")
def log_end(operation: OutboxOperation, **_more: Any) -> None:
    """Write down how it ended, if a user requested it who is still there."""
    if not operation.user_pk:
        return
    user = get_user_model()._default_manager.filter(pk=operation.user_pk).first()
    if user is not None:
        _log(user.pk, operation, CHANGE, f"Ended: {operation.state}, {operation.done:,} events.")


def _log(user_pk: Any, operation: OutboxOperation, flag: int, message: str) -> None:
    LogEntry.objects.log_actions(user_pk, [operation], flag, change_message=message)
