"""Classes of pydantic and msgspec keep their own names, rules and order of declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass

from django_broadcaster.exceptions import InvalidEvent, Rejected
from django_broadcaster.typed_events import from_cloud_event, to_cloud_event, typed_event


@typed_event("models.pydantic", source="/tests", key="order_id")
class CamelModel(pydantic.BaseModel):
    """A model whose JSON has names in another style."""

    model_config = pydantic.ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid"
    )

    order_id: int = pydantic.Field(gt=0)


@typed_event("models.struct", source="/tests", key="order_id")
class CamelStruct(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The same as a struct."""

    order_id: int


@typed_event("models.dataclass", source="/tests", key="order_id")
@pydantic_dataclass(frozen=True)
class PydanticDataclass:
    """A dataclass that pydantic validates."""

    order_id: int = pydantic.Field(gt=0)


@pytest.mark.parametrize("kind", [CamelModel, CamelStruct])
def test_names_of_the_json_are_those_of_the_class(kind: Any) -> None:
    """Published and received data have them, and so does the path of an error."""
    event = to_cloud_event(kind(order_id=7))
    assert (event.data, event.partition_key) == ({"orderId": 7}, "7")
    assert from_cloud_event(kind, event) == kind(order_id=7)
    with pytest.raises(Rejected, match=r"^data\.orderId: "):
        from_cloud_event(kind, event.replace(data={"orderId": "seven"}))


@pytest.mark.parametrize("kind", [CamelModel, CamelStruct])
def test_a_class_may_forbid_unknown_fields(kind: Any) -> None:
    """The class decides, for data that it reads."""
    event = to_cloud_event(kind(order_id=7))
    with pytest.raises(Rejected, match="added"):
        from_cloud_event(kind, event.replace(data={"orderId": 7, "added": 1}))


def test_pydantic_validates_its_dataclasses() -> None:
    """They are pydantic's, not this package's."""
    event = to_cloud_event(PydanticDataclass(order_id=7))
    assert from_cloud_event(PydanticDataclass, event) == PydanticDataclass(order_id=7)
    with pytest.raises(Rejected, match=r"^data\.order_id: Input should be greater than 0"):
        from_cloud_event(PydanticDataclass, event.replace(data={"order_id": 0}))


def test_a_model_that_was_changed_is_validated_again() -> None:
    """Pydantic validates a model when it is created, and by default not afterwards."""
    event = CamelModel(order_id=7)
    event.order_id = -1
    with pytest.raises(InvalidEvent, match=r"^data\.orderId: Input should be greater than 0"):
        to_cloud_event(event)


@typed_event("later.dataclass", source="/tests")
@dataclass
class EarlyDataclass:
    """A class with a field of a class that follows."""

    part: LateDataclass


@typed_event("later.pydantic", source="/tests")
class EarlyModel(pydantic.BaseModel):
    """The same as a model."""

    part: LateModel


@typed_event("later.struct", source="/tests")
class EarlyStruct(msgspec.Struct):
    """The same as a struct."""

    part: LateStruct


@dataclass
class LateDataclass:
    """A part."""

    number: int


class LateModel(pydantic.BaseModel):
    """A part."""

    number: int


class LateStruct(msgspec.Struct):
    """A part."""

    number: int


@pytest.mark.parametrize(
    ("kind", "part"),
    [(EarlyDataclass, LateDataclass), (EarlyModel, LateModel), (EarlyStruct, LateStruct)],
)
def test_a_field_may_have_a_class_that_follows(kind: Any, part: Any) -> None:
    """The first use resolves it."""
    event = kind(part=part(number=7))
    assert from_cloud_event(kind, to_cloud_event(event)) == event
