"""Stuck events of a backend, as JSON: blocked keys, and dead letters by error."""

from __future__ import annotations

import re
from typing import Any

from django.utils.translation import gettext as _

from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import SameError, blocked_keys, same_errors

from .state import seconds

KEYS = 50
"""Maximum of keys, the first by name."""

BEHIND = 100
"""Maximum of events that are counted after a key's first one."""

NEWEST = 5_000
"""Maximum of dead letters that are read, the newest."""

GROUPS = 25
"""Maximum of errors, the most frequent."""

_VARIABLE = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # a UUID
    r"|\b0x[0-9a-f]+\b"
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"  # a digest
    r"|(?<![\d.])(?!\d{3}(?![\d.]))\d+(?:\.\d+)*",  # a number, but not a code such as 503
    re.IGNORECASE,
)


def stuck(using: str, backend: str) -> dict[str, Any]:
    """Return the blocked keys and the dead letters of a backend."""
    return {"keys": _keys(using, backend), "errors": _errors(using, backend)}


def _keys(using: str, backend: str) -> list[dict[str, Any]]:
    keys = blocked_keys(using, backend, KEYS, BEHIND)
    columns = ("id", "event_type", "created_at", "scheduled_at", "retry_count", "last_error")
    heads = OutboxEvent.objects.using(using).filter(pk__in=[each.head for each in keys])
    by_id = {row["id"]: row for row in heads.filter(status="retry").values(*columns)}
    return [
        {
            "key": each.key,
            "head": each.head,
            "type": by_id[each.head]["event_type"],
            "since": seconds(by_id[each.head]["created_at"]),
            "due": seconds(by_id[each.head]["scheduled_at"]),
            "retries": by_id[each.head]["retry_count"],
            "error": by_id[each.head]["last_error"][:300],
            "behind": min(each.behind, BEHIND),
            "more": each.behind > BEHIND,
        }
        for each in keys
        if each.head in by_id
    ]


def _errors(using: str, backend: str) -> list[dict[str, Any]]:
    """Return the errors, grouped without regard to numbers and ids, the most frequent first."""
    groups: dict[str, dict[str, Any]] = {}
    for same in same_errors(using, backend, NEWEST):
        pattern, prefix = alike(same)
        group = groups.setdefault(
            pattern,
            {"error": pattern, "prefix": prefix, "example": same.error, "count": 0, "newest": 0},
        )
        group["count"] += same.letters
        group["newest"] = max(group["newest"], same.newest)
    ordered = sorted(groups.values(), key=lambda each: (-each["count"], -each["newest"]))
    return ordered[:GROUPS]


def alike(same: SameError) -> tuple[str, str]:
    """Return an error with `#` for each number or id, and its text before the first one."""
    first = _VARIABLE.search(same.error)
    prefix = same.error[: first.start()] if first else same.error
    return _VARIABLE.sub("#", same.error) or _("(no text)"), prefix
