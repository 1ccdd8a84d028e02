"""Avro: JSON values become the types that a schema needs, and back.

Writing is strict: an unknown field, or a number in place of text, is an error that names the field.
Types that JSON does not have are text, as typed events write them: bytes are base64, decimals and
UUIDs are text, and dates and times are ISO 8601.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Context, Decimal
from io import BytesIO
from os import PathLike
from pathlib import Path
from struct import Struct
from time import monotonic
from typing import Any, Final, Literal
from uuid import UUID

from django_broadcaster.exceptions import BackendUnavailable, InvalidEvent
from django_broadcaster.typed_events.codec import Mismatch
from django_broadcaster.typed_events.decoders import Decode, decoder_of, dump, fields_decoder

from ...errors import client_module
from ...options import OptionReader
from .registry import SchemaProblem, SchemaRegistry

CLIENT: Final = ("fastavro", "kafka-avro")
"""The library that writes Avro, and the extra that it comes with."""

PREFIX_BYTES: Final = 5
_EXACT: Final = Context(prec=5000)
_RECORDS: Final = frozenset({"record", "error"})
_NAMED: Final = _RECORDS | {"enum", "fixed"}


_PROBLEM_SECONDS: Final = 30.0
_MOST_PROBLEMS: Final = 1000
_MOST_IDS: Final = 2**31
"""Registries number schemas by signed integers of 32 bits."""


class AvroFormat:
    """The format "avro": schemas by event type, each a file, text or a dictionary."""

    content_type = "application/avro"
    client = CLIENT

    def __init__(self, read: OptionReader, schemas: Mapping[str, Any]) -> None:
        self._schemas = {
            event_type: AvroSchema(read, event_type, schema)
            for event_type, schema in schemas.items()
        }

    def schema(self, event_type: str) -> AvroSchema | None:
        """Return the schema of an event type, if it has one."""
        return self._schemas.get(event_type)

    def reader(self, registry: SchemaRegistry) -> AvroReader:
        """Return what decodes values by the schemas of a registry."""
        return AvroReader(registry)


class Unusable(Exception):
    """A schema is valid, or nearly so, but data can't be written by it without loss."""


class AvroSchema:
    """The schema of one event type.

    Raises:
        BackendConfigurationError: It can't be read, or is not a schema.
    """

    def __init__(self, read: OptionReader, event_type: str, given: object) -> None:
        self.text = _text(read, event_type, given)
        fastavro = client_module(CLIENT)
        types: dict[str, Any] = {}
        try:
            self._parsed = fastavro.parse_schema(json.loads(self.text), types)
            if _kind(self._parsed) == "bytes":
                raise Unusable(
                    "clients differ in how they read bytes alone; use a record with a field"
                )
            self._decode = _decoder(self._parsed, {}, types)
        except Unusable as error:
            read.refuse(event_type, f"can't be used: {error}")
        except Exception as error:  # of many classes
            problem = f"is not a valid Avro schema: {type(error).__name__}: {error}"
            read.refuse(event_type, problem)
        self._write: Callable[..., None] = fastavro.schemaless_writer

    @property
    def name(self) -> str:
        """The full name of a record; a type without a name is its own name."""
        parsed = self._parsed
        name = parsed.get("name", parsed["type"]) if isinstance(parsed, dict) else parsed
        return name if isinstance(name, str) else "union"

    @property
    def members(self) -> Mapping[str, Any]:
        """The members of an AsyncAPI message that have the schema."""
        schema_format = "application/vnd.apache.avro+json;version=1.9.0"
        return {"payload": {"schemaFormat": schema_format, "schema": json.loads(self.text)}}

    def register(
        self, registry: SchemaRegistry, *, topic: str, subject: str, register: bool
    ) -> Callable[[Any], bytes]:
        """Return a function that encodes data, once the registry has the schema.

        Raises:
            SchemaProblem: The registry does not have the schema, or refuses it.
            BackendUnavailable: The registry is unavailable.
        """

        def wire_id(client: Any) -> bytes:
            module = client_module(CLIENT, CLIENT[0], "confluent_kafka.schema_registry")
            schema = module.Schema(self.text, "AVRO")
            if register:
                return int(client.register_schema(subject, schema)).to_bytes(4)
            return int(client.lookup_schema(subject, schema).schema_id).to_bytes(4)

        prefix = b"\0" + registry.ask(wire_id)
        return lambda data: self._encode(prefix, data)

    def _encode(self, prefix: bytes, data: Any) -> bytes:
        """Return data in the wire format; raises Mismatch."""
        value = self._decode(data)
        out = BytesIO()
        out.write(prefix)
        try:
            self._write(out, self._parsed, value)
        except Exception as error:  # what no decoder found
            raise Mismatch(f"does not fit the schema: {type(error).__name__}") from error
        return out.getvalue()


class AvroReader:
    """Decodes values by the schemas with which they were written."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._by_id: dict[int, Callable[[bytes], Any]] = {}
        self._problems: dict[int, tuple[float, SchemaProblem]] = {}  # oldest first
        self._wanted: int | None = None  # the schema for which the registry did not answer

    def open(self) -> None:
        """Ask for the schema for which the registry did not answer; raises BackendUnavailable."""
        self._problems.clear()
        # Once for each failure: the record may be gone by now, and needs no answer then.
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            with suppress(SchemaProblem):  # the record with it becomes a dead letter
                self._schema(wanted)

    def read(self, value: bytes, event_type: str) -> Any:
        """Return a value as JSON values.

        Raises:
            InvalidEvent: The value is not in the wire format, or its schema is unknown.
            BackendUnavailable: The registry is unavailable.
        """
        number = int.from_bytes(value[1:PREFIX_BYTES])
        try:
            decode = self._by_id.get(number) or self._schema(number)
        except SchemaProblem as error:
            raise InvalidEvent("data", f"the schema {number} can't be used: {error}") from error
        except BackendUnavailable:
            self._wanted = number
            raise
        try:
            found = decode(value[PREFIX_BYTES:])
        except Exception as error:  # bytes can be wrong in many ways
            problem = f"can't be decoded by the schema {number}: {type(error).__name__}: {error}"
            raise InvalidEvent("data", problem) from error
        return _as_json(found)

    def _schema(self, number: int) -> Callable[[bytes], Any]:
        """Return the function for a schema that is not known yet.

        What the registry does not have is not asked for again at once, as a topic may be full of
        records of another registry.

        Raises:
            SchemaProblem: The registry does not have the schema, or it is of no use.
            BackendUnavailable: The registry is unavailable.
        """
        if not 0 < number < _MOST_IDS:
            raise SchemaProblem(f"the id must be from 1 to {_MOST_IDS - 1}")
        now = monotonic()
        if number in self._problems and now < self._problems[number][0]:
            raise self._problems[number][1]
        try:
            texts = self._registry.ask(lambda client: _Texts(client, number))
            decode = self._by_id[number] = _reader(texts)
        except SchemaProblem as error:
            self._problems.pop(number, None)
            self._problems[number] = now + _PROBLEM_SECONDS, error
            if len(self._problems) > _MOST_PROBLEMS:
                del self._problems[next(iter(self._problems))]
            raise
        return decode


class _Texts:
    """The texts of a schema, whose name is empty, and of those that it refers to by name.

    fastavro asks it for each type that it does not know.
    """

    def __init__(self, client: Any, number: int) -> None:
        schema = client.get_schema(number)
        if schema.schema_type not in (None, "AVRO"):
            raise SchemaProblem(f"the registry has it as {schema.schema_type}, not AVRO")
        self._texts: dict[str, str] = {"": schema.schema_str}
        references = list(schema.references or ())
        while references:
            each = references.pop()
            if each.name not in self._texts:
                found = client.get_version(each.subject, each.version, True).schema
                self._texts[each.name] = found.schema_str
                references += found.references or ()

    def load(self, name: str) -> Any:
        return json.loads(self._texts[name])


def _reader(texts: _Texts) -> Callable[[bytes], Any]:
    """Return the function that decodes what follows the prefix; raises SchemaProblem."""
    schemas = client_module(CLIENT, CLIENT[0], "fastavro.schema")
    try:
        parsed = schemas.load_schema("", repo=texts)
        is_recursive = _Shape(parsed).is_recursive
    except SchemaProblem:
        raise
    except Exception as error:  # of many classes
        raise SchemaProblem(f"{type(error).__name__}: {error}") from error
    if _kind(parsed) == "bytes":  # clients write them without the length that Avro has
        return lambda value: value
    # The compiled module recurses without a limit: data that are nested deeply crash the process.
    # The one in Python raises RecursionError.
    module = "fastavro._read_py" if is_recursive else "fastavro.read"
    read = client_module(CLIENT, CLIENT[0], module).schemaless_reader

    def decode(value: bytes) -> Any:
        stream = BytesIO(value)
        found = read(stream, parsed, None)
        left = len(value) - stream.tell()
        if left:
            raise ValueError(f"{left} bytes follow the value")
        return found

    return decode


class _Shape:
    """Facts about a parsed schema that are needed before data of any origin are read by it.

    Raises:
        SchemaProblem: A few bytes of data could become an array of any length.
    """

    def __init__(self, schema: Any) -> None:
        self.is_recursive = False
        """Whether a type contains itself, so that the data decide how deeply they are nested."""
        self._takes_bytes: dict[str, bool | None] = {}  # by name; None within the definition
        self._judge(schema)

    def _judge(self, schema: Any) -> bool:
        """Return True if each value takes at least one byte."""
        if isinstance(schema, list):
            for branch in schema:
                self._judge(branch)
            return True  # the number of the branch
        if isinstance(schema, str):
            takes_bytes = self._takes_bytes.get(schema, schema != "null")
            self.is_recursive |= takes_bytes is None
            return takes_bytes is not False
        if _kind(schema) not in _NAMED:
            return self._unnamed(schema)
        self._takes_bytes[schema["name"]] = None
        found = self._takes_bytes[schema["name"]] = self._named(schema)
        return found

    def _named(self, schema: Any) -> bool:
        if schema["type"] in _RECORDS:
            found = [self._judge(field["type"]) for field in schema["fields"]]
            return any(found)
        return schema["type"] != "fixed" or bool(schema["size"])

    def _unnamed(self, schema: Any) -> bool:
        if schema["type"] == "map":
            self._judge(schema["values"])
            return True
        if schema["type"] != "array":
            return self._judge(schema["type"])
        if not self._judge(schema["items"]):
            name = _name(schema["items"])
            raise SchemaProblem(f"an array has values of {name}, which take no bytes")
        return True


def _as_json(found: Any) -> Any:
    """Return what fastavro has read as JSON values."""
    if isinstance(found, dict):
        return {name: _as_json(each) for name, each in found.items()}
    if isinstance(found, list):
        return [_as_json(each) for each in found]
    if isinstance(found, Decimal):
        return format(found, "f")  # with all places, and never as 1E-9
    return dump(found, lambda _: None)


def _text(read: OptionReader, event_type: str, given: object) -> str:
    """Return the text of a schema."""
    if isinstance(given, Mapping | list):
        return json.dumps(given)
    if isinstance(given, str) and given.lstrip().startswith(("{", "[", '"')):
        return given
    wanted = "the path of a file, the text of a schema, or a dictionary"
    read.require(event_type, type(given), isinstance(given, str | PathLike), wanted)
    assert isinstance(given, str | PathLike)
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        read.refuse(event_type, f"can't be read: {error}")


# --- Decoders by schemas -------------------------------------------------------------------------


def _of(hint: Any) -> Decode:
    """Return the function that reads a type of Python, as typed events do."""
    return decoder_of(hint, lambda _: None, known_fields_only=False)


def _decoder(schema: Any, named: dict[str, Decode], types: Mapping[str, Any]) -> Decode:
    """Return the function that makes a value for a parsed schema of JSON values.

    Args:
        schema: The schema, as fastavro returns it: names are whole.
        named: The functions of the named types so far, by their names.
        types: All named types, by their names.

    Raises:
        Unusable: Data could not be written without loss.
    """
    if isinstance(schema, list):
        return _union(schema, named, types)
    if isinstance(schema, str):
        return _PRIMITIVES.get(schema) or (lambda value: named[schema](value))
    kind = _kind(schema)
    logical = _LOGICAL.get((kind, schema.get("logicalType")))
    decode = logical(schema) if logical else _by_kind(kind, schema, named, types)
    if "name" in schema:
        named[schema["name"]] = decode
    return decode


def _kind(schema: Any) -> str:
    """Return the type of a parsed schema, or the name of a type that is defined elsewhere."""
    if isinstance(schema, list):
        return "union"
    return schema if isinstance(schema, str) else str(schema["type"])


def _by_kind(kind: str, schema: Any, named: dict[str, Decode], types: Mapping[str, Any]) -> Decode:
    if kind in _RECORDS:
        return _record(schema, named, types)
    if kind == "array":
        return _array(_decoder(schema["items"], named, types))
    if kind == "map":
        return _map(_decoder(schema["values"], named, types))
    if kind == "enum":
        return _of(Literal[*schema["symbols"]])
    if kind == "fixed":
        return _fixed(schema["size"])
    return _decoder(kind, named, types)


def _record(schema: Any, named: dict[str, Decode], types: Mapping[str, Any]) -> Decode:
    # Known before its fields are, in which it may be.
    named[schema["name"]] = lambda value: decode(value)
    decoders: dict[str, Decode] = {}
    defaults: dict[str, Any] = {}
    for field in schema["fields"]:
        try:
            decoders[field["name"]] = _decoder(field["type"], named, types)
            if "default" in field:
                defaults[field["name"]] = _default(field["type"], field["default"], types)
        except (Mismatch, Unusable) as error:
            raise Unusable(f"field {field['name']!r}: {error}") from error
    decode = fields_decoder(
        decoders,
        decoders.keys() - defaults.keys(),
        lambda found: {**defaults, **found},
        of_class=f"the schema {schema['name']}",
    )
    return decode


def _default(schema: Any, given: Any, types: Mapping[str, Any]) -> Any:
    """Return the value of a default, whose JSON differs from that of data: bytes are characters.

    Raises:
        Mismatch: The default does not fit the schema.
    """
    if isinstance(schema, list):
        for branch in schema:
            with suppress(Mismatch):
                return _as_branch(schema, branch, _default(branch, given, types))
        raise Mismatch("the default fits no type of the union")
    schema = types.get(schema, schema) if isinstance(schema, str) else schema
    kind = _kind(schema)
    if kind in _PRIMITIVES and kind != "bytes":
        return _PRIMITIVES[kind](given)
    if kind == "array" and isinstance(given, list):
        return [_default(schema["items"], each, types) for each in given]
    if kind == "map" and isinstance(given, dict):
        return {name: _default(schema["values"], each, types) for name, each in given.items()}
    if kind in _RECORDS and isinstance(given, dict):
        values = {
            field["name"]: given.get(field["name"], field.get("default"))
            for field in schema["fields"]
        }
        return {
            field["name"]: _default(field["type"], values[field["name"]], types)
            for field in schema["fields"]
        }
    if kind == "enum" and given in schema["symbols"]:
        return given
    if kind in ("bytes", "fixed") and isinstance(given, str):
        with suppress(UnicodeEncodeError):
            found = given.encode("latin-1")
            if kind == "bytes" or len(found) == schema["size"]:
                return found
    raise Mismatch(f"the default does not fit the type {_name(schema)}")


def _array(decode: Decode) -> Decode:
    items = _of(list[Any])
    return lambda value: [_inside(decode, *each) for each in enumerate(items(value))]


def _map(decode: Decode) -> Decode:
    entries = _of(dict[str, Any])
    return lambda value: {
        name: _inside(decode, name, each) for name, each in entries(value).items()
    }


def _inside(decode: Decode, step: str | int, value: Any) -> Any:
    try:
        return decode(value)
    except Mismatch as error:
        raise error.inside(step) from error.__cause__


def _union(branches: Sequence[Any], named: dict[str, Decode], types: Mapping[str, Any]) -> Decode:
    """Return the function that tries the branches of a union in their order."""
    names = ", ".join(_name(each) for each in branches)
    tags = [_tag(each) for each in branches]
    for tag in tags:
        if tags.count(tag) > 1 or tag == "union":
            kind = "another union" if tag == "union" else f"two types that are {tag} in Avro"
            raise Unusable(f"the union of {names} has {kind}; put each in a record")
    if "double" in tags and "float" in tags[: tags.index("double")]:
        raise Unusable(f"the union of {names} would never use double; put double before float")
    decoders = [(each, _decoder(each, named, types)) for each in branches if each != "null"]
    may_be_null = len(decoders) < len(branches)

    def decode(value: Any) -> Any:
        if value is None and may_be_null:
            return None
        for branch, read in decoders:
            try:
                found = read(value)
            except Mismatch:
                if len(decoders) == 1:
                    raise
                continue
            return _as_branch(branches, branch, found)
        raise Mismatch(f"must be one of {names}")

    return decode


def _as_branch(branches: Sequence[Any], branch: Any, value: Any) -> Any:
    """Return a value that fastavro writes as this branch of a union.

    Without a tag fastavro takes a branch by the class of the value in Python, or by the names of
    its fields: it would write a datetime as a date.
    """
    is_clear = value is None or len(branches) - ("null" in branches) == 1
    return value if is_clear else (_tag(branch), value)


def _tag(branch: Any) -> str:
    """Return what tells a branch from the others of its union, by Avro's rules: name or type."""
    return str(branch["name"]) if _kind(branch) in _NAMED else _kind(branch)


def _name(branch: Any) -> str:
    if isinstance(branch, dict):
        return str(branch.get("logicalType") or branch.get("name") or branch["type"])
    return _kind(branch)


def _checked(hint: Any, holds: Callable[[Any], bool], problem: str) -> Decode:
    """Return a function that also checks a value; `problem` is the error if the check fails."""
    read = _of(hint)

    def decode(value: Any) -> Any:
        found = read(value)
        if not holds(found):
            raise Mismatch(problem)
        return found

    return decode


def _integer(bits: int) -> Decode:
    most = 2 ** (bits - 1)
    return _checked(int, lambda found: -most <= found < most, f"must be an integer of {bits} bits")


def _real(code: Literal["f", "d"]) -> Decode:
    """Return the function for a number of a format of `struct`; no integer is rounded."""
    read, packing = _of(float), Struct(f"<{code}")
    bits = 8 * packing.size

    def decode(value: Any) -> float:
        found: float = read(value)
        try:
            (packed,) = packing.unpack(packing.pack(found))
        except OverflowError:
            raise Mismatch(f"must be a number of {bits} bits") from None
        if isinstance(value, int) and packed != value:
            raise Mismatch(f"must be an integer that a number of {bits} bits has exactly")
        return found

    return decode


def _fixed(size: int) -> Decode:
    return _checked(bytes, lambda found: len(found) == size, f"must be {size} bytes in base64")


def _decimal(schema: Any) -> Decode:
    """Return the function for a decimal, which gets as many decimal places as its schema has."""
    precision, scale = schema["precision"], schema.get("scale", 0)
    read = _of(Decimal)

    def decode(value: Any) -> Decimal:
        found = read(value)
        if not found.is_finite():
            raise Mismatch("must be a finite number")
        if found.adjusted() >= precision - scale and found:
            raise Mismatch(f"must have at most {precision - scale} digits before the point")
        places = -found.as_tuple().exponent
        whole = _EXACT.scaleb(found, scale) if places < _EXACT.prec else Decimal("0.1")
        if whole != whole.to_integral_value(context=_EXACT):
            raise Mismatch(f"must have at most {scale} decimal places")
        return _EXACT.scaleb(Decimal(int(whole)), -scale)

    return decode


def _instant(_: Any) -> Decode:
    problem = "must have an offset from UTC, such as +00:00"
    return _checked(datetime, lambda found: found.utcoffset() is not None, problem)


def _local(_: Any) -> Decode:
    problem = "must have no offset from UTC"
    return _checked(datetime, lambda found: found.utcoffset() is None, problem)


def _time(_: Any) -> Decode:
    return _checked(time, lambda found: found.tzinfo is None, "must have no offset from UTC")


_PRIMITIVES: Final[dict[str, Decode]] = {
    "null": _of(None),
    "boolean": _of(bool),
    "int": _integer(32),
    "long": _integer(64),
    "float": _real("f"),
    "double": _real("d"),
    "bytes": _of(bytes),
    "string": _of(str),
}

_LOGICAL: Final[dict[tuple[str, str], Callable[[Any], Decode]]] = {
    ("bytes", "decimal"): _decimal,
    ("fixed", "decimal"): _decimal,
    ("string", "uuid"): lambda _: _of(UUID),
    ("int", "date"): lambda _: _of(date),
    ("int", "time-millis"): _time,
    ("long", "time-micros"): _time,
    ("long", "timestamp-millis"): _instant,
    ("long", "timestamp-micros"): _instant,
    ("long", "local-timestamp-millis"): _local,
    ("long", "local-timestamp-micros"): _local,
}
"""Logical types; a value of any other one is that of its underlying type."""
