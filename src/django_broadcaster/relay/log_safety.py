"""What of an error the log may tell: no payload. Secrets are masked in all of it, elsewhere.

The text of an error that an event met may echo the event: a handler's, a database's, a broker's
answer. It is kept where the payload is, in the outbox (`last_error` and the failed attempts), for
those who may read that. The log gets the kind of the error, and where it was raised.
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
    """Stands in a traceback for an error whose text may hold the payload."""


def loggable(error: BaseException) -> str:
    """Return what the log may say about an error that no event is to blame for, in one line.

    A database's goes over several lines, and PostgreSQL shows the row that it is about behind
    DETAIL. Of an error that nobody foresaw only the kind is known to be harmless. An archive that
    fails has a file or a network to tell of, or it may quote the events that it was given.
    """
    if isinstance(error, ArchiveError) and not isinstance(error.__cause__, OSError):
        return class_names(error)
    ours = isinstance(error, BroadcasterError) and not isinstance(error, DeliveryError)
    if not ours and not isinstance(error, Error | OSError):
        return class_names(error)
    text = " ".join(_DETAIL.sub("", str(error)).split())
    return f"{text} ({MIGRATE})" if lacks_migration(error) else text


def loggable_event_error(error: BaseException) -> str:
    """Return what the log may say about an error that an event met: its kind, mostly.

    Only what the relay itself says of a key that is missing has its text: any other class may be
    raised by a backend or a handler, with the event in its words.
    """
    return (
        f"{class_names(error)} ({error})"
        if isinstance(error, NotDecryptable)
        else class_names(error)
    )


def class_names(error: BaseException) -> str:
    """Return the class of an error, and of the one that it was raised from."""
    cause = error.__cause__
    name = type(error).__name__
    return f"{name} from {type(cause).__name__}" if cause is not None else name


def loggable_traceback(error: BaseException) -> ExcInfo:
    """Return the traceback of an error for `exc_info`, with its kind in place of its text."""
    hint = "its text may hold the payload; outbox_inspect shows what an event met"
    stand_in = TextWithheld(f"{class_names(error)} ({hint})")
    return TextWithheld, stand_in, error.__traceback__


def explains_itself(error: BaseException) -> bool:
    """Tell whether an error says by itself what is wrong, without a traceback.

    The database is away, or refused a statement; or a setting or a package is to be put right.

    By Django's common base: InterfaceError, which some drivers raise for a connection that has
    gone, is no DatabaseError.
    """
    return isinstance(error, Error | BackendConfigurationError)
