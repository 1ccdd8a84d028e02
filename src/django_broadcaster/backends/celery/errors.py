"""The meaning of errors of Celery, and of its broker's client, for an event."""

from __future__ import annotations

from typing import Final

from ..errors import ErrorTable, Scope, describe

ERRORS: Final = ErrorTable(
    {
        Scope.DESTINATION: {"MessageNacked", "NoPermissionError", "QueueNotFound"},
        Scope.EVENT: {"EncodeError"},
    },
    default=Scope.BROKER,
)
"""By the name of the error's class."""

HARMLESS: Final = frozenset({"EncodeError", "MessageNacked", "QueueNotFound"})
"""Errors after which the connection is as good as before."""


class CallRefused(Exception):
    """The broker did not take this call, and is there."""

    def __init__(self, scope: Scope, problem: str) -> None:
        super().__init__(problem)
        self.scope = scope


def judge(
    error: BaseException, *, is_channel_error: bool, has_options: bool = False
) -> tuple[Scope, str]:
    """Return what an error is about, and what happened; `has_options` is True for a project's call.

    An error of the wrong options of one call must not stop all others.
    """
    name, text = type(error).__name__, describe(error)
    if name == "EncodeError":
        text = f"the task's arguments can't be encoded: {error}"
    elif name == "MessageNacked":
        text = "a queue is full, or failed, and did not take it"
    scope = ERRORS.scope(name)
    is_of_options = isinstance(error, LookupError | TypeError | ValueError)
    if has_options and (is_of_options or name == "SerializerNotInstalled"):
        return Scope.EVENT, text
    if scope is Scope.BROKER and is_channel_error:
        scope = Scope.EVENT if "size" in text and "larger" in text else Scope.DESTINATION
    elif scope is Scope.BROKER and "WRONGTYPE" in text:
        scope = Scope.DESTINATION
    return scope, text
