"""Checks of retention, the archive and time partitions."""

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
from ..check_messages import Messages, entries, error, fix_of_key, kind, unknown_keys, warning
from ..conf import conf
from ..redaction import masked
from ..retention import STATUSES
from ..setting_rules import LONGEST, seconds

_ARCHIVE_HINT = (
    "Set OUTBOX_ARCHIVE = {'BACKEND': 'django_broadcaster.archives.FileArchive', "
    "'OPTIONS': {'directory': '/var/lib/mysite/outbox'}}, or "
    "{'BACKEND': 'django_broadcaster.archives.TableArchive'}, or None to delete old events."
)


def check_retention(**_: Any) -> Messages:
    """Check that OUTBOX_RETENTION is a duration, 0, None, or a dict of these by status."""
    value: Any = getattr(settings, "OUTBOX_RETENTION", None)
    if former.is_retention(value):  # `checks.former` judges it
        return []
    return list(_retention_problems("E016", "OUTBOX_RETENTION", value))


def check_backend_retentions(**_: Any) -> Messages:
    """Check that RETENTION of each backend is a duration, 0, None, or a dict by status."""
    return [
        problem
        for alias, entry in entries().items()
        if "RETENTION" in entry
        for problem in _retention_problems(
            "E032", f"OUTBOX_PUBLISHERS[{alias!r}]['RETENTION']", entry["RETENTION"]
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
        f"{where} must be a timedelta or a number of seconds, from 0 to 100 years, or None, "
        f"not {shortened(value)}."
    )
    yield error(number, message, f"Set {where} = timedelta(days=7).")


def check_archive(**_: Any) -> Messages:
    """Check that OUTBOX_ARCHIVE is None or makes an archive; open nothing."""
    entry: Any = conf.ARCHIVE
    if entry is None:
        return []
    if not isinstance(entry, Mapping) or "BACKEND" not in entry:
        found = "a dict without BACKEND" if isinstance(entry, Mapping) else kind(entry)
        message = f"OUTBOX_ARCHIVE must be None or a dict with BACKEND, not {found}."
        return [error("E033", message, _ARCHIVE_HINT)]
    if problems := list(unknown_keys("E033", "OUTBOX_ARCHIVE", entry, ENTRY_KEYS)):
        return problems
    try:
        create_archive()
    except Exception as reason:  # a custom class may raise any exception
        text = masked(str(reason))
        message = text if text.startswith("OUTBOX_ARCHIVE") else f"OUTBOX_ARCHIVE: {text}"
        return [error("E033", f"{message.rstrip('.')}.", _archive_fix(entry))]
    return []


def _archive_fix(entry: Mapping[str, Any]) -> str:
    """Return the fix for an archive that could not be created."""
    try:
        found = import_string(entry["BACKEND"])
    except Exception:  # its module may raise any exception
        return _ARCHIVE_HINT
    if not (isinstance(found, type) and issubclass(found, Archive)):
        return _ARCHIVE_HINT
    if isabstract(found):
        return f"Define {', '.join(sorted(found.__abstractmethods__))} in {found.__name__}."
    options: Any = entry.get("OPTIONS", {})
    if not isinstance(options, Mapping):
        return "Set OUTBOX_ARCHIVE['OPTIONS'] = {}."
    known = {
        item.name
        for item in signature(found).parameters.values()
        if item.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    }
    fixes = [fix_of_key(key, known) for key in options if key not in known]
    fix = "; ".join(fixes) or "correct the option named in the message"
    listed = ", ".join(sorted(map(repr, known))) or "no options"
    return f"In OUTBOX_ARCHIVE['OPTIONS'], {fix}. {found.__name__} accepts {listed}."


def check_what_is_archived(**_: Any) -> Messages:
    """Warn about backends whose events are deleted at once, without being archived."""
    if conf.ARCHIVE is None or check_retention() or check_backend_retentions():
        return []
    return [
        _not_archived(alias) for alias in entries() if not backends.retention(alias).keeps_published
    ]


def _not_archived(alias: str) -> CheckMessage:
    message = (
        f"OUTBOX_ARCHIVE is set, but events of backend {alias!r} are not archived: their "
        "retention is 0, so they are deleted as soon as they are published."
    )
    fix = (
        f"Set OUTBOX_PUBLISHERS[{alias!r}]['RETENTION'] = 60 to archive them about a minute after "
        "they were published. If they need no archive, silence this check."
    )
    return warning("W005", message, fix)


def check_archive_of_partitions(**_: Any) -> Messages:
    """Check that only one of OUTBOX_ARCHIVE and OUTBOX_TIME_PARTITIONS is set."""
    if conf.ARCHIVE is None or conf.TIME_PARTITIONS is None:
        return []
    message = (
        "OUTBOX_ARCHIVE and OUTBOX_TIME_PARTITIONS must not both be set: a partition is dropped as "
        "a whole, without an archive."
    )
    return [error("E036", message, "Set OUTBOX_ARCHIVE = None or OUTBOX_TIME_PARTITIONS = None.")]
