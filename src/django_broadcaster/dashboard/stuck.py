"""Stuck events of a backend, as JSON: blocked keys, and dead letters by error."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from django.db.models.functions import Left
from django.utils.translation import gettext as _

from django_broadcaster.models import OutboxEvent
from django_broadcaster.store import BlockedKey, SameError, blocked_keys, same_errors

from .state import seconds

KEYS = 50
"""Maximum of keys that are shown, those that block the most events."""

HEADS = 500
"""Maximum of keys whose errors are compared."""

ERROR_SHOWN = 300
"""Characters of a key's error."""

NEWEST = 5_000
"""Maximum of dead letters that are read, the newest."""

GROUPS = 25
"""Maximum of errors, the most frequent."""

_CLASS = re.compile(r"^\w+: ")

_FAILURE = re.compile(r"handler [^:;]+: \w+ at [^:;]+:\d+(?=:)")
"""A handler's failure in an error: the handler, the class and the place, before the text."""

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


def stuck(using: str, alias: str) -> dict[str, Any]:
    """Return the blocked keys and the dead letters of a backend."""
    return {**_keys(using, alias), **_errors(using, alias)}


def _keys(using: str, alias: str) -> dict[str, Any]:
    """Return the keys that block the most events, and a summary of all."""
    keys, is_all = blocked_keys(using, alias)
    columns = ("id", "event_type", "created_at", "scheduled_at", "retry_count")
    heads = OutboxEvent.objects.using(using).filter(pk__in=[each.head for each in keys[:HEADS]])
    read = heads.filter(status="retry").annotate(error=Left("last_error", ERROR_SHOWN))
    by_id = {row["id"]: row for row in read.values(*columns, "error")}
    reasons = Counter(_reason(row["error"]) for row in by_id.values())
    ((reason, count),) = reasons.most_common(1) or [("", 0)]
    summary = {
        "keys": len(keys),
        "events": sum(each.behind for each in keys),
        "is_all": is_all and not any(each.more for each in keys),
        "reason": reason,
        "with_reason": count,
        "compared": len(by_id),
    }
    shown = [_key(each, by_id[each.head]) for each in keys[:KEYS] if each.head in by_id]
    return {"keys": shown, "blocked": summary}


def _key(each: BlockedKey, head: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": each.key,
        "head": each.head,
        "type": head["event_type"],
        "since": seconds(head["created_at"]),
        "due": seconds(head["scheduled_at"]),
        "retries": head["retry_count"],
        "error": head["error"],
        "behind": each.behind,
        "more": each.more,
    }


def _reason(error: str) -> str:
    """Return the fingerprint of an error without its class."""
    return _CLASS.sub("", fingerprint(error)) or _("an unknown error")


def _errors(using: str, alias: str) -> dict[str, Any]:
    """Return the groups of errors with the most events, and how many others there are."""
    groups: dict[str, list[SameError]] = {}
    for same in same_errors(using, alias, NEWEST):
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
    prefix = prefix_of(newest.error)
    return {
        "error": pattern or _("(no text)"),
        "prefix": prefix,
        "is_whole": prefix == pattern,
        "example": newest.error,
        "text": newest.error[len(prefix) :].removeprefix(": ") if _FAILURE.search(prefix) else "",
        "count": sum(same.letters for same in group),
        "newest": newest.newest,
        "first_seen": seconds(min(firsts, default=None)),
        "last_seen": seconds(max(lasts, default=None)),
    }


def fingerprint(error: str) -> str:
    """Return what an error has in common with others of its kind.

    Of handlers, that is the class of the error, the handler and the place, whatever the text says.
    Else it is the first line, with `#` for each number and id that may vary; it has the class, the
    destination and the reason. Later lines are details such as a response.
    """
    line, _rest, _details = error.partition("\n")
    if failures := _FAILURE.findall(line):
        outer = _CLASS.match(line)
        return (outer[0] if outer else "") + "; ".join(failures)
    return _NUMBERS.sub(lambda found: found["kept"] or "#", line)


def prefix_of(error: str) -> str:
    """Return the beginning of an error, up to the first part that varies."""
    line, _rest, _details = error.partition("\n")
    if failure := _FAILURE.search(line):
        return line[: failure.end()]
    varies = (found.start() for found in _NUMBERS.finditer(line) if not found["kept"])
    return line[: next(varies, None)]
