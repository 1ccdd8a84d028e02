"""The catalogue: all declared events with their schemas, and where they are sent and received.

- `declared` lists the events: those of classes, and event types that models publish.
- `schemas` makes the JSON Schema of each event.
- `names` makes the names of components and files, and finds those that are the same.
- `payloads` reads from a backend how an event is sent: its headers, its body and its destination.
- `document` makes one AsyncAPI document of events, backends, consumers and handlers.
- `listing` has the same for people: a list of the events.
- `changes` compares two such documents, and finds what breaks consumers.
- `source_lines` finds the line of a class that made such a change.
"""

from .changes import Change, breaking_changes, upgraded_events
from .document import DOCUMENT, asyncapi_document, load_events, read_document
from .errors import CatalogueError
from .listing import ListedEvent, listed_events
from .schemas import is_schema_of_catalogue, schema_files
from .source_lines import place_of_change

__all__ = [
    "DOCUMENT",
    "CatalogueError",
    "Change",
    "ListedEvent",
    "asyncapi_document",
    "breaking_changes",
    "is_schema_of_catalogue",
    "listed_events",
    "load_events",
    "place_of_change",
    "read_document",
    "schema_files",
    "upgraded_events",
]
