"""Protobuf: JSON values become messages of generated classes, and back.

The JSON is that of Protobuf's own mapping, but for names and numbers: fields have the names of the
.proto file, and integers of 64 bits are numbers, as in the data of other events.
https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from django.utils.module_loading import import_string

from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.typed_events.codec import Mismatch
from django_broadcaster.typed_events.decoders import decoder_of

from ...errors import client_module
from ...options import OptionReader
from .registry import SchemaRegistry

CLIENT: Final = ("google.protobuf", "kafka-protobuf")
"""The library of messages, and the extra that it comes with."""

_FIELD: Final = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN: Final = re.compile(r'Message type "([\w.]+)" has no field named "([^"]*)"')
_LONG: Final = frozenset({"google.protobuf.Int64Value", "google.protobuf.UInt64Value"})
_WELL_KNOWN: Final = "google.protobuf."


class ProtobufFormat:
    """The format "protobuf": generated classes by event type, or their dotted paths."""

    content_type = "application/protobuf"
    client = CLIENT

    def __init__(self, read: OptionReader, schemas: Mapping[str, Any]) -> None:
        self._schemas = {
            event_type: ProtobufSchema(read, event_type, given)
            for event_type, given in schemas.items()
        }

    def schema(self, event_type: str) -> ProtobufSchema | None:
        """Return the schema of an event type, if it has one."""
        return self._schemas.get(event_type)

    def reader(self, registry: SchemaRegistry) -> ProtobufReader:
        """Return what decodes values by the classes; it needs no registry."""
        return ProtobufReader(self)


class ProtobufSchema:
    """The class of one event type.

    Raises:
        BackendConfigurationError: The class can't be imported, or is not that of a message.
    """

    def __init__(self, read: OptionReader, event_type: str, given: object) -> None:
        base = client_module(CLIENT, "google.protobuf.message").Message
        found: Any = given
        if isinstance(given, str):
            try:
                found = import_string(given)
            except ImportError as error:
                read.refuse(event_type, f"{given!r} can't be imported: {error}")
        is_message = isinstance(found, type) and issubclass(found, base)
        wanted = "a generated class of Protobuf, or its dotted path"
        read.require(event_type, type(found), is_message, wanted)
        self._class = found
        self._indexes = _indexes(self._class.DESCRIPTOR)
        self._json = client_module(CLIENT, "google.protobuf.json_format")
        self._deserialize: Callable[[bytes], Any] | None = None

    @property
    def name(self) -> str:
        """The full name of the message."""
        return str(self._class.DESCRIPTOR.full_name)

    @property
    def members(self) -> Mapping[str, Any]:
        """The members of an AsyncAPI message; the text of the .proto file is not known here."""
        return {"x-protobuf-message": self.name}

    def register(
        self, registry: SchemaRegistry, *, topic: str, subject: str, register: bool
    ) -> Callable[[Any], bytes]:
        """Return a function that encodes data, once the registry has the schema.

        Files that the .proto file imports are registered by their names.

        Raises:
            SchemaProblem: The registry does not have the schema, or refuses it.
            BackendUnavailable: The registry is unavailable.
        """
        module = client_module(CLIENT, "confluent_kafka.schema_registry.protobuf")
        serialization = client_module(CLIENT, "confluent_kafka.serialization")
        error_class = client_module(CLIENT, "google.protobuf.message").EncodeError
        context = serialization.SerializationContext(topic, serialization.MessageField.VALUE)
        config = {
            "auto.register.schemas": register,
            "subject.name.strategy": lambda context, name: subject,
        }

        def serializer(client: Any) -> Any:
            found = module.ProtobufSerializer(self._class, client, config)
            with suppress(error_class):  # fields of proto2 that are required
                found(self._class(), context)
            return found

        serialize = registry.ask(serializer)
        return lambda data: bytes(serialize(self._message(data), context))

    def _message(self, data: Any) -> Any:
        """Return the message of data; raises Mismatch."""
        fields = decoder_of(dict[str, Any], lambda _: None, known_fields_only=False)(data)
        message = self._class()
        try:
            self._json.ParseDict(fields, message)
        except self._json.ParseError as error:
            raise _mismatch(str(error), self.name) from error
        if not message.IsInitialized():
            path = tuple(message.FindInitializationErrors()[0].split("."))
            raise Mismatch("is missing", path)
        return message

    def decode(self, value: bytes) -> Any:
        """Return a value as JSON values; raises InvalidEvent."""
        if self._deserialize is None:
            self._deserialize = self._deserializer()
        try:
            message = self._deserialize(value)
        except InvalidEvent:
            raise
        except Exception as error:  # bytes can be wrong in many ways
            problem = f"can't be decoded as {self.name}: {type(error).__name__}: {error}"
            raise InvalidEvent("data", problem) from error
        found = self._json.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return _with_numbers(found, self._class.DESCRIPTOR)

    def _deserializer(self) -> Callable[[bytes], Any]:
        base = client_module(CLIENT, "confluent_kafka.schema_registry")
        module = client_module(CLIENT, "confluent_kafka.schema_registry.protobuf")

        def read_prefix(value: bytes, context: Any, schema_id: Any) -> Any:
            rest = base.prefix_schema_id_deserializer(value, context, schema_id)
            indexes = list(schema_id.message_indexes or [0])
            if indexes != self._indexes:
                raise InvalidEvent(
                    "data",
                    f"is another message of its .proto file than {self.name}: its indexes are "
                    f"{indexes}, not {self._indexes}",
                )
            return rest

        config = {
            "subject.name.strategy": lambda context, name: None,
            "schema.id.deserializer": read_prefix,
        }
        found: Callable[[bytes], Any] = module.ProtobufDeserializer(self._class, config)
        return found


class ProtobufReader:
    """Decodes values by the class of the event's type."""

    def __init__(self, schemas: ProtobufFormat) -> None:
        self._schemas = schemas

    def open(self) -> None:
        """Do nothing: the registry is not asked."""

    def read(self, value: bytes, event_type: str) -> Any:
        """Return a value as JSON values; raises InvalidEvent."""
        schema = self._schemas.schema(event_type)
        if schema is None:
            raise InvalidEvent(
                "type",
                f"{event_type!r} has no class; add it to 'schemas' in the option "
                "'schema_registry' of the consumer",
            )
        return schema.decode(value)


def _indexes(descriptor: Any) -> list[int]:
    """Return the place of a message in its file: its index, after those that it is nested in."""
    outer = descriptor.containing_type
    siblings = (
        descriptor.file.message_types_by_name.values() if outer is None else outer.nested_types
    )
    names = [each.full_name for each in siblings]
    return [*([] if outer is None else _indexes(outer)), names.index(descriptor.full_name)]


def _mismatch(text: str, name: str) -> Mismatch:
    """Return the error for one of Protobuf's, whose text has the names of fields, and values."""
    path = tuple(_FIELD.findall(text))
    if unknown := _UNKNOWN.search(text):
        return Mismatch(f"is not a field of the message {unknown[1]}", (*path, unknown[2]))
    return Mismatch(f"does not fit the message {name}", path)


def _with_numbers(found: Any, descriptor: Any) -> Any:
    """Return the JSON of a message with numbers in place of the text of integers of 64 bits."""
    if descriptor.full_name in _LONG:
        return int(found)
    if descriptor.full_name.startswith(_WELL_KNOWN) or not isinstance(found, dict):
        return found
    for field in descriptor.fields:
        if field.name in found:
            found[field.name] = _field_with_numbers(found[field.name], field)
    return found


def _field_with_numbers(value: Any, field: Any) -> Any:
    message = field.message_type
    if isinstance(value, list):
        return [_field_with_numbers(each, field) for each in value]
    if message is not None and message.GetOptions().map_entry:
        entry = message.fields_by_name["value"]
        return {key: _field_with_numbers(each, entry) for key, each in value.items()}
    if message is not None:
        return _with_numbers(value, message)
    is_long = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    return int(value) if is_long else value
