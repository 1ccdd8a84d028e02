"""The meaning of a broker's errors for events: a table for each broker, and one way to raise.

An `ErrorTable` has the `Scope` of each error code, which decides the error of an event. `mapped`
raises it around a call of a client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from importlib import import_module
from typing import Any, Generic, TypeVar

from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    MissingClient,
    Rejected,
    TransientError,
)

Code = TypeVar("Code")


class Scope(Enum):
    """The extent of an error: which events meet it.

    The first error is for a destination that all events of the backend share: they wait until it is
    repaired. The second one is for a destination that the event itself named: it must not stop the
    others.
    """

    BROKER = BackendUnavailable, BackendUnavailable
    DESTINATION = BackendUnavailable, TransientError
    INVALID_DESTINATION = BackendUnavailable, Rejected
    ATTEMPT = TransientError, TransientError
    EVENT = Rejected, Rejected

    def error(
        self,
        text: str,
        *,
        shared: bool = True,
        cause: BaseException | None = None,
        retry_after: float = 0.0,
        reason: str = "",
    ) -> DeliveryError:
        """Return the error of an event.

        Args:
            text: What happened.
            shared: Whether all events of the backend go to the destination of this one.
            cause: The error of the client.
            retry_after: Seconds to wait before the next attempt, as the broker asks.
            reason: The broker's code or status, which may be logged.
        """
        kind: type[DeliveryError] = self.value[0 if shared else 1]
        error = kind(text, retry_after=retry_after)
        error.__cause__ = cause
        error.reason = reason
        return error


class ErrorTable(Generic[Code]):
    """The scope of each error code of a broker; `default` for codes that are not there."""

    def __init__(
        self, codes: Mapping[Scope, Collection[Code]], *, default: Scope = Scope.ATTEMPT
    ) -> None:
        self._scopes = {code: scope for scope, each in codes.items() for code in each}
        self._default = default

    def scope(self, code: Code) -> Scope:
        """Return what an error with that code is about."""
        return self._scopes.get(code, self._default)


@contextmanager
def mapped(meaning: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise what an error of the client means in place of it, with the error as its cause.

    A DeliveryError or BackendConfigurationError passes as it is.
    """
    try:
        yield
    except (DeliveryError, BackendConfigurationError):
        raise
    except Exception as error:
        raise meaning(error) from error


def unavailable(text: str, cause: BaseException | None = None) -> BackendUnavailable:
    """Return the error for a broker that is away or refuses everyone."""
    error = BackendUnavailable(text)
    error.__cause__ = cause
    return error


def describe(error: BaseException) -> str:
    """Return the type of an error and its text, in the broker's own words if it sent any."""
    text = getattr(error, "reply_text", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def client_module(client: tuple[str, str], *modules: str) -> Any:
    """Return the last of the client's modules, after importing all; raises MissingClient.

    Args:
        client: The client library, and the extra of django-broadcaster that it comes with.
        modules: Their names; by default that of the library alone.
    """
    try:
        found = [import_module(module) for module in modules or client[:1]]
    except ImportError as error:
        raise MissingClient(*client) from error
    return found[-1]
