"""Decode the values of records for the consumer: the wire format becomes JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django_broadcaster.events.payload import encode_data
from django_broadcaster.exceptions import InvalidEvent

from ...options import OptionReader
from .formats import FORMATS
from .registry import OPTIONS, SchemaRegistry

MAGIC: Final = b"\0"
"""The first byte of the wire format."""

MOST_SECONDS: Final = 60.0
"""The longest timeout: while the registry is asked, Kafka does not hear of the receiver."""

_KEYS: Final = OPTIONS | {"format", "schemas"}


class ValueReader:
    """The option `schema_registry` of the consumer.

    Args:
        read: Reads the options of the consumer.
        options: The option.
    """

    def __init__(self, read: OptionReader, options: Mapping[str, Any]) -> None:
        read.mapping("schema_registry", options, _KEYS)
        within = read.within("schema_registry")
        name = within.choice("format", options.get("format", "avro"), FORMATS)
        schemas = within.mapping("schemas", options.get("schemas", {}))
        found = FORMATS[name](within.within("schemas"), schemas)
        self.content_type: str = found.content_type
        """The media type of the values."""
        self._reader = found.reader(SchemaRegistry(within, options, found.client))
        within.seconds("timeout", options.get("timeout", 5.0), 0.1, MOST_SECONDS)

    def open(self) -> None:
        """Ask the registry again for what it did not answer; raises BackendUnavailable."""
        self._reader.open()

    def as_json(self, value: bytes, event_type: str) -> bytes:
        """Return a value as JSON text.

        Args:
            value: The value of a record.
            event_type: The type of the event in it; empty if unknown.

        Raises:
            InvalidEvent: The value can't be decoded.
            BackendUnavailable: The registry is unavailable.
        """
        if value[:1] != MAGIC or len(value) < 5:
            beginning = value[:5].hex(" ") or "empty"
            raise InvalidEvent(
                "data",
                "is not in the wire format of a schema registry, which begins with 00 and 4 bytes "
                f"for the schema; the value begins with {beginning}",
            )
        return encode_data(self._reader.read(value, event_type)).encode()
