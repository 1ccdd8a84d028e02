"""Entries of streams as messages, and the events in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from django_broadcaster.backends.bindings import REDIS
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent

from ..base import ReceivedMessage

STRUCTURED_FIELD: Final = "cloud_event"
BINARY_FIELD: Final = "data"

_VERSION: Final = f"{REDIS.prefix}specversion"
_CONTENT_TYPE: Final = b"content_type"
_EVENTS: Final = "application/cloudevents"


class Entry(NamedTuple):
    """An entry of a stream: its id, and names and values of its fields in turn."""

    stream: str
    id: bytes
    fields: Sequence[bytes]

    @property
    def place(self) -> tuple[int, int]:
        """The place of the entry in its stream."""
        return place_of(self.id)


def place_of(entry_id: bytes) -> tuple[int, int]:
    """Return the place of an entry in its stream."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


class Fields(Mapping[str, str]):
    """The fields of an entry but its body, as text.

    Few events need them, so they are decoded when they are read.
    """

    __slots__ = ("_body", "_flat", "_names")

    def __init__(self, flat: Sequence[bytes], names: Sequence[bytes], body: bytes | None) -> None:
        self._flat = flat
        self._names = names
        self._body = body

    def __getitem__(self, name: str) -> str:
        if name not in self:
            raise KeyError(name)
        return _text(self._flat[2 * self._names.index(_raw(name)) + 1])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (raw := _raw(name)) in self._names and raw != self._body

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(self._names)
        return (_text(name) for name in names if name != self._body)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def message_of(entry: Entry, body_fields: Sequence[bytes]) -> ReceivedMessage:
    """Return the message of an entry: the first of these fields that it has is the body."""
    flat = entry.fields
    names = flat[::2]
    body, body_field = b"", None
    for name in body_fields:
        if name in names:
            body, body_field = flat[2 * names.index(name) + 1], name
            break
    content_type = ""
    if len(names) > 1 and _CONTENT_TYPE in names:
        content_type = _text(flat[2 * names.index(_CONTENT_TYPE) + 1])
    return ReceivedMessage(
        body=body,
        headers=Fields(flat, names, body_field),
        content_type=content_type,
        origin=entry.stream,
        position=entry.id.decode(),
    )


def event_of(message: ReceivedMessage, body_field: str | None) -> CloudEvent:
    """Return the event of a message in either content mode; raises InvalidEvent."""
    headers = message.headers
    if _VERSION in headers or message.content_type[: len(_EVENTS)].lower() == _EVENTS:
        return CloudEvent.from_kafka(
            {**headers, "content-type": message.content_type}, message.body
        )
    if not message.body:
        names = [body_field] if body_field else [STRUCTURED_FIELD, BINARY_FIELD]
        wanted = " or ".join(map(repr, names))
        raise InvalidEvent("event", f"the entry has no field {wanted}, or an empty one")
    return CloudEvent.from_json(message.body)


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
