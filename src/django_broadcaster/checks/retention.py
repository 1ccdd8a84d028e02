"""Checks of how long events are kept and where they go: RETENTION of backends, OUTBOX_ARCHIVE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import Parameter, isabstract, signature
from reprlib import repr as shortened
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from .. import former
from ..archives import ENTRY_KEYS, Archive, create_archive
from ..backends.handler import backends
from ..conf import conf
from ..redaction import masked
from ..retention import STATUSES
from .shared import (
    LONGEST,
    Messages,
    entries,
    error,
    fix_of_key,
    kind,
    seconds,
    unknown_keys,
    warning,
)

_ARCHIVE_HINT = (
    "Write OUTBOX_ARCHIVE = {'BACKEND': 'django_broadcaster.archives.FileArchive', "
    "'OPTIONS': {'directory': '/var/lib/mysite/outbox'}}, or "
    "{'BACKEND': 'django_broadcaster.archives.TableArchive'}, or None to delete old events."
)


def check_retention(**_: Any) -> Messages:
    """OUTBOX_RETENTION is a span of time, 0, None, or a dict of these by status."""
    value: Any = getattr(settings, "OUTBOX_RETENTION", None)
    if former.is_retention(value):  # which checks of its own judge
        return []
    return list(_retention_problems("E016", "OUTBOX_RETENTION", value))


def check_backend_retentions(**_: Any) -> Messages:
    """RETENTION of each backend is a span of time, 0, None, or a dict of these by status."""
    return [
        problem
        for alias, entry in entries().items()
        if "RETENTION" in entry
        for problem in _retention_problems(
            "E040", f"OUTBOX_PUBLISHERS[{alias!r}]['RETENTION']", entry["RETENTION"]
        )
    ]


def _retention_problems(number: str, where: str, value: Any) -> Iterator[CheckMessage]:
    if not isinstance(value, Mapping):
        yield from _span_problems(number, where, value)
        return
    yield from unknown_keys(number, where, value, STATUSES)
    for status in STATUSES:
        if status in value:
            yield from _span_problems(number, f"{where}[{status!r}]", value[status])


def _span_problems(number: str, where: str, value: Any) -> Iterator[CheckMessage]:
    if value is None or 0 <= seconds(value) <= LONGEST.total_seconds():
        return
    message = (
        f"{where} must be a timedelta or seconds, from 0 to 100 years, or None for ever, "
        f"not {shortened(value)}."
    )
    yield error(number, message, f"Write {where} = timedelta(days=7).")


def check_archive(**_: Any) -> Messages:
    """OUTBOX_ARCHIVE is None, or a dict from which an archive can be made; nothing is opened."""
    entry: Any = conf.ARCHIVE
    if entry is None:
        return []
    if not isinstance(entry, Mapping) or "BACKEND" not in entry:
        found = "a dict without BACKEND" if isinstance(entry, Mapping) else kind(entry)
        message = f"OUTBOX_ARCHIVE must be None or a dict with BACKEND, not {found}."
        return [error("E041", message, _ARCHIVE_HINT)]
    if problems := list(unknown_keys("E041", "OUTBOX_ARCHIVE", entry, ENTRY_KEYS)):
        return problems
    try:
        create_archive()
    except Exception as reason:  # a class of somebody else's may raise anything
        text = masked(str(reason))
        message = text if text.startswith("OUTBOX_ARCHIVE") else f"OUTBOX_ARCHIVE: {text}"
        return [error("E041", f"{message.rstrip('.')}.", _archive_fix(entry))]
    return []


def _archive_fix(entry: Mapping[str, Any]) -> str:
    """Return the fix for what kept an archive from being made, by what of it is usable."""
    try:
        found = import_string(entry["BACKEND"])
    except Exception:  # whatever the module raises: it can't be used
        return _ARCHIVE_HINT
    if not (isinstance(found, type) and issubclass(found, Archive)):
        return _ARCHIVE_HINT
    if isabstract(found):
        return f"Define {', '.join(sorted(found.__abstractmethods__))} in {found.__name__}."
    options: Any = entry.get("OPTIONS", {})
    if not isinstance(options, Mapping):
        return "Write OUTBOX_ARCHIVE['OPTIONS'] = {}."
    known = {
        item.name
        for item in signature(found).parameters.values()
        if item.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    }
    fixes = [fix_of_key(key, known) for key in options if key not in known]
    fix = "; ".join(fixes) or "correct the option that the message names"
    listed = ", ".join(sorted(map(repr, known))) or "no options"
    return f"In OUTBOX_ARCHIVE['OPTIONS'], {fix}. {found.__name__} knows {listed}."


def check_what_is_archived(**_: Any) -> Messages:
    """Nothing passes by the archive unsaid: what is deleted as it is delivered is not archived."""
    if conf.ARCHIVE is None or check_retention() or check_backend_retentions():
        return []
    return [
        _not_archived(alias) for alias in entries() if not backends.retention(alias).keeps_published
    ]


def _not_archived(alias: str) -> CheckMessage:
    message = (
        f"OUTBOX_ARCHIVE is set, but events to {alias!r} are deleted as soon as they are "
        "published, because their retention is 0: they are not archived."
    )
    fix = (
        f"Write OUTBOX_PUBLISHERS[{alias!r}]['RETENTION'] = 60, and they are archived about a "
        "minute after they were published, or silence this check if they need no archive."
    )
    return warning("W010", message, fix)


def check_archive_of_partitions(**_: Any) -> Messages:
    """Nothing is archived of a partition that is dropped, so only one of the two can be had."""
    if conf.ARCHIVE is None or conf.TIME_PARTITIONS is None:
        return []
    message = (
        "OUTBOX_ARCHIVE and OUTBOX_TIME_PARTITIONS are both set, but a partition is dropped as a "
        "whole, without an archive."
    )
    return [error("E044", message, "Write OUTBOX_ARCHIVE = None or OUTBOX_TIME_PARTITIONS = None.")]
