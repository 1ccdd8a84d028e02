"""System checks of TASKS with the settings of the outbox: each queue has a backend of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from django.core.checks import CheckMessage
from django.tasks import task_backends
from django.utils.module_loading import import_string

from django_broadcaster.backends.handler import backends
from django_broadcaster.check_messages import TAG, entries, error, warning
from django_broadcaster.conf import conf
from django_broadcaster.retention import span

from .backend import RUNNER, OutboxTaskBackend
from .runner import TaskRunner


def check_backend(backend: OutboxTaskBackend) -> Iterator[CheckMessage]:
    """Check the backends of the outbox that the tasks of an entry of TASKS go to."""
    yield from _other_backends(backend)
    yield from _shared_backends(backend)
    try:
        yield from _short_results(backend)
    except (TypeError, ValueError, AttributeError):  # the checks of the two settings report it
        return


def _other_backends(backend: OutboxTaskBackend) -> Iterator[CheckMessage]:
    """Yield the entries of OUTBOX_PUBLISHERS with the alias of a queue that run no tasks."""
    for alias in dict.fromkeys(backend.destinations()):
        path = entries().get(alias, {}).get("BACKEND")
        if not isinstance(path, str) or _runs_tasks(path):
            continue
        where = f"OUTBOX_PUBLISHERS[{alias!r}]"
        yield error(
            "E060",
            f"{backend.entry.where} sends tasks to {where}, but {path!r} does not run tasks.",
            f"Set {where}['BACKEND'] = {RUNNER!r}, or rename {alias!r}.",
        )


def _runs_tasks(path: str) -> bool:
    """Return True if a class runs tasks, or can't be imported: another check reports that."""
    try:
        return issubclass(import_string(path), TaskRunner)
    except Exception:  # its module may raise any exception
        return True


def _shared_backends(backend: OutboxTaskBackend) -> Iterator[CheckMessage]:
    """Yield the aliases that two queues have, as queue `high` and the priorities of `default`."""
    used = Counter(backend.destinations())
    for other in task_backends.settings:
        if other == backend.alias:
            break  # the entry that comes later in the setting is reported
        if isinstance(known := task_backends[other], OutboxTaskBackend):
            used.update({*known.destinations()} & {*used})
    shared = [alias for alias, times in used.items() if times > 1]
    if shared:
        yield warning(
            "W015",
            f"Two queues of {backend.entry.where} and the entries before it share these backends "
            f"of the outbox: {', '.join(map(repr, shared))}. Their tasks wait for each other.",
            f"Rename one of the queues. Or set SILENCED_SYSTEM_CHECKS = ['{TAG}.W015'].",
        )


def _short_results(backend: OutboxTaskBackend) -> Iterator[CheckMessage]:
    """Yield the aliases whose tasks lose their result too early."""
    kept = {alias: backends.retention(alias) for alias in dict.fromkeys(backend.destinations())}
    silence = f"Or set SILENCED_SYSTEM_CHECKS = ['{TAG}.W016']."
    at_once = [alias for alias, each in kept.items() if not each.keeps_published]
    if at_once:
        yield warning(
            "W016",
            f"Tasks of {', '.join(map(repr, at_once))} have no result once they succeed, because "
            "their events are deleted at once.",
            "Set RETENTION of these backends, or OUTBOX_RETENTION, to a timedelta above 0. "
            + silence,
        )
    runs = span(conf.INBOX_RETENTION)
    if runs is None:
        return
    longer = [
        alias
        for alias, each in kept.items()
        if each.published is None or each.published > max(runs, timedelta(0))
    ]
    if longer:
        yield warning(
            "W016",
            f"Tasks of {', '.join(map(repr, longer))} lose their return value after {runs}, which "
            "is OUTBOX_INBOX_RETENTION, while their events are kept longer.",
            "Set OUTBOX_INBOX_RETENTION to the retention of these backends, or a shorter "
            f"RETENTION of these backends. {silence}",
        )
