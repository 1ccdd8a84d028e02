"""Checks of the settings of version 0.1: they still count, and each message names today's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from reprlib import repr as shortened
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage

from .. import former
from ..conf import conf
from .shared import Messages, error, info, kind, unknown_keys


def check_worker(**_: Any) -> Messages:
    """OUTBOX_WORKER is a dictionary of the items of version 0.1."""
    found = getattr(settings, former.WORKER, None)
    if found is None:
        return []
    if not isinstance(found, Mapping):
        fix = "Write OUTBOX_BATCH_SIZE and OUTBOX_POLL_INTERVAL instead of it."
        return [error("E027", f"OUTBOX_WORKER must be a dict, not {kind(found)}.", fix)]
    return list(_problems("E027", former.WORKER, found, former.WORKER_ITEMS))


def check_former_retention(**_: Any) -> Messages:
    """OUTBOX_RETENTION, where it is the dictionary of version 0.1, has its items alone."""
    found = getattr(settings, "OUTBOX_RETENTION", None)
    if not former.is_retention(found):
        return []
    return list(_problems("E028", "OUTBOX_RETENTION", found, former.RETENTION_ITEMS))


def _problems(
    number: str, where: str, found: Any, items: Mapping[str, former.Item]
) -> Iterator[CheckMessage]:
    yield from unknown_keys(number, where, found, items)
    for key, item in items.items():
        if key in found and not item.is_valid(found[key]):
            message = f"{where}[{key!r}] {item.rule}, not {shortened(found[key])}."
            yield error(number, message, f"Write {where}[{key!r}] = {item.example!r}.")


def check_form_of_worker(**_: Any) -> Messages:
    """What OUTBOX_WORKER says has a setting of its own today, which goes before it."""
    found = getattr(settings, former.WORKER, None)
    if not isinstance(found, Mapping) or check_worker():
        return []
    items = [former.WORKER_ITEMS[key] for key in former.WORKER_ITEMS if key in found]
    values = {item.setting: getattr(conf, item.setting.removeprefix("OUTBOX_")) for item in items}
    new = [
        f"{name} = {_literal(value)}"
        for name, value in values.items()
        if not hasattr(settings, name) and value != {}  # which is the default of OUTBOX_RETRY
    ]
    fix = f"Write {', '.join(new)} instead of it." if new else "Remove it."
    return [info("I001", "OUTBOX_WORKER is a setting of version 0.1.", fix)]


def check_form_of_retention(**_: Any) -> Messages:
    """OUTBOX_RETENTION has keys by status today."""
    found = getattr(settings, "OUTBOX_RETENTION", None)
    if not former.is_retention(found) or check_former_retention():
        return []
    spans: Any = conf.RETENTION
    form = ", ".join(f"{status!r}: {_literal(span)}" for status, span in spans.items())
    message = "OUTBOX_RETENTION is written as in version 0.1."
    return [info("I002", message, f"Write OUTBOX_RETENTION = {{{form}}}.")]


def _literal(value: object) -> str:
    if isinstance(value, timedelta):
        return f"timedelta(days={value / timedelta(days=1):g})"
    return repr(value)
