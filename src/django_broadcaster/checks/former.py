"""Checks of the settings of version 0.1, which still work; a message names the current form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage

from .. import former
from ..check_messages import Messages, error, info, kind, literal, unknown_keys
from ..conf import conf


def check_worker(**_: Any) -> Messages:
    """Check that OUTBOX_WORKER is a dictionary of the items of version 0.1."""
    found = getattr(settings, former.WORKER, None)
    if found is None:
        return []
    if not isinstance(found, Mapping):
        fix = "Set OUTBOX_BATCH_SIZE and OUTBOX_POLL_INTERVAL instead."
        return [error("E027", f"OUTBOX_WORKER must be a dict, not {kind(found)}.", fix)]
    return list(_problems("E027", former.WORKER, found, former.WORKER_ITEMS))


def check_former_retention(**_: Any) -> Messages:
    """Check that OUTBOX_RETENTION in the form of version 0.1 has only the items of that form."""
    found = getattr(settings, "OUTBOX_RETENTION", None)
    if not former.is_retention(found):
        return []
    return list(_problems("E028", "OUTBOX_RETENTION", found, former.RETENTION_ITEMS))


def _problems(
    number: str, where: str, found: Any, items: Mapping[str, former.Item]
) -> Iterator[CheckMessage]:
    yield from unknown_keys(number, where, found, items)
    for key, item in items.items():
        if key in found and not item.rule.accepts(found[key]):
            message = f"{where}[{key!r}] must be {item.rule.wanted}, not {shortened(found[key])}."
            yield error(number, message, f"Set {where}[{key!r}] = {item.example!r}.")


def check_form_of_worker(**_: Any) -> Messages:
    """Report the use of OUTBOX_WORKER, and name the settings that replace its items."""
    found = getattr(settings, former.WORKER, None)
    if not isinstance(found, Mapping) or check_worker():
        return []
    items = [former.WORKER_ITEMS[key] for key in former.WORKER_ITEMS if key in found]
    values = {item.setting: getattr(conf, item.setting.removeprefix("OUTBOX_")) for item in items}
    new = [
        f"{name} = {literal(value)}"
        for name, value in values.items()
        if not hasattr(settings, name) and value != {}  # which is the default of OUTBOX_RETRY
    ]
    fix = f"Set {', '.join(new)} instead." if new else "Remove it."
    return [info("I001", "OUTBOX_WORKER is a setting of version 0.1.", fix)]


def check_form_of_retention(**_: Any) -> Messages:
    """Report the form of OUTBOX_RETENTION of version 0.1."""
    found = getattr(settings, "OUTBOX_RETENTION", None)
    if not former.is_retention(found) or check_former_retention():
        return []
    spans: Any = conf.RETENTION
    form = ", ".join(f"{status!r}: {literal(span)}" for status, span in spans.items())
    message = "OUTBOX_RETENTION has the form of version 0.1."
    return [info("I002", message, f"Set OUTBOX_RETENTION = {{{form}}}.")]
