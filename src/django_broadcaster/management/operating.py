"""Background operations in the output of commands."""

from __future__ import annotations

from typing import Any

from django_broadcaster.models import OutboxOperation

from .output import Bad

SHOWN = 20
"""The limit for operations in a list."""


def as_values(operation: OutboxOperation) -> dict[str, Any]:
    """Return an operation for JSON."""
    names = ("requested_by", "requested_at", "started_at", "finished_at", "stopped_by", "error")
    return {
        "id": operation.pk,
        "kind": operation.kind,
        "selection": operation.selection,
        "state": operation.state,
        "total": operation.total,
        "total_is_exact": operation.total_is_exact,
        "done": operation.done,
        "left_alone": operation.left_alone,
        "forget_inbox": operation.forget_inbox,
        "skipped": operation.skipped,
        "progress": round(operation.progress, 4),
        **{name: getattr(operation, name) for name in names},
    }


def as_row(operation: OutboxOperation) -> dict[str, Any]:
    """Return an operation for a table."""
    about = "" if operation.total_is_exact else "~"
    return {
        "operation": operation.pk,
        "what": str(operation),
        "state": Bad(operation.state) if operation.error else operation.state,
        "done": f"{operation.done:,}",
        "of": f"{about}{operation.total:,}",
        "progress": f"{operation.progress:.0%}",
        "by": operation.requested_by,
        "error": operation.error.partition("\n")[0][:80],
    }
