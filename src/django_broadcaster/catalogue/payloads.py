"""How a backend sends an event: read from samples that the backend itself writes.

`MessageBackend.show` returns the destination, the headers and the body of a message. Two samples
differ in each attribute that publish calls choose. A value that both have is the same for all
events of the type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django_broadcaster.backends.base import NOT_SHOWN, Message, MessageBackend, Shown
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Rejected

from .declared import DeclaredEvent
from .schema_types import type_of

FIELDS: Final = ("id", "source", "subject", "key")
"""The attributes of an event that may be in the name of a destination, but for its type."""

_NOT_IN_CATALOGUE: Final = frozenset(("endpoint",))
"""A webhook's host, and the digest of its URL, which would confirm a guess of a secret in it."""

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"

_CONTENT_TYPES: Final = ("content-type", "content_type")
_DATA: Final = {"EVENTDATA": True}
_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Payload:
    """How events of a type are sent.

    Args:
        destination: The names at the broker, such as `topic`. A part that depends on the event is
            in braces: `orders.{key}`.
        content_type: The media type of the body.
        headers: The JSON Schema of the headers; None if there are none.
        body: The JSON Schema of the body; None if there is none, or if it is not JSON.
        encoding: The members of an AsyncAPI message for a body that is encoded by a schema.
    """

    destination: Mapping[str, Any]
    content_type: str
    headers: Mapping[str, Any] | None
    body: Mapping[str, Any] | None
    encoding: Mapping[str, Any]


def payload_of(declared: DeclaredEvent, backend: MessageBackend, data: Schema) -> Payload:
    """Return how a backend sends the events of a class.

    Args:
        declared: The declared event.
        backend: The backend, which need not be open.
        data: The JSON Schema of the data, or a reference to it.
    """
    has_key, has_subject = declared.has_key, declared.has_subject
    one = _sample(declared, backend, "ONE", has_key=has_key, has_subject=has_subject)
    two = _sample(declared, backend, "TWO", has_key=has_key, has_subject=has_subject)
    least = _sample(declared, backend, "ONE", has_key=False, has_subject=False)
    types = [one.headers[name] for name in _CONTENT_TYPES if name in one.headers]
    headers = [_without_content_type(each.headers) for each in (one, two, least)]
    bodies = [each.body for each in (one, two, least) if each.body is not None]
    values = _json_values(bodies)
    has_schema = len(values) == 3 and one.encoding is None
    return Payload(
        destination=_destination(one.destination, two.destination),
        content_type=types[0] if types else JSON if len(values) == len(bodies) else BINARY,
        headers=_schema(headers[0], headers[1], headers[2], data) if headers[0] else None,
        body=_schema(values[0], values[1], values[2], data) if has_schema else None,
        encoding=one.encoding or {},
    )


Schema = Mapping[str, Any]


def _json_values(bodies: list[bytes]) -> list[Any]:
    """Return the values of bodies; empty if one is not JSON, as of a third-party backend."""
    try:
        return [json.loads(each) for each in bodies]
    except ValueError:
        return []


def _sample(
    declared: DeclaredEvent,
    backend: MessageBackend,
    mark: str,
    *,
    has_key: bool,
    has_subject: bool,
) -> Shown:
    """Return a message in which each attribute of FIELDS is a word with a mark."""
    event = CloudEvent(
        declared.type,
        _word("source", mark),
        _DATA,
        subject=_word("subject", mark) if has_subject else "",
        id=_word("id", mark),
        time=_TIME if mark == "ONE" else _TIME.replace(year=2001),
        data_schema=declared.data_schema,
        extensions=declared.extensions,
    )
    message = Message.of(event, partition_key=_word("key", mark) if has_key else None)
    try:
        return backend.show(message)
    except Rejected:  # each event has to name its destination
        return MessageBackend.show(backend, message)


def _word(field: str, mark: str) -> str:
    """Return a word that every broker's escaping leaves as it is."""
    return f"SAMPLE{field.upper()}{mark}"


def _destination(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Return the destination with the fields of the event in braces; leave out digests of them."""
    found = {}
    for name, value in one.items():
        if name in _NOT_IN_CATALOGUE:
            continue
        template = _template(value, "ONE")
        if value is not None and template == _template(two.get(name), "TWO"):
            found[name] = template
    return found


def _template(value: Any, mark: str) -> Any:
    if isinstance(value, str):
        for field in FIELDS:
            value = value.replace(_word(field, mark), f"{{{field}}}")
    return value


def _without_content_type(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _CONTENT_TYPES}


def _schema(one: Any, two: Any, least: Any, data: Schema) -> dict[str, Any]:
    """Return the JSON Schema of three samples, of which the last has no optional attributes."""
    if one == _DATA:
        return dict(data)
    samples = (one, two, least)
    if all(isinstance(each, dict) for each in samples):
        return {
            "type": "object",
            "required": [name for name in one if name in two and name in least],
            "properties": {
                name: _schema(value, two[name], least.get(name, value), data)
                for name, value in one.items()
                if name in two
            },
        }
    if all(isinstance(each, list) and len(each) == len(one) for each in samples):
        items = [_schema(*each, data) for each in zip(one, two, least, strict=True)]
        return {"type": "array", "minItems": len(items), "maxItems": len(items), "items": items}
    if one == two == least and one != NOT_SHOWN:
        return {"const": one}
    types = {type_of(each) for each in samples}
    return {"type": types.pop()} if len(types) == 1 else {}
