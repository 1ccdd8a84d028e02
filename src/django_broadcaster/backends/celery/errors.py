"""What an error of Celery, or of its broker's client, means for an event."""

from __future__ import annotations

from typing import Final

from ..errors import Blame, ErrorTable, describe

ERRORS: Final = ErrorTable(
    {
        Blame.DESTINATION: {"MessageNacked", "NoPermissionError", "QueueNotFound"},
        Blame.EVENT: {"EncodeError"},
    },
    default=Blame.BROKER,
)
"""By the name of the error's class."""

HARMLESS: Final = frozenset({"EncodeError", "MessageNacked", "QueueNotFound"})
"""Errors after which the connection is as good as before."""


class CallRefused(Exception):
    """The broker did not take this call, and is there."""

    def __init__(self, blame: Blame, problem: str) -> None:
        super().__init__(problem)
        self.blame = blame


def judge(error: BaseException, *, is_channel_error: bool) -> tuple[Blame, str]:
    """Return what is to blame for an error, and what happened."""
    name, text = type(error).__name__, describe(error)
    if name == "EncodeError":
        text = f"the task's arguments can't be encoded: {error}"
    elif name == "MessageNacked":
        text = "a queue is full, or failed, and did not take it"
    blame = ERRORS.blame(name)
    if blame is Blame.BROKER and is_channel_error:
        blame = Blame.EVENT if "size" in text and "larger" in text else Blame.DESTINATION
    elif blame is Blame.BROKER and "WRONGTYPE" in text:
        blame = Blame.DESTINATION
    return blame, text
