"""The result of a request, and its meaning for the event."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from django_broadcaster.exceptions import DeliveryError, TransientError

from ..errors import ErrorTable, Scope, client_module
from .addresses import AddressRefused

CLIENT: Final = ("aiohttp", "webhook")
"""The client library, and the extra that it comes with."""

_EMPTY_HANDED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Kind(Enum):
    """The cause of an answer: the event, the endpoint, or our own machine.

    Only a 2xx is `DELIVERED`. `REFUSED` and `FAILED` are about this event. `DOUBTFUL` may be the
    event's fault or the endpoint's: what the endpoint says to others decides. `MISPLACED`,
    `FORBIDDEN`, `GONE` and `AWAY` are about the endpoint. `UNSENT` was not even tried, and `LOCAL`
    is a failure of our own machine.
    """

    DELIVERED = auto()
    REFUSED = auto()
    FAILED = auto()
    DOUBTFUL = auto()
    MISPLACED = auto()
    FORBIDDEN = auto()
    GONE = auto()
    AWAY = auto()
    UNSENT = auto()
    LOCAL = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a request; `retry_after` is in seconds.

    `error` is the event's error where it is known already, and `sent` is False where the answer is
    that to another event. `details` are stored with the error, and never logged. `reason` is the
    part of the text that may be logged: the text may name an address.
    """

    kind: Kind
    text: str = ""
    retry_after: float = 0.0
    cause: Exception | None = None
    error: DeliveryError | None = None
    sent: bool = True
    details: str = ""
    reason: str = ""


_KINDS: Final = {
    **dict.fromkeys((413, 422, 431), Kind.REFUSED),
    **dict.fromkeys((401, 403, 404, 405, 407), Kind.MISPLACED),
    410: Kind.GONE,
    **dict.fromkeys((429, 503), Kind.AWAY),
    **dict.fromkeys((502, 504), Kind.DOUBTFUL),
}

OK: Final = Answer(Kind.DELIVERED)


def answer_to(status: int, retry_after: str | None) -> Answer:
    """Return what a status and the header `Retry-After` mean."""
    if 200 <= status < 300:
        return OK
    default = Kind.MISPLACED if 300 <= status < 400 else Kind.FAILED
    kind = _KINDS.get(status, default)
    text = f"answered {status} {_phrase(status)}".rstrip()
    if kind is Kind.MISPLACED and status < 400:
        text += ", and redirects are not followed"
    return Answer(kind, text, seconds_of(retry_after), reason=text)


def seconds_of(retry_after: str | None) -> float:
    """Return the seconds of a `Retry-After` header, which may be a date; 0 for anything else.

    https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
        left = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)
        return max(0.0, left.total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _phrase(status: int) -> str:
    # Not the endpoint's own words: they may be anything, our headers among it.
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


ERRORS: Final = ErrorTable({
    Scope.EVENT: {Kind.REFUSED},
    Scope.ATTEMPT: {Kind.FAILED, Kind.DOUBTFUL, Kind.UNSENT},
    Scope.DESTINATION: {Kind.MISPLACED, Kind.AWAY},
    Scope.INVALID_DESTINATION: {Kind.FORBIDDEN, Kind.GONE},
    Scope.BROKER: {Kind.LOCAL},
})  # fmt: skip

_PUTS_OFF: Final = frozenset({Kind.AWAY, Kind.UNSENT})
"""Kinds for which an event waits, and spends no retry."""


def error_of(answer: Answer, place: str, *, many: bool) -> DeliveryError:
    """Return the error of an event that was not delivered; `many` says that there are others."""
    if answer.error is not None:
        return answer.error
    error = ERRORS.scope(answer.kind).error(
        f"webhook to {place}: {answer.text}",
        shared=not many,
        cause=answer.cause,
        retry_after=answer.retry_after,
        reason=answer.reason,
    )
    error.sent = answer.sent
    if answer.sent:  # else they are those of another event
        error.details = answer.details
    if isinstance(error, TransientError):
        error.spends_retry = answer.kind not in _PUTS_OFF
    return error


def answer_about(error: Exception) -> Answer:
    """Return what an error of aiohttp means.

    Some of its errors have the URL and our headers in their text, which is not used then.
    """
    aiohttp = client_module(CLIENT)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _answer_about_connecting(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _plain(Kind.AWAY, "no connection in time", error)
    if isinstance(error, TimeoutError):
        return _plain(Kind.DOUBTFUL, "no answer in time", error)
    if isinstance(error, aiohttp.InvalidURL):
        return Answer(Kind.FORBIDDEN, "the URL has no usable host")
    if isinstance(error, aiohttp.ClientConnectionError):
        return _plain(Kind.DOUBTFUL, "the connection was cut before the answer", error)
    if isinstance(error, aiohttp.ClientError):
        return _plain(Kind.DOUBTFUL, "the answer is not HTTP")
    raise error


def _plain(kind: Kind, text: str, cause: Exception | None = None) -> Answer:
    """Return an answer with a text that may be logged."""
    return Answer(kind, text, cause=cause, reason=text)


def _answer_about_connecting(error: Any) -> Answer:
    reason = error.os_error
    if isinstance(reason, AddressRefused):
        return Answer(Kind.FORBIDDEN, str(reason), cause=reason)
    if reason.errno in _EMPTY_HANDED:
        return _plain(Kind.LOCAL, f"no connection: {reason.strerror}", error)
    text = f"no connection: {reason}"
    name = errno.errorcode.get(reason.errno or 0, type(reason).__name__)
    return Answer(Kind.AWAY, text, cause=error, reason=f"no connection: {name}")
