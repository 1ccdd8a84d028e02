"""What a request came to, and what that means for its event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)


class Kind(Enum):
    """Whom an answer is about.

    Only a 2xx is `DELIVERED`. `REFUSED` and `FAILED` are about this event. `DOUBTFUL` may be the
    event's fault or the endpoint's: what the endpoint says to others decides. `MISPLACED`,
    `FORBIDDEN`, `GONE` and `AWAY` are about the endpoint. `UNSENT` was not even tried, and `LOCAL`
    is our own machine's trouble.
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
    """What came back, or what went wrong; `retry_after` is in seconds.

    `error` is the event's error where it is known already, and `sent` is False where the answer is
    that to another event.
    """

    kind: Kind
    text: str = ""
    retry_after: float = 0.0
    cause: Exception | None = None
    error: DeliveryError | None = None
    sent: bool = True


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
    return Answer(kind, text, seconds_of(retry_after))


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


Make = Callable[[str, float], DeliveryError]


def _rejected(text: str, retry_after: float) -> DeliveryError:
    return Rejected(text)


def _unavailable(text: str, retry_after: float) -> DeliveryError:
    return BackendUnavailable(text, retry_after=retry_after)


def _transient(text: str, retry_after: float) -> DeliveryError:
    return TransientError(text, retry_after=retry_after)


def _put_off(text: str, retry_after: float) -> DeliveryError:
    return TransientError(text, retry_after=retry_after, spends_retry=False)


# For a backend whose one endpoint is all that there is, and for one whose events name theirs.
_ERRORS: Final[dict[Kind, tuple[Make, Make]]] = {
    Kind.REFUSED: (_rejected, _rejected),
    Kind.FAILED: (_transient, _transient),
    Kind.DOUBTFUL: (_transient, _transient),
    Kind.MISPLACED: (_unavailable, _transient),
    Kind.FORBIDDEN: (_unavailable, _rejected),
    Kind.GONE: (_unavailable, _rejected),
    Kind.AWAY: (_unavailable, _put_off),
    Kind.UNSENT: (_put_off, _put_off),
    Kind.LOCAL: (_unavailable, _unavailable),
}


def error_of(answer: Answer, place: str, *, many: bool) -> DeliveryError:
    """Return the error of an event that was not delivered; `many` says that there are others."""
    if answer.error is not None:
        return answer.error
    make = _ERRORS[answer.kind][many]
    error = make(f"webhook to {place}: {answer.text}", answer.retry_after)
    error.sent = answer.sent
    error.__cause__ = answer.cause
    return error
