"""Functions that turn JSON values into the types of fields, for classes that validate nothing.

They are strict: text is not a number, and a boolean is not an integer. Types that JSON does not
have are read as this package writes them.
"""

from __future__ import annotations

import types
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from itertools import combinations, product
from sys import float_info
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from django.utils.dateparse import parse_duration
from django.utils.duration import duration_iso_string

from django_broadcaster.events import resolved

from .codec import Codec, Mismatch

T = TypeVar("T")
Decode = Callable[[Any], Any]
"""Returns the value of a field; raises Mismatch."""

Nested = Callable[[type[Any]], Codec[Any] | None]
"""Returns the codec of a class; None for a type that is not an event's or a part of one."""

_PLAIN: Final = (str, int, float, bool, types.NoneType)
_FREE: Final = (Any, object)
_UNIONS: Final = (Union, types.UnionType)
_OBJECTS: Final = (dict, Mapping)


def dump(value: Any, nested: Nested) -> Any:
    """Return a value of a field as JSON values; unchanged if it is of no known type."""
    if type(value) in _PLAIN:
        return value
    if write := _WRITERS.get(type(value)):
        return write(value)
    if isinstance(value, list):
        return [dump(item, nested) for item in value]
    if codec := nested(type(value)):
        return codec.dump(value)
    value = resolved(value)
    if isinstance(value, Enum):
        return dump(value.value, nested)
    if isinstance(value, Mapping):
        return {_dump_key(key, nested): dump(item, nested) for key, item in value.items()}
    if isinstance(value, tuple | Set):
        return [dump(item, nested) for item in value]
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):  # a subclass
            return write(value)
    return value


def _dump_key(key: Any, nested: Nested) -> Any:
    """Return a key of a dictionary as a JSON value; unchanged if JSON does not have such keys."""
    found = dump(key, nested)
    return found if type(found) in _PLAIN else key


def decoder_of(hint: Any, nested: Nested, *, known_fields_only: bool) -> Decode:
    """Return the function that decodes values of a type.

    Raises:
        NameError: A class has a field of a type that is not defined yet.
        TypeError: The type is not supported.
    """

    def inner(part: Any) -> Decode:
        return decoder_of(part, nested, known_fields_only=known_fields_only)

    hint = _bare(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is Literal:
        return _choice(hint, parts, nested)
    if origin in _UNIONS:
        return _union(parts, inner, nested)
    if origin in _ARRAYS:
        return _array(origin, parts, inner)
    if origin in _OBJECTS:
        return _object(parts or (str, Any), inner)
    if not isinstance(hint, type):
        raise _unsupported(hint)
    if issubclass(hint, Enum) and not issubclass(hint, Flag):
        return _choice(hint, list(hint), nested)
    codec = nested(hint)
    if codec is None:
        raise _unsupported(hint)
    codec.prepare()
    load = codec.load
    return lambda value: load(value, known_fields_only=known_fields_only)


def fields_decoder(
    decoders: Mapping[str, Decode],
    required: Collection[str],
    create: Callable[[dict[str, Any]], Any],
    *,
    of_class: str = "",
) -> Decode:
    """Return the function that decodes an object with these fields.

    Args:
        decoders: The functions by the names of the fields.
        required: The names of fields without a default.
        create: Returns the result; its TypeError and ValueError are errors of the data.
        of_class: The name of the class; empty if unknown fields are ignored.
    """

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        found = {}
        for name, decode_field in decoders.items():
            if name in value:
                try:
                    found[name] = decode_field(value[name])
                except Mismatch as error:
                    error.inside(name)
                    raise
            elif name in required:
                raise Mismatch("is missing", (name,))
        if of_class and (unknown := [name for name in value if name not in decoders]):
            raise Mismatch(f"is not a field of {of_class}", (str(unknown[0]),))
        try:
            return create(found)
        except (TypeError, ValueError) as error:
            raise Mismatch(str(error)) from error

    return decode


def _bare(hint: Any) -> Any:
    """Return a type without what only type checkers read, such as `Annotated`."""
    while True:
        if get_origin(hint) is Annotated:
            hint = hint.__origin__
        elif hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        elif hasattr(hint, "__value__"):  # `type X = ...`
            hint = hint.__value__
        else:
            return hint


def _kind(value: Any) -> str:
    """Return what a JSON value is."""
    return next(name for kind, name in _KINDS.items() if isinstance(value, kind))


_KINDS: Final[dict[type[Any], str]] = {
    types.NoneType: "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "an array",
    dict: "an object",
    object: "a value that JSON does not have",
}


def _wrong(wanted: str, value: Any) -> Mismatch:
    return Mismatch(f"must be {wanted}, not {_kind(value)}")


def _unsupported(hint: Any) -> TypeError:
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return TypeError(
        f"{name} is not a supported type of a field; see the list in the documentation of typed "
        "events, or declare a pydantic model or a msgspec struct"
    )


def _exactly(kind: type[Any]) -> Decode:
    wanted = _KINDS[kind]

    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(wanted, value)
        return value

    return decode


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _wrong("a number", value)
    return _read(float, value, f"a number of at most {float_info.max:.3g}")


def _decimal(value: Any) -> Decimal:
    if type(value) not in (str, int, float):
        raise _wrong("a decimal number", value)
    return _read(lambda given: Decimal(str(given)), value, "a decimal number")


def _read(read: Callable[[Any], T | None], value: Any, wanted: str) -> T:
    """Return what a function makes of a value; its errors, and None, raise Mismatch."""
    try:
        found = read(value)
    except (ValueError, ArithmeticError) as error:  # such as OverflowError
        raise Mismatch(f"must be {wanted}") from error
    if found is None:
        raise Mismatch(f"must be {wanted}")
    return found


def _text(read: Callable[[str], Any], wanted: str) -> Decode:
    """Return the function for a type that is written as text."""

    def decode(value: Any) -> Any:
        if type(value) is not str:
            raise _wrong(wanted, value)
        return _read(read, value, wanted)

    return decode


def _choice(hint: Any, values: Sequence[Any], nested: Nested) -> Decode:
    """Return the function for the values of a Literal or an Enum, as JSON has them."""
    pairs = [(dump(value, nested), value) for value in values]
    if not all(type(each) in _PLAIN for each, _ in pairs):
        raise _unsupported(hint)
    by_kind = {(type(each), each): value for each, value in pairs}
    if len(by_kind) < len(pairs):
        raise TypeError(f"{hint} has two values that are the same in JSON; remove one")
    wanted = f"one of {', '.join(repr(each) for each, _ in pairs)}"

    def decode(value: Any) -> Any:
        if type(value) not in _PLAIN:
            raise _wrong(wanted, value)
        try:
            return by_kind[type(value), value]
        except KeyError:
            raise Mismatch(f"must be {wanted}") from None

    return decode


def _union(parts: Sequence[Any], inner: Callable[[Any], Decode], nested: Nested) -> Decode:
    """Return the function that tries the types of a union in their order."""
    rest = [each for each in map(_bare, parts) if each is not types.NoneType]
    if any(_are_alike(one, other, nested) for one, other in combinations(rest, 2)):
        raise TypeError(
            "a union of a class and another class, a dictionary or Any is not supported, because "
            "an object may fit both; declare a pydantic model or a msgspec struct with a tag"
        )
    may_be_null, decoders = len(rest) < len(parts), [inner(each) for each in rest]
    names = ", ".join(getattr(each, "__name__", str(each)) for each in rest)

    def decode(value: Any) -> Any:
        if value is None and may_be_null:
            return None
        for each in decoders:
            try:
                return each(value)
            except Mismatch:
                if len(decoders) == 1:
                    raise
        raise _wrong(f"one of {names}", value)

    return decode


def _are_alike(one: Any, other: Any, nested: Nested) -> bool:
    """Return True if an object that fits one type may also fit a class in the other.

    Handlers ignore unknown fields, so they may read it as the class, and lose the rest of it.
    """
    one, other = _bare(one), _bare(other)
    for first, second in ((one, other), (other, one)):
        if get_origin(first) in _UNIONS:
            return any(_are_alike(part, second, nested) for part in get_args(first))
    shapes = _shapes(one, nested) & _shapes(other, nested)
    if _is_class(one, nested) or _is_class(other, nested):
        return dict in shapes
    if not shapes or (one in _FREE and other in _FREE):
        return False
    pairs = product(get_args(one) or (Any,), get_args(other) or (Any,))
    return any(_are_alike(part, other_part, nested) for part, other_part in pairs)


def _shapes(hint: Any, nested: Nested) -> set[Any]:
    """Return which of object (`dict`) and array (`list`) a type has in JSON; Any has both."""
    origin = get_origin(hint) or hint
    if hint in _FREE:
        return {dict, list}
    if origin in _ARRAYS:
        return {list}
    return {dict} if origin in _OBJECTS or _is_class(hint, nested) else set()


def _is_class(hint: Any, nested: Nested) -> bool:
    return isinstance(hint, type) and nested(hint) is not None


def _array(origin: Any, parts: Sequence[Any], inner: Callable[[Any], Decode]) -> Decode:
    """Return the function for a list, a set or a tuple."""
    create = _ARRAYS[origin]
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        return _tuple([inner(part) for part in parts])
    decode_item = inner(parts[0] if parts else Any)
    if issubclass(create, Set):
        decode_item = _hashable(decode_item)

    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong("an array", value)
        return create(_item(decode_item, index, item) for index, item in enumerate(value))

    return decode


def _hashable(decode: Decode) -> Decode:
    """Return a function that also refuses what a set can't contain."""

    def decode_hashable(value: Any) -> Any:
        found = decode(value)
        try:
            hash(found)
        except TypeError as error:
            raise _wrong("a value that a set can contain", value) from error
        return found

    return decode_hashable


def _tuple(decoders: Sequence[Decode]) -> Decode:
    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong("an array", value)
        if len(value) != len(decoders):
            raise Mismatch(f"must have {len(decoders)} items, not {len(value)}")
        places = enumerate(zip(decoders, value, strict=True))
        return tuple(_item(each, index, item) for index, (each, item) in places)

    return decode


def _object(parts: Sequence[Any], inner: Callable[[Any], Decode]) -> Decode:
    """Return the function for a dictionary, whose keys are text in JSON."""
    if _bare(parts[0]) in (int, float, bool):
        raise _unsupported(parts[0])
    decode_key, decode_item = inner(parts[0]), inner(parts[1])

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        if not all(isinstance(key, str) for key in value):
            raise Mismatch("must have text as its keys")
        return {_item(decode_key, k, k): _item(decode_item, k, item) for k, item in value.items()}

    return decode


def _item(decode: Decode, step: str | int, value: Any) -> Any:
    try:
        return decode(value)
    except Mismatch as error:
        error.inside(step)
        raise


_SIMPLE: Final[dict[Any, Decode]] = {
    Any: lambda value: value,
    object: lambda value: value,
    None: _exactly(types.NoneType),
    types.NoneType: _exactly(types.NoneType),
    bool: _exactly(bool),
    int: _exactly(int),
    float: _number,
    str: _exactly(str),
    Decimal: _decimal,
    UUID: _text(UUID, "a UUID"),
    datetime: _text(datetime.fromisoformat, "a date and time (ISO 8601)"),
    date: _text(date.fromisoformat, "a date (ISO 8601)"),
    time: _text(time.fromisoformat, "a time (ISO 8601)"),
    timedelta: _text(parse_duration, "a duration (ISO 8601)"),
    bytes: _text(lambda text: b64decode(text, validate=True), "text in base64"),
}

_WRITERS: Final[dict[type[Any], Callable[[Any], str | int | float]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    Decimal: str,
    UUID: str,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: duration_iso_string,
    bytes: lambda value: b64encode(value).decode(),
}
"""How values are written: of types that JSON does not have, and of subclasses, such as numpy's."""

_ARRAYS: Final[dict[Any, type[Any]]] = {
    list: list,
    Sequence: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Set: frozenset,
}
