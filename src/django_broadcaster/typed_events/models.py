"""The codecs of pydantic's and msgspec's classes, which validate themselves.

Both read JSON text. In this mode their strict settings accept what JSON has no type for, such as a
date as text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property
from typing import Any, Final, TypeVar

from django_broadcaster.events import encode_data

from .codec import Codec, Mismatch
from .formats import add_formats

T = TypeVar("T")

_PLACE: Final = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")


class PydanticCodec(Codec[T]):
    """The codec of pydantic's models and dataclasses, which have their own aliases and defaults."""

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter

        return TypeAdapter(self.event_class)

    def prepare(self) -> None:
        """Build the validator, which pydantic has postponed if a type was not defined."""
        found: Any = self.event_class
        if hasattr(found, "model_rebuild"):
            found.model_rebuild()
        self._adapter  # noqa: B018

    def fields(self) -> Collection[str]:
        """Return the names of the fields, not their aliases."""
        return tuple(self._fields())

    def required(self) -> Collection[str]:
        """Return the names of the fields that have no default, by alias."""
        return [
            name if each.validation_alias is None else str(each.validation_alias)
            for name, each in self._fields().items()
            if each.is_required()
        ]

    def _fields(self) -> dict[str, Any]:
        found: Any = self.event_class
        fields: dict[str, Any] = getattr(found, "__pydantic_fields__", None) or found.model_fields
        return fields

    def dump(self, event: T) -> Any:
        """Return the JSON values that pydantic writes, by alias."""
        try:
            return self._adapter.dump_python(event, mode="json", by_alias=True, warnings=False)
        except ValueError as error:  # PydanticSerializationError
            raise Mismatch(str(error)) from error

    def load(self, data: Any, *, known_fields_only: bool = False) -> T:
        """Return the validated event; `extra` of the model decides about unknown fields."""
        from pydantic import ValidationError

        try:
            event: T = self._adapter.validate_json(encode_data(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise Mismatch(first["msg"], first["loc"]) from error
        return event

    def schema(self) -> dict[str, Any]:
        """Return pydantic's schema of the data as they are sent."""
        return pydantic_schema(self.event_class)


class MsgspecCodec(Codec[T]):
    """The codec of msgspec's structs."""

    @cached_property
    def _decoder(self) -> Any:
        from msgspec.json import Decoder

        return Decoder(self.event_class)

    def prepare(self) -> None:
        """Build the decoder."""
        self._decoder  # noqa: B018

    def fields(self) -> Collection[str]:
        """Return the names of the fields in Python."""
        found: Any = self.event_class
        names: tuple[str, ...] = found.__struct_fields__
        return names

    def required(self) -> Collection[str]:
        """Return the names of the fields that have no default, as the struct writes them."""
        from msgspec.structs import fields

        found: Any = self.event_class
        return [each.encode_name for each in fields(found) if each.required]

    def dump(self, event: T) -> Any:
        """Return the JSON values that msgspec writes, by the names that the struct gives them."""
        from msgspec import to_builtins

        try:
            return to_builtins(event, str_keys=True)
        except (TypeError, ValueError) as error:
            raise Mismatch(str(error)) from error

    def load(self, data: Any, *, known_fields_only: bool = False) -> T:
        """Return the validated event; `forbid_unknown_fields` decides about unknown fields."""
        from msgspec import ValidationError

        try:
            event: T = self._decoder.decode(encode_data(data))
        except ValidationError as error:
            raise _mismatch_of(str(error)) from error
        return event

    def schema(self) -> dict[str, Any]:
        """Return msgspec's schema."""
        return msgspec_schema(self.event_class)


def model_codec_of(event_class: type[Any]) -> Codec[Any] | None:
    """Return the codec of a class of pydantic or msgspec; None for other classes."""
    if hasattr(event_class, "__pydantic_core_schema__"):
        return PydanticCodec(event_class)
    if hasattr(event_class, "__struct_fields__"):
        return MsgspecCodec(event_class)
    return None


def pydantic_schema(event_class: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema that pydantic makes; raises ImportError or TypeError."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(event_class)
        return adapter.json_schema(by_alias=True, mode="serialization")
    except PydanticUserError as error:
        raise TypeError(
            f"pydantic has no JSON Schema of {event_class.__name__}: {error}"
        ) from error


def msgspec_schema(event_class: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema that msgspec makes; raises ImportError or TypeError."""
    from msgspec.json import schema

    found = schema(event_class)
    add_formats(found, event_class)
    return found


def _mismatch_of(text: str) -> Mismatch:
    """Return the error of msgspec's text, in which the path follows the problem."""
    placed = _PLACE.fullmatch(text)
    problem, place = placed.groups() if placed else (text, "")
    steps = [int(index) if index else name for name, index in _STEP.findall(place)]
    if missing := _MISSING.fullmatch(problem):
        problem, steps = "is missing", [*steps, missing[1]]
    return Mismatch(problem, tuple(steps))
