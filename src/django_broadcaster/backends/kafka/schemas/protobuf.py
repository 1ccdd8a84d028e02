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
from django_broadcaster.typed_events.decoders import Decode, decoder_of

from ...errors import client_module
from ...options import OptionReader
from .registry import SchemaRegistry

CLIENT: Final = ("google.protobuf", "kafka-protobuf")
"""The library of messages, and the extra that it comes with."""

_FIELD: Final = re.compile(r"Failed to parse (\w+) field: ")
_LONG: Final = frozenset({"google.protobuf.Int64Value", "google.protobuf.UInt64Value"})
_BYTES: Final = "google.protobuf.BytesValue"
_NULLABLE: Final = frozenset({"google.protobuf.Value", "google.protobuf.NullValue"})
_WELL_KNOWN: Final = "google.protobuf."


def _of(hint: Any) -> Decode:
    """Return the function that reads a type of Python, as typed events do."""
    return decoder_of(hint, lambda _: None, known_fields_only=False)


_read_array: Final = _of(list[Any])
_read_bytes: Final = _of(bytes)
_read_object: Final = _of(dict[str, Any])


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

    @property
    def only(self) -> ProtobufSchema | None:
        """The schema, if there is just one."""
        return next(iter(self._schemas.values())) if len(self._schemas) == 1 else None

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
        _check(data, self._class.DESCRIPTOR)
        message = self._class()
        try:
            self._json.ParseDict(data, message)
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
                    f"{indexes}, not {self._indexes}; if the file has changed, generate the class "
                    "again, and add messages at the end of the file",
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
        schema = self._schemas.schema(event_type) if event_type else self._schemas.only
        if schema is None and not event_type:
            raise InvalidEvent(
                "type",
                "the record has no header 'ce_type', so its class is only known if 'schemas' in "
                "the option 'schema_registry' of the consumer has exactly one",
            )
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
    return Mismatch(f"does not fit the message {name}", tuple(_FIELD.findall(text)))


# --- What Protobuf's own parser takes, though data would be lost ---------------------------------


def _check(value: Any, descriptor: Any) -> None:
    """Check the JSON value of a message before it is parsed; raises Mismatch.

    Protobuf's parser also takes two names for one field, null for any field, an empty array for an
    object, and text that is almost base64.
    """
    if descriptor.full_name == _BYTES:
        _read_bytes(value)
    if descriptor.full_name.startswith(_WELL_KNOWN):
        return
    for name, each in _read_object(value).items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise Mismatch(f"is not a field of the message {descriptor.full_name}", (name,))
        _inside(name, _check_field, each, field)


def _check_field(value: Any, field: Any) -> None:
    if value is None and not _takes_null(field):
        if field.has_presence:
            return
        problem = "must not be null, which the field does not have in Protobuf; leave it out"
        if not _is_repeated(field):
            problem += ", or declare it optional in the .proto file"
        raise Mismatch(problem)
    if not _is_repeated(field):
        _check_one(value, field)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        for name, each in _read_object(value).items():
            _inside(name, _check_one, each, entry)
    else:
        for index, each in enumerate(_read_array(value)):
            _inside(index, _check_one, each, field)


def _check_one(value: Any, field: Any) -> None:
    """Check the value of a field, or one of its values if the field is repeated."""
    if value is None and not _takes_null(field):
        raise Mismatch("must not be null")
    if field.message_type is not None:
        _check(value, field.message_type)
    elif field.type == field.TYPE_BYTES:
        _read_bytes(value)


def _takes_null(field: Any) -> bool:
    """Return True if null is a value of the type, and not the lack of one."""
    kind = field.message_type or field.enum_type
    return kind is not None and kind.full_name in _NULLABLE


def _is_repeated(field: Any) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)  # before Protobuf 6


def _inside(step: str | int, check: Callable[[Any, Any], None], value: Any, field: Any) -> None:
    try:
        check(value, field)
    except Mismatch as error:
        error.inside(step)
        raise


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
