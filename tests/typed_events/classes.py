"""Declared events: the same order as a dataclass, a TypedDict, a pydantic model and a struct."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NotRequired
from uuid import UUID

import msgspec
import pydantic
import pytest
from typing_extensions import TypedDict

from django_broadcaster.typed_events import typed_event, upcasts

NOON = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
TOKEN = UUID("00000000-0000-0000-0000-000000000001")


@dataclass(frozen=True)
class Line:
    """A part of `DataclassOrder`."""

    product: str
    price: Decimal


@typed_event("order.dataclass", source="/shop", key="order_id", subject="token", version=3)
@dataclass(frozen=True)
class DataclassOrder:
    """An order as a dataclass."""

    order_id: int
    token: UUID
    at: datetime
    lines: list[Line]
    note: str = ""


class TypedDictLine(TypedDict):
    """A part of `TypedDictOrder`."""

    product: str
    price: Decimal


@typed_event("order.typeddict", source="/shop", key="order_id", subject="token", version=3)
class TypedDictOrder(TypedDict):
    """An order as a dictionary."""

    order_id: int
    token: UUID
    at: datetime
    lines: list[TypedDictLine]
    note: NotRequired[str]


class PydanticLine(pydantic.BaseModel):
    """A part of `PydanticOrder`."""

    product: str
    price: Decimal


@typed_event("order.pydantic", source="/shop", key="order_id", subject="token", version=3)
class PydanticOrder(pydantic.BaseModel):
    """An order as a pydantic model, which is as strict as pydantic can be."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True)

    order_id: int
    token: UUID
    at: datetime
    lines: list[PydanticLine]
    note: str = ""


class StructLine(msgspec.Struct, frozen=True):
    """A part of `StructOrder`."""

    product: str
    price: Decimal


@typed_event("order.struct", source="/shop", key="order_id", subject="token", version=3)
class StructOrder(msgspec.Struct, frozen=True):
    """An order as a msgspec struct."""

    order_id: int
    token: UUID
    at: datetime
    lines: list[StructLine]
    note: str = ""


KINDS: dict[type[Any], type[Any]] = {
    DataclassOrder: Line,
    TypedDictOrder: TypedDictLine,
    PydanticOrder: PydanticLine,
    StructOrder: StructLine,
}
"""The classes, each with the class of its lines."""

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)

for _kind in KINDS:

    @upcasts(_kind, from_version=1)
    def from_1(data: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had one product without a price."""
        return {**data, "lines": [{"product": data.pop("product"), "price": "0"}]}

    @upcasts(_kind, from_version=2)
    def from_2(data: dict[str, Any]) -> dict[str, Any]:
        """Version 2 had the id under another name."""
        return {"order_id": data.pop("id"), **data}


def order(kind: type[Any], **changes: Any) -> Any:
    """Return an order of a class."""
    line = KINDS[kind](product="Teapot", price=Decimal("19.90"))
    return kind(**{"order_id": 7, "token": TOKEN, "at": NOON, "lines": [line], **changes})


def invalid(kind: type[Any]) -> Any:
    """Return an order whose second line has a price that is not a number."""
    lines = [KINDS[kind](product="Teapot", price=Decimal(1)) for _ in range(2)]
    if kind is PydanticOrder:
        lines[1] = PydanticLine.model_construct(product="Cup", price="cheap")  # type: ignore[arg-type]
    elif kind is TypedDictOrder:
        lines[1]["price"] = "cheap"
    else:
        lines[1] = KINDS[kind](product="Cup", price="cheap")
    return order(kind, lines=lines)


def data_of(**changes: Any) -> dict[str, Any]:
    """Return the JSON of an order, as other programs write it."""
    data = {
        "order_id": 7,
        "token": str(TOKEN),
        "at": "2030-01-01T12:00:00.123456Z",
        "lines": [{"product": "Teapot", "price": "19.90"}],
        **changes,
    }
    return {name: value for name, value in data.items() if value is not None}


def arguments(event: Any) -> tuple[Any, ...]:
    """Return the arguments of `publish` for an event: a dictionary needs its class."""
    return (TypedDictOrder, event) if isinstance(event, dict) else (event,)
