"""An event as people may see it: decrypted, and then as OUTBOX_REDACTOR leaves it."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from .conf import conf
from .events import CloudEvent
from .exceptions import CannotUnseal, InvalidEvent
from .models import OutboxEvent


def presented(row: OutboxEvent) -> CloudEvent | str:
    """Return the event to show, or why there is nothing to show."""
    try:
        event = row.cloud_event
    except CannotUnseal as error:
        return f"The payload can't be shown: {error}"
    except InvalidEvent as error:  # a row that was not written by the publishers API
        # Its text may quote what is wrong, and the redactor has not seen it.
        return f"This row is not a valid event: {error if conf.REDACTOR is None else error.field}"
    return event if conf.REDACTOR is None else _redacted(event)


def _redacted(event: CloudEvent) -> CloudEvent | str:
    """Return what the redactor makes of an event; a note, and nothing of the event, if it fails."""
    try:
        redactor: Any = import_string(conf.REDACTOR)  # type: ignore[arg-type]  # it is set
        shown = redactor(event)
        if isinstance(shown, CloudEvent):
            shown.to_json()  # what can't be written as JSON can't be shown either
    except Exception as error:  # its text may hold the payload
        return f"OUTBOX_REDACTOR failed with {type(error).__name__}, so nothing is shown."
    if not isinstance(shown, CloudEvent):
        return f"OUTBOX_REDACTOR returned {type(shown).__name__}, not a CloudEvent."
    return shown
