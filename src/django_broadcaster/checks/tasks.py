"""Check of the entries of OUTBOX_PUBLISHERS that run Django's tasks.

`OutboxTaskBackend.check` has the checks of TASKS, which Django calls.
"""

from __future__ import annotations

from typing import Any

import django
from django.core.checks import CheckMessage

from ..backends.handler import backends
from ..check_messages import TAG, Messages, entries, nearest, warning
from .publishers import BACKEND


def check_runners(**_: Any) -> Messages:
    """Warn of entries that run tasks, and that no queue of TASKS sends tasks to."""
    if django.VERSION < (6, 0):  # without django.tasks, these entries are errors
        return []
    from ..tasks import TaskRunner

    of_queues = backends.of_tasks()
    return [
        _unused(alias, of_queues)
        for alias, entry in entries().items()
        if alias not in of_queues
        and issubclass(BACKEND.class_at(entry.get("BACKEND")) or object, TaskRunner)
    ]


def _unused(alias: str, of_queues: tuple[str, ...]) -> CheckMessage:
    where = f"OUTBOX_PUBLISHERS[{alias!r}]"
    message = f"{where} runs tasks, but no queue of an OutboxTaskBackend in TASKS sends it any."
    near = nearest(alias, of_queues)
    fix = f"Rename it to {near!r}." if near else "Add the queue to TASKS, or remove the entry."
    return warning("W017", message, f"{fix} Or set SILENCED_SYSTEM_CHECKS = ['{TAG}.W017'].")
