"""The part of an error that may be logged: nothing of a payload. Secrets are masked elsewhere.

The text of an event's error may repeat the event: it comes from a handler, a database or a broker.
It is stored with the payload, in the outbox (`last_error` and the failed attempts), for those who
may read that. The log has the class of the error, and where it was raised.
"""

from __future__ import annotations

import re
from types import TracebackType

from django.db import Error

from django_broadcaster.exceptions import (
    ArchiveError,
    BackendConfigurationError,
    BroadcasterError,
    DeliveryError,
)
from django_broadcaster.store import MIGRATE, lacks_migration

from .decryption import NotDecryptable

_DETAIL = re.compile(r"\n\s*(DETAIL|CONTEXT|STATEMENT):.*", re.DOTALL)

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class TextWithheld(Exception):
    """Replaces an error in a traceback, because its text may contain the payload."""


def loggable(error: BaseException) -> str:
    """Return what may be logged of an error that no event caused, in one line.

    A database's error has several lines, and PostgreSQL shows the row in question after DETAIL. Of
    an unexpected error only the class is known to be safe. The error of an archive may quote the
    events that it was given, unless it is about a file or a network.
    """
    if isinstance(error, ArchiveError) and not isinstance(error.__cause__, OSError):
        return class_names(error)
    ours = isinstance(error, BroadcasterError) and not isinstance(error, DeliveryError)
    if not ours and not isinstance(error, Error | OSError):
        return class_names(error)
    text = " ".join(_DETAIL.sub("", str(error)).split())
    return f"{text} ({MIGRATE})" if lacks_migration(error) else text


def loggable_event_error(error: BaseException) -> str:
    """Return what may be logged of the error of an event: its class, in nearly all cases.

    Only the relay's own error about a missing key has its text. Any other class may be raised by a
    backend or a handler, with the event in its text.
    """
    return (
        f"{class_names(error)} ({error})"
        if isinstance(error, NotDecryptable)
        else class_names(error)
    )


def class_names(error: BaseException) -> str:
    """Return the name of an error's class, and of the error that it was raised from."""
    cause = error.__cause__
    name = type(error).__name__
    return f"{name} from {type(cause).__name__}" if cause is not None else name


def loggable_traceback(error: BaseException) -> ExcInfo:
    """Return the traceback of an error for `exc_info`, with its class in place of its text."""
    hint = "text withheld, as it may contain the payload; outbox_inspect shows an event's errors"
    stand_in = TextWithheld(f"{class_names(error)} ({hint})")
    return TextWithheld, stand_in, error.__traceback__


def explains_itself(error: BaseException) -> bool:
    """Return True if an error needs no traceback: it is about the database or a setting.

    This goes by Django's common base: InterfaceError, which some drivers raise for a connection
    that was closed, is not a DatabaseError.
    """
    return isinstance(error, Error | BackendConfigurationError)
