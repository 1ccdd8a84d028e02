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
    """The fields of an entry as text, which few events need: decoded when they are read."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        raw = self._raw.get(name.encode(errors="surrogateescape"))
        if raw is None:
            raise KeyError(name)
        return _text(raw)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.encode(errors="surrogateescape") in self._raw

    def __iter__(self) -> Iterator[str]:
        return map(_text, self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return repr(dict(self))


def message_of(entry: Entry, body_fields: Sequence[bytes]) -> ReceivedMessage:
    """Return the message of an entry: the first of these fields that it has is the body."""
    pairs = iter(entry.fields)
    raw = dict(zip(pairs, pairs, strict=True))
    body = b""
    for name in body_fields:
        if name in raw:
            body = raw.pop(name)
            break
    return ReceivedMessage(
        body=body,
        headers=Fields(raw),
        content_type=_text(raw.get(_CONTENT_TYPE, b"")),
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


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
