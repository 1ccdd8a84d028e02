"""The catalogue for people: each event with its fields, its channels and its handlers.

The admin's page and the directive for Sphinx show the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .changes import OF_MODEL
from .errors import CatalogueError
from .fields import Field, fields_of
from .schema_types import target


@dataclass(slots=True)
class ListedEvent:
    """A declared event.

    Args:
        type: The event type.
        description: The docstring of the class; empty if it has none.
        version: The version of the data.
        upcasters: The older versions that the class reads as well.
        class_path: The dotted path of the class or the model.
        is_of_model: Whether a model publishes it, without a class.
        source: The source that the class declares.
        fields: The fields of the data.
        sent: The channels to which it is sent, such as `Backend default: topic orders`.
        received: The channels from which it is received.
        handlers: The names of its handlers.
    """

    type: str
    description: str
    version: int
    upcasters: list[int]
    class_path: str
    is_of_model: bool
    source: str
    fields: list[Field]
    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, list[str]]:
        """The names of what is known about the event, each with its values."""
        found = {
            "Version": [str(self.version)],
            "Older versions": [str(each) for each in self.upcasters],
            "Model" if self.is_of_model else "Class": [self.class_path],
            "Source": [self.source],
            "Sent to": self.sent,
            "Received from": self.received,
            "Handlers": self.handlers,
        }
        return {name: values for name, values in found.items() if values}

    @property
    def field_table(self) -> list[list[str]]:
        """The rows of a table of the fields, of which the first one has the names of columns.

        Columns that are empty are left out; empty if the event has no fields.
        """
        rows = [each.cells() for each in self.fields]
        columns = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
        return [columns, *([row[name] for name in columns] for row in rows)] if rows else []


def listed_events(document: Mapping[str, Any]) -> list[ListedEvent]:
    """Return the declared events of an AsyncAPI document, by type.

    Raises:
        CatalogueError: A part of the document is missing, or is not as the command writes it.
    """
    found = {
        event_type: ListedEvent(
            type=event_type,
            description=each["description"],
            version=each["version"],
            upcasters=each["upcasters"],
            class_path=each["class"],
            is_of_model=each.get(OF_MODEL, False),
            source=each["source"],
            fields=fields_of(each["schema"], document),
        )
        for event_type, each in sorted(document["x-events"].items())
    }
    try:
        _add_channels(found, document)
    except (AttributeError, KeyError, TypeError) as error:
        raise CatalogueError(
            "operations and channels must be those of outbox_catalogue; write the catalogue again "
            "with --output"
        ) from error
    return list(found.values())


Part = Mapping[str, Any]


def _add_channels(events: Mapping[str, ListedEvent], document: Part) -> None:
    """Add to the events where they are sent and received, and their handlers."""
    for operation, channel, message in _messages(document):
        listed = events.get(message["name"])
        if listed is None:
            continue
        place = operation["summary"]
        if channel["address"] is not None:
            place = f"{place}: {channel['address']}"
        (listed.sent if operation["action"] == "send" else listed.received).append(place)
        for name in operation.get("x-handlers", {}).get(listed.type, ()):
            if name not in listed.handlers:
                listed.handlers.append(name)


def _messages(document: Part) -> Iterator[tuple[Part, Part, Part]]:
    """Yield each message of each operation, with the operation and its channel."""
    for operation in document["operations"].values():
        channel = target(operation["channel"]["$ref"], document)
        for reference in operation["messages"]:
            within = target(reference["$ref"], document)
            yield operation, channel, target(within["$ref"], document)
