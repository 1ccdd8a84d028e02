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


def judge(error: BaseException, *, is_channel_error: bool) -> tuple[Scope, str]:
    """Return what an error is about, and what happened."""
    name, text = type(error).__name__, describe(error)
    if name == "EncodeError":
        text = f"the task's arguments can't be encoded: {error}"
    elif name == "MessageNacked":
        text = "a queue is full, or failed, and did not take it"
    scope = ERRORS.scope(name)
    if scope is Scope.BROKER and is_channel_error:
        scope = Scope.EVENT if "size" in text and "larger" in text else Scope.DESTINATION
    elif scope is Scope.BROKER and "WRONGTYPE" in text:
        scope = Scope.DESTINATION
    return scope, text
