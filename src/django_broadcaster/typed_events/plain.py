"""The codecs of dataclasses and of `TypedDict`, and the choice of a codec for a class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from typing import Any, Final, NotRequired, Required, TypeVar, get_args, get_origin, get_type_hints

from .codec import Codec
from .decoders import Decode, decoder_of, dump, fields_decoder
from .models import model_codec_of, msgspec_schema, pydantic_schema

T = TypeVar("T")


class PlainCodec(Codec[T]):
    """The codec of a class that validates nothing: the types of its fields decide."""

    _is_prepared = False

    def prepare(self) -> None:
        """Make the decoder. A class may have fields of its own type, so this calls itself."""
        if self._is_prepared:
            return
        self._is_prepared = True
        try:
            self._tolerant  # noqa: B018
        except BaseException:
            self._is_prepared = False
            raise

    def load(self, data: Any, *, known_fields_only: bool = False) -> T:
        """Return the event of JSON values."""
        decode = self._strict if known_fields_only else self._tolerant
        event: T = decode(data)
        return event

    def schema(self) -> dict[str, Any]:
        """Return the schema that msgspec or pydantic makes; msgspec's dates are written as ours."""
        unsupported: TypeError | None = None
        for schema_of in (msgspec_schema, pydantic_schema):
            try:
                return schema_of(self.event_class)
            except ImportError:
                continue
            except TypeError as error:
                unsupported = error
        if unsupported is not None:
            raise unsupported
        raise ImportError(
            f"the JSON Schema of {self.event_class.__name__} is made by msgspec or pydantic, and "
            "neither is installed; install one, for example: pip install msgspec"
        )

    @cached_property
    def _strict(self) -> Decode:
        return self._decoder(known_fields_only=True)

    @cached_property
    def _tolerant(self) -> Decode:
        return self._decoder(known_fields_only=False)

    def _decoder(self, *, known_fields_only: bool) -> Decode:
        name = self.event_class.__name__
        decoders = {}
        for field, hint in self._types().items():
            try:
                decoders[field] = decoder_of(hint, codec_of, known_fields_only=known_fields_only)
            except TypeError as error:
                raise TypeError(f"{name}.{field}: {error}") from error
        of_class = name if known_fields_only else ""
        return fields_decoder(decoders, self.required(), self._create(), of_class=of_class)

    @abstractmethod
    def _types(self) -> Mapping[str, Any]:
        """Return the types of the fields."""

    @abstractmethod
    def _create(self) -> Callable[[dict[str, Any]], T]:
        """Return the function that makes an event of its fields."""


class DataclassCodec(PlainCodec[T]):
    """The codec of a dataclass. Fields that its constructor does not take are not sent."""

    def fields(self) -> Collection[str]:
        """Return the names of the fields."""
        return self._names

    def dump(self, event: T) -> Any:
        """Return the fields by name."""
        return {name: dump(getattr(event, name), codec_of) for name in self._names}

    @cached_property
    def _names(self) -> list[str]:
        return [field.name for field in self._fields()]

    def _fields(self) -> list[Any]:
        found: Any = self.event_class
        return [field for field in fields(found) if field.init]

    def _types(self) -> Mapping[str, Any]:
        hints = get_type_hints(self.event_class, include_extras=True)
        return {name: hints[name] for name in self._names}

    def required(self) -> Collection[str]:
        """Return the names of the fields that have no default."""
        return [
            field.name
            for field in self._fields()
            if field.default is MISSING and field.default_factory is MISSING
        ]

    def _create(self) -> Callable[[dict[str, Any]], T]:
        event_class = self.event_class
        return lambda found: event_class(**found)


class TypedDictCodec(PlainCodec[T]):
    """The codec of a `TypedDict`, of which no object knows that it is one."""

    def fields(self) -> Collection[str]:
        """Return the keys."""
        return list(self.event_class.__annotations__)

    def dump(self, event: T) -> Any:
        """Return the items."""
        return dump(event, codec_of)

    def is_instance(self, event: object) -> bool:
        """Return True for each dictionary."""
        return isinstance(event, dict)

    def has_value(self, name: str) -> bool:
        """Return True for a key; the attributes of a dictionary are none of the event."""
        return name in self.fields()

    def value(self, event: T, field: str) -> object:
        """Return the value of a key; None if it is missing."""
        values: Any = event
        return values.get(field)

    @cached_property
    def _hints(self) -> Mapping[str, Any]:
        return get_type_hints(self.event_class, include_extras=True)

    def _types(self) -> Mapping[str, Any]:
        return {key: _unqualified(hint) for key, hint in self._hints.items()}

    def required(self) -> Collection[str]:
        """Return the keys that must not be missing."""
        # By a __future__ import, annotations are text, which the class itself does not read.
        by_class: Any = self.event_class
        return [
            key
            for key, hint in self._hints.items()
            if Required in (found := _qualifiers(hint))
            or (NotRequired not in found and key in by_class.__required_keys__)
        ]

    def _create(self) -> Callable[[dict[str, Any]], T]:
        create: Any = dict
        found: Callable[[dict[str, Any]], T] = create
        return found


_codecs: Final[dict[type[Any], Codec[Any] | None]] = {}


def codec_of(event_class: type[Any]) -> Codec[Any] | None:
    """Return the one codec of a class; None if it is not of a kind that can be an event."""
    if event_class not in _codecs:
        _codecs[event_class] = _create_codec(event_class)
    return _codecs[event_class]


def _create_codec(event_class: type[Any]) -> Codec[Any] | None:
    if codec := model_codec_of(event_class):
        return codec
    if is_dataclass(event_class):
        return DataclassCodec(event_class)
    if hasattr(event_class, "__required_keys__"):  # also the TypedDict of typing_extensions
        return TypedDictCodec(event_class)
    return None


def _qualifiers(hint: Any) -> list[Any]:
    """Return what surrounds the type of a key: Required, NotRequired or ReadOnly."""
    found = []
    while (origin := get_origin(hint)) is not None and _is_qualifier(origin):
        found.append(origin)
        hint = get_args(hint)[0]
    return found


def _unqualified(hint: Any) -> Any:
    while _is_qualifier(get_origin(hint)):
        hint = get_args(hint)[0]
    return hint


def _is_qualifier(origin: Any) -> bool:
    return getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly")
