"""Records of the client as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import methodcaller
from typing import Any, Final

from django_broadcaster.backends.kafka.schemas import MAGIC, ValueReader
from django_broadcaster.consumers.base import ReceivedMessage, problem_of
from django_broadcaster.events.grammar import is_json_type

JSON: Final = "application/json"
CONTENT_TYPE: Final = "content-type"

_TYPE_HEADERS: Final = frozenset({CONTENT_TYPE, "ce_datacontenttype"})
_READABLE: Final = ("application/cloudevents", "text/")
"""The beginnings of media types that need no schema."""

_headers_of: Final = methodcaller("headers")
"""Returns the headers of a record; raises SystemError if the name of one is not UTF-8.

For such a name the client returns a tuple with a hole, and leaves its exception set. The process
crashes when it unpacks the tuple. `methodcaller` checks for the exception; Python does not, once it
has specialised a plain call.
"""


def message_of(record: Any) -> tuple[ReceivedMessage, str]:
    """Return a record as a message, and why its headers can't be read; empty if they can."""
    try:
        return _message(record, _headers_of(record) or ()), ""
    except SystemError as raised:
        cause = raised if raised.__cause__ is None else raised.__cause__
        return _message(record, ()), f"the headers can't be read: {problem_of(cause)}"


def is_encoded(message: ReceivedMessage) -> bool:
    """Return True for a value that is neither JSON, nor text, nor a whole event.

    Such a value needs a schema. Without a content type, one that begins as the wire format does.
    """
    kind = message.content_type.strip().lower()
    if not kind:
        return message.body[:1] == MAGIC
    return message.has_body and not (kind.startswith(_READABLE) or is_json_type(kind))


def as_json(message: ReceivedMessage, values: ValueReader) -> ReceivedMessage:
    """Return the message with its value as JSON.

    Raises:
        InvalidEvent: The value can't be decoded.
        BackendUnavailable: The registry is unavailable.
    """
    others = {
        name: text for name, text in message.headers.items() if name.lower() not in _TYPE_HEADERS
    }
    return replace(
        message,
        body=values.as_json(message.body, _header(message.headers, "ce_type")),
        headers={**others, "content-type": JSON},
        content_type=JSON,
    )


def _message(record: Any, raw_headers: Iterable[tuple[str, bytes | None]]) -> ReceivedMessage:
    """Return a record of the client as a message."""
    value = record.value()
    headers = {name: _text(raw) for name, raw in raw_headers}
    return ReceivedMessage(
        body=value or b"",
        headers=headers,
        content_type=_header(headers, CONTENT_TYPE),
        key=_key(record.key()),
        origin=record.topic(),
        position=f"{record.partition()}/{record.offset()}",
        has_body=value is not None,
    )


def _header(headers: Mapping[str, str], wanted: str) -> str:
    """Return a header whose name may have capitals; empty if it is missing."""
    for name, text in headers.items():
        if name.lower() == wanted:
            return text
    return ""


def _key(raw: bytes | None) -> str:
    """Return the key of a record; as hexadecimal digits if it is not text."""
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        return (raw or b"").hex()


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="surrogateescape")
