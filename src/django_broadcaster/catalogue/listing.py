"""The catalogue for people: each event with its schema, its channels and its handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .schemas import json_schema_of_type


@dataclass(slots=True)
class ListedEvent:
    """A declared event.

    Args:
        type: The event type.
        version: The version of the data.
        class_path: The dotted path of the class.
        source: The source that the class declares.
        summary: The first line of the docstring.
        schema: The JSON Schema of the data, as text.
        sent: The channels to which it is sent, such as `Backend default: topic orders`.
        received: The channels from which it is received.
        handlers: The names of its handlers.
    """

    type: str
    version: int
    class_path: str
    source: str
    schema: str
    summary: str = ""
    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)


def listed_events(document: Mapping[str, Any]) -> list[ListedEvent]:
    """Return the declared events of an AsyncAPI document of this process, by type."""
    found = {
        event_type: ListedEvent(
            event_type,
            each["version"],
            each["class"],
            each["source"],
            json.dumps(json_schema_of_type(event_type), indent=2, ensure_ascii=False),
        )
        for event_type, each in document["x-events"].items()
    }
    for operation, channel, message in _messages(document):
        listed = found.get(message["name"])
        if listed is None:
            continue
        listed.summary = message.get("summary", listed.summary)
        place = operation["summary"]
        if channel["address"] is not None:
            place = f"{place}: {channel['address']}"
        (listed.sent if operation["action"] == "send" else listed.received).append(place)
        for name in operation.get("x-handlers", {}).get(listed.type, ()):
            if name not in listed.handlers:
                listed.handlers.append(name)
    return list(found.values())


Part = Mapping[str, Any]


def _messages(document: Mapping[str, Any]) -> Iterator[tuple[Part, Part, Part]]:
    """Yield each message of each operation, with the operation and its channel."""
    for operation in document["operations"].values():
        channel = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
        for reference in operation["messages"]:
            within = channel["messages"][reference["$ref"].rpartition("/")[2]]
            name = within["$ref"].rpartition("/")[2]
            yield operation, channel, document["components"]["messages"][name]
