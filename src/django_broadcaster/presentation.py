"""Events for display: decrypted, then redacted by OUTBOX_REDACTOR."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from .conf import conf
from .events import CloudEvent
from .exceptions import CannotUnseal, InvalidEvent
from .models import OutboxEvent


def presented(row: OutboxEvent) -> CloudEvent | str:
    """Return the event to show, or the reason why it can't be shown."""
    try:
        event = row.cloud_event
    except CannotUnseal as error:
        return f"The payload can't be shown: {error}"
    except InvalidEvent as error:  # the row was written without the publishers API
        # The error's text may quote data that the redactor has not processed.
        return f"This row is not a valid event: {error if conf.REDACTOR is None else error.field}"
    return redacted(event)


def redacted(event: CloudEvent) -> CloudEvent | str:
    """Return what OUTBOX_REDACTOR shows of an event; if it fails, the reason without any data."""
    if conf.REDACTOR is None:
        return event
    try:
        redactor: Any = import_string(conf.REDACTOR)
        shown = redactor(event)
        if isinstance(shown, CloudEvent):
            shown.to_json()  # the page shows JSON, so this must not raise
    except Exception as error:  # the error's text may have the payload
        return f"The event can't be shown: OUTBOX_REDACTOR failed with {type(error).__name__}."
    if not isinstance(shown, CloudEvent):
        return f"OUTBOX_REDACTOR must return a CloudEvent, not {type(shown).__name__}."
    return shown
