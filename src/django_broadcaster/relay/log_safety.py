"""The part of an error that may be logged: nothing of a payload. Secrets are masked elsewhere.

The text of an event's error may repeat the event: it comes from a handler, a database or a broker.
It is stored with the payload, in the outbox (`last_error` and the failed attempts), for those who
may read that. The log has a broker's status, or the class of the error and where it was raised.
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import TracebackType

from django.db import Error

from django_broadcaster.error_places import from_project, place_of
from django_broadcaster.exceptions import (
    ArchiveError,
    BackendConfigurationError,
    BroadcasterError,
    DeliveryError,
)
from django_broadcaster.store import MIGRATE, lacks_migration

from .decryption import NotDecryptable

_DETAIL = re.compile(r"\n\s*(DETAIL|CONTEXT|STATEMENT):.*", re.DOTALL)

WITHHELD = "text withheld, as it may contain the payload; outbox_inspect shows an event's errors"

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


def loggable_event_error(error: DeliveryError) -> str:
    """Return what may be logged of the error of an event: the reason, in a few words.

    That is the status or code of a broker, or for each handler that failed its name, the class of
    what it raised, and where. Any other error may have the event in its text, so that only its
    class and its place are logged. The relay's own error about a missing key has its text.
    """
    if isinstance(error, NotDecryptable):
        return f"{class_names(error)} ({error})"
    if error.handlers:
        return "; ".join(f"handler {name}: {_class_and_place(e)}" for name, e in error.handlers)
    if error.reason:
        return error.reason
    if error.unforeseen is not None:
        return _class_and_place(error.unforeseen)
    return class_names(error)


def _class_and_place(error: BaseException) -> str:
    name, reason = class_names(error), getattr(error, "reason", "")
    if reason and isinstance(error, DeliveryError):
        return f"{name} ({reason})"
    place = place_of(error)
    return f"{name} at {place}" if place else name


def class_names(error: BaseException) -> str:
    """Return the name of an error's class, and of the error that it was raised from."""
    cause = error.__cause__
    name = type(error).__name__
    return f"{name} from {type(cause).__name__}" if cause is not None else name


def loggable_traceback(error: BaseException, *, shows: bool = True) -> ExcInfo:
    """Return an error for `exc_info`: its class and traceback, without its text.

    The traceback begins with the project's own code, if that raised it. With `shows=False` there is
    none.
    """
    kind = type(error)
    reason = error.reason if isinstance(error, DeliveryError) else ""
    stand_in = _stand_in(kind.__module__, kind.__qualname__)(reason or WITHHELD)
    return kind, stand_in, from_project(error.__traceback__) if shows else None


@lru_cache(maxsize=256)
def _stand_in(module: str, name: str) -> type[TextWithheld]:
    """Return a class with the name of another: formatters print that, and no code of it runs."""
    names = {"__module__": module, "__qualname__": name}
    return type(name.rpartition(".")[2], (TextWithheld,), names)


def explains_itself(error: BaseException) -> bool:
    """Return True if an error needs no traceback: it is about the database or a setting.

    This goes by Django's common base: InterfaceError, which some drivers raise for a connection
    that was closed, is not a DatabaseError.
    """
    return isinstance(error, Error | BackendConfigurationError)
