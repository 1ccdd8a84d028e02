"""Fields of dataclasses and TypedDict: each value is decoded as it was, or refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, Union
from uuid import UUID

import pytest
from django.db import models
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from django_broadcaster.events import CloudEvent, encode_data
from django_broadcaster.exceptions import InvalidEvent, Rejected
from django_broadcaster.typed_events import (
    event_types,
    from_cloud_event,
    to_cloud_event,
    typed_event,
)

from .classes import Line, PydanticLine, StructLine

OrderId = NewType("OrderId", int)


class Size(models.TextChoices):
    """Choices of a model's field."""

    SMALL = "s"
    LARGE = "l"


class Level(Enum):
    """An enumeration of numbers."""

    ONE = 1
    HALF = 0.5


class Note(TypedDict, total=False):
    """A part of an event."""

    text: str
    at: datetime


@dataclass(frozen=True)
class Tree:
    """A class with fields of its own type."""

    name: str
    parent: Tree | None = None
    children: tuple[Tree, ...] = ()


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
LINES = st.builds(Line, TEXTS, DECIMALS)
SIZES = st.sampled_from(Size)
TREES = st.recursive(
    st.builds(Tree, TEXTS, st.none(), st.just(())),
    lambda trees: st.builds(Tree, TEXTS, trees, st.lists(trees, max_size=2).map(tuple)),
    max_leaves=3,
)
FREE = st.none() | st.booleans() | TEXTS | st.lists(TEXTS) | st.dictionaries(TEXTS, st.integers())

TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, TEXTS),
    (int, st.integers(-(10**30), 10**30)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (None, st.none()),
    (Decimal, DECIMALS),
    (UUID, st.uuids()),
    (datetime, st.datetimes(timezones=st.none() | ZONES)),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (bytes, st.binary(max_size=5)),
    (Size, SIZES),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    (Literal[Size.SMALL, Level.HALF, "a"], st.sampled_from([Size.SMALL, Level.HALF, "a"])),
    (Literal[b"a"], st.just(b"a")),
    (OrderId, st.integers()),
    (Annotated[int, "positive"], st.integers()),
    (Optional[UUID], st.none() | st.uuids()),  # noqa: UP045  # the old spelling
    (Union[int, str], st.integers() | TEXTS),  # noqa: UP007  # the same
    (date | None, st.none() | st.dates()),
    (list[str], st.lists(TEXTS)),
    (tuple[date, ...], st.lists(st.dates()).map(tuple)),
    (tuple[int, str], st.tuples(st.integers(), TEXTS)),
    (set[str], st.sets(TEXTS)),
    (frozenset[Size], st.frozensets(SIZES)),
    (Sequence[Decimal], st.lists(DECIMALS)),
    (dict[str, Decimal], st.dictionaries(TEXTS, DECIMALS)),
    (Mapping[Size, date], st.dictionaries(SIZES, st.dates())),
    (Any, FREE),
    (list, st.lists(FREE)),
    (dict, st.dictionaries(TEXTS, FREE)),
    (Line, LINES),
    (dict[str, list[Line]], st.dictionaries(TEXTS, st.lists(LINES, max_size=2), max_size=2)),
    (Tree, TREES),
    (Note, st.fixed_dictionaries({}, optional={"text": TEXTS, "at": st.datetimes()})),
    (PydanticLine, st.builds(PydanticLine, product=TEXTS, price=DECIMALS)),
    (StructLine, st.builds(StructLine, TEXTS, DECIMALS)),
]


@pytest.mark.parametrize(("kind", "values"), TYPES, ids=[str(kind) for kind, _ in TYPES])
def test_a_value_is_decoded_as_it_was_published(kind: Any, values: st.SearchStrategy[Any]) -> None:
    """Values, types, microseconds and time zones survive the JSON that brokers carry."""
    event_class = declared(kind)

    @settings(max_examples=25, deadline=None)
    @given(values)
    def round_trip(value: Any) -> None:
        sent = to_cloud_event(event_class(value)).to_json()
        found = from_cloud_event(event_class, CloudEvent.from_json(sent)).value
        assert (found, type(found)) == (value, type(value))

    round_trip()


def declared(kind: Any) -> Any:
    """Return a class with one field of a type, `value`."""
    made = make_dataclass("Single", [("value", kind)])
    if known := event_types.find_type("fields.single"):
        event_types.remove(known.event_class)
    return typed_event("fields.single", source="/tests")(made)


@typed_event("fields.some", source="/tests")
@dataclass(frozen=True)
class Some:
    """An event whose fields all have defaults."""

    text: str = ""
    number: int = 0
    ratio: float = 0.0
    price: Decimal = Decimal(0)
    token: UUID | None = None
    day: date = date(2030, 1, 1)
    lasts: timedelta = timedelta()
    raw: bytes = b""
    size: Size = Size.SMALL
    choice: Literal["a", "b"] = "a"
    large: Literal[Size.LARGE] = Size.LARGE
    either: int | str = 0
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    prices: dict[str, Decimal] = field(default_factory=dict)
    tags: set[Any] = field(default_factory=set)
    note: Note = field(default_factory=Note)
    line: Line = Line("", Decimal(0))  # noqa: RUF009  # it is frozen

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        if self.number < 0:
            raise ValueError("number must not be negative")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("text", 7, "data.text: must be text, not an integer"),
        ("text", None, "data.text: must be text, not null"),
        ("number", "7", "data.number: must be an integer, not text"),
        ("number", True, "data.number: must be an integer, not a boolean"),
        ("number", 7.5, "data.number: must be an integer, not a number"),
        ("number", -1, "data: number must not be negative"),
        ("ratio", "0.5", "data.ratio: must be a number, not text"),
        ("ratio", False, "data.ratio: must be a number, not a boolean"),
        pytest.param(
            "ratio", 10**400, "data.ratio: must be a number of at most 1.8e+308", id="ratio-large"
        ),
        ("price", "cheap", "data.price: must be a decimal number"),
        pytest.param("price", 10**5000, "data.price: must be a decimal number", id="price-large"),
        ("price", [], "data.price: must be a decimal number, not an array"),
        ("token", "1", "data.token: must be a UUID"),
        ("token", 1, "data.token: must be a UUID, not an integer"),
        ("day", "today", "data.day: must be a date (ISO 8601)"),
        ("lasts", "long", "data.lasts: must be a duration (ISO 8601)"),
        ("lasts", "P99999999999D", "data.lasts: must be a duration (ISO 8601)"),
        ("raw", "?", "data.raw: must be text in base64"),
        ("size", "m", "data.size: must be one of 's', 'l'"),
        ("size", {}, "data.size: must be one of 's', 'l', not an object"),
        ("choice", "c", "data.choice: must be one of 'a', 'b'"),
        ("large", "s", "data.large: must be one of 'l'"),
        ("either", 0.5, "data.either: must be one of int, str, not a number"),
        ("names", "abc", "data.names: must be an array, not text"),
        ("names", ["a", 1], "data.names[1]: must be text, not an integer"),
        ("pair", [1], "data.pair: must have 2 items, not 1"),
        ("pair", [1, 2], "data.pair[1]: must be text, not an integer"),
        ("prices", [], "data.prices: must be an object, not an array"),
        ("prices", {(1, 2): "1"}, "data.prices: must have text as its keys"),
        ("prices", {1: "1"}, "data.prices: must have text as its keys"),
        ("prices", {"eur": "x"}, "data.prices.eur: must be a decimal number"),
        ("tags", ["a", [1]], "data.tags[1]: must be a value that a set can contain, not an array"),
        ("tags", [{}], "data.tags[0]: must be a value that a set can contain, not an object"),
        ("note", {"at": "x"}, "data.note.at: must be a date and time (ISO 8601)"),
        ("line", {"product": "Cup"}, "data.line.price: is missing"),
        ("line", 7, "data.line: must be an object, not an integer"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, error: str) -> None:
    """The same text whether it is refused when it is published, or rejected when it is read.

    The log has the field of the class, without keys, which may be confidential.
    """
    with pytest.raises(Rejected) as rejected:
        from_cloud_event(Some, CloudEvent("fields.some", "/tests", {name: value}))
    assert str(rejected.value) == f"{error} ({__name__}.Some)"
    part = "the data do" if error.startswith("data:") else f"the field {name!r} does"
    assert rejected.value.reason == f"{part} not fit {__name__}.Some"
    event = Some()
    object.__setattr__(event, name, value)
    with pytest.raises(InvalidEvent) as refused:
        to_cloud_event(event)
    assert str(refused.value) == error


def test_subclasses_of_text_and_lazy_text_are_text() -> None:
    """Django's translations and safe strings are sent as what they show."""
    event = to_cloud_event(Some(text=lazystr("lazy"), names=(mark_safe("safe"),)))
    assert encode_data(event.data["text"]) == '"lazy"'
    found = from_cloud_event(Some, event)
    assert (found.text, found.names) == ("lazy", ("safe",))
    assert [type(each) for each in (found.text, *found.names)] == [str, str]


class Measured(float):
    """A number like numpy's `float64`, with a text of its own."""

    def __repr__(self) -> str:
        return f"Measured({float(self)})"


class Counted(int):
    """An integer with a text of its own."""

    def __repr__(self) -> str:
        return f"Counted({int(self)})"


def test_subclasses_of_numbers_are_numbers() -> None:
    """Libraries for numbers have such classes; JSON has plain ones, also where the type is free."""
    sent = Some(number=Counted(7), ratio=Measured(0.5), tags={Counted(8), Measured(1.5)})
    event = to_cloud_event(sent)
    found = from_cloud_event(Some, CloudEvent.from_json(event.to_json()))
    assert found == sent
    numbers = [event.data["number"], event.data["ratio"], *sorted(event.data["tags"])]
    assert [type(each) for each in numbers] == [int, float, float, int]


class Bits(Flag):
    """Flags, whose combinations have no names."""

    ONE = 1


class Pairs(Enum):
    """Values that are arrays in JSON."""

    ONE = (1, 1)


class Alike(Enum):
    """Values that are the same text in JSON."""

    NUMBER = Decimal(1)
    TEXT = "1"


@dataclass
class OtherLine:
    """Another part of an event."""

    product: str


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (complex, "Single.value: complex is not a supported type of a field"),
        (models.Model, "Single.value: Model is not a supported type"),
        (list[complex], "Single.value: complex is not a supported type"),
        (dict[int, str], "Single.value: int is not a supported type"),
        (Pairs, "Single.value: Pairs is not a supported type"),
        (Literal[Pairs.ONE], "is not a supported type"),
        (Alike, "has two values that are the same in JSON"),
        (Literal[Size.SMALL, "s"], "has two values that are the same in JSON"),
        (Bits, "Single.value: Bits is not a supported type"),
        (type[int], "is not a supported type"),
    ],
)
def test_an_unsupported_type_is_refused_at_the_declaration(kind: Any, message: str) -> None:
    """Not when the first event is published."""
    with pytest.raises(TypeError) as refused:
        declared(kind)
    assert message in str(refused.value)


Free = TypeAliasType("Free", dict[str, Any] | None)


@pytest.mark.parametrize(
    "kind",
    [
        Line | OtherLine,
        Line | PydanticLine | None,
        Line | dict[str, Any],
        dict[str, str] | Line,
        Line | Mapping[str, str],
        Line | dict,
        Union[Line, Any],  # noqa: UP007  # `|` does not take Any
        Union[Line, object],  # noqa: UP007  # the same
        Line | Free,
        Annotated[Line, "sold"] | Free,
        Note | dict[str, str],
        list[Line] | list[OtherLine],
        list[Line] | tuple[Any, ...],
        list[Line] | list,
        list[Line | None] | Sequence[dict[str, str]],
        dict[str, Line] | dict[str, Any],
        Union[list[dict[str, Line]], Any],  # noqa: UP007  # the same
    ],
)
def test_a_union_in_which_an_object_may_fit_a_class_and_another_type_is_refused(kind: Any) -> None:
    """A handler would read the object as the class, and lose the fields that this does not have."""
    with pytest.raises(TypeError, match=r"Single\.value: a union of a class and another class, a "):
        declared(kind)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Line | str | list[str], Line("Teapot", Decimal(1))),
        (list[Line] | list[str], ["a"]),
        (list[Line] | dict[str, Any], {"a": 1}),
        (Line | list[dict[str, Any]], [{"a": 1}]),
        (dict[str, Any] | list[Any] | str, {"a": [1]}),
        (Union[Any, dict[str, Any]], {"a": [1]}),  # noqa: UP007  # `|` does not take Any
    ],
)
def test_a_union_without_such_a_pair_is_decoded_as_it_was_published(kind: Any, value: Any) -> None:
    """Only an object that may fit a class is a reason to refuse a union."""
    event_class = declared(kind)
    assert from_cloud_event(event_class, to_cloud_event(event_class(value))).value == value


def test_pydantic_and_msgspec_are_not_imported_for_other_classes() -> None:
    """They are optional, and a project without them publishes dataclasses."""
    code = """
import sys
from dataclasses import dataclass
from django_broadcaster.typed_events import from_cloud_event, to_cloud_event, typed_event
@typed_event("order.placed", source="/shop", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
assert from_cloud_event(OrderPlaced, to_cloud_event(OrderPlaced(7))) == OrderPlaced(7)
print(sorted({"pydantic", "msgspec"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
