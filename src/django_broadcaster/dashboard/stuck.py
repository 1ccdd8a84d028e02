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

_NUMBERS = re.compile(
    # The host and the digest of an endpoint, and a code such as 503, distinguish errors:
    r"(?P<kept>https?://[^\s/]+|\bendpoint [0-9a-f]{8}\b"
    r"|\b(?:answered|status|HTTP(?:/\d(?:\.\d)?)?|code|error)[ :=]{1,2}\d{3}(?![\d.]*\d))"
    # Other numbers and ids vary from event to event:
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # a UUID
    r"|\b0x[0-9a-f]+\b"
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"  # a digest
    r"|(?<![\d.])\d+(?:\.\d+)*",  # a number
    re.IGNORECASE,
)


def stuck(using: str, backend: str) -> dict[str, Any]:
    """Return the blocked keys and the dead letters of a backend."""
    return {"keys": _keys(using, backend), **_errors(using, backend)}


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


def _errors(using: str, backend: str) -> dict[str, Any]:
    """Return the groups of errors with the most events, and how many others there are."""
    groups: dict[str, list[SameError]] = {}
    for same in same_errors(using, backend, NEWEST):
        groups.setdefault(fingerprint(same.error), []).append(same)
    found = [_group(pattern, group) for pattern, group in groups.items()]
    found.sort(key=lambda each: (-each["count"], -each["newest"]))
    shown, others = found[:GROUPS], found[GROUPS:]
    more = {"errors": len(others), "events": sum(each["count"] for each in others)}
    return {"errors": shown, "more_errors": more}


def _group(pattern: str, group: list[SameError]) -> dict[str, Any]:
    firsts = [same.first_seen for same in group if same.first_seen]
    lasts = [same.last_seen for same in group if same.last_seen]
    newest = max(group, key=lambda same: same.newest)
    return {
        "error": pattern or _("(no text)"),
        "prefix": prefix_of(newest.error),
        "is_whole": "#" not in pattern,
        "example": newest.error,
        "count": sum(same.letters for same in group),
        "newest": newest.newest,
        "first_seen": seconds(min(firsts, default=None)),
        "last_seen": seconds(max(lasts, default=None)),
    }


def fingerprint(error: str) -> str:
    """Return the first line of an error with `#` for each number and id that may vary.

    The line has the class, the handler or the destination, and the reason. Later lines are details
    such as a response.
    """
    line, _rest, _details = error.partition("\n")
    return _NUMBERS.sub(lambda found: found["kept"] or "#", line)


def prefix_of(error: str) -> str:
    """Return the beginning of an error, up to the first part that varies."""
    line, _rest, _details = error.partition("\n")
    varies = (found.start() for found in _NUMBERS.finditer(line) if not found["kept"])
    return line[: next(varies, None)]
