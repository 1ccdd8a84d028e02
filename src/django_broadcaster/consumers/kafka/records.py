"""Records of the client as messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import methodcaller
from typing import Any, Final

from django_broadcaster.backends.kafka.schemas import ValueReader
from django_broadcaster.consumers.base import ReceivedMessage, problem_of
from django_broadcaster.events.grammar import is_json_type

JSON: Final = "application/json"

_headers_of: Final = methodcaller("headers")
"""Returns the headers of a record; raises SystemError if the name of one is not UTF-8.

For such a name the client returns a tuple with a hole, and leaves its exception set. The process
crashes when it unpacks the tuple. `methodcaller` checks for the exception; Python does not, once it
has specialised a plain call.
"""


class Tombstone(ReceivedMessage):
    """A record without a value: an event without data, or the deletion of a key."""


def message_of(record: Any) -> tuple[ReceivedMessage, str]:
    """Return a record as a message, and why its headers can't be read; empty if they can."""
    try:
        return _message(record, _headers_of(record) or ()), ""
    except SystemError as raised:
        cause = raised if raised.__cause__ is None else raised.__cause__
        return _message(record, ()), f"the headers can't be read: {problem_of(cause)}"


def is_encoded(message: ReceivedMessage) -> bool:
    """Return True for a value that is neither JSON nor a whole event: it needs a schema."""
    kind = message.content_type.strip().lower()
    is_readable = kind.startswith("application/cloudevents") or is_json_type(kind)
    return not (isinstance(message, Tombstone) or is_readable)


def as_json(message: ReceivedMessage, values: ValueReader) -> ReceivedMessage:
    """Return the message with its value as JSON.

    Raises:
        InvalidEvent: The value can't be decoded.
        BackendUnavailable: The registry is unavailable.
    """
    others = {name: text for name, text in message.headers.items() if name != "content-type"}
    return replace(
        message,
        body=values.as_json(message.body, message.headers.get("ce_type", "")),
        headers={**others, "content-type": JSON},
        content_type=JSON,
    )


def _message(record: Any, raw_headers: Iterable[tuple[str, bytes | None]]) -> ReceivedMessage:
    """Return a record of the client as a message."""
    value = record.value()
    kind = Tombstone if value is None else ReceivedMessage
    headers = {name: _text(raw) for name, raw in raw_headers}
    return kind(
        body=value or b"",
        headers=headers,
        content_type=headers.get("content-type", ""),
        key=_key(record.key()),
        origin=record.topic(),
        position=f"{record.partition()}/{record.offset()}",
    )


def _key(raw: bytes | None) -> str:
    """Return the key of a record; as hexadecimal digits if it is not text."""
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        return (raw or b"").hex()


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="surrogateescape")
