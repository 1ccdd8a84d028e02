"""Data as JSON text."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

import orjson
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given

from django_broadcaster.events import MAX_DEPTH, MAX_DIGITS, encode_data
from tests.events.samples import LONE_SURROGATE, refused
from tests.events.strategies import JSON


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_encode_data_like_django() -> None:
    """Dates, decimals, UUIDs, lazy strings and keys are encoded as Django's encoder does."""
    data = {
        "when": datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "day": date(2020, 1, 2),
        "at": time(3, 4),
        "span": timedelta(days=1),
        "price": Decimal("1.10"),
        "id": UUID(int=1),
        "lazy": lazystr("ä"),
        "tuple": (1, None, True),
        5: 1.5,
        None: "none",
    }
    assert encode_data(data) == (
        '{"when":"2020-01-02T03:04:05.678Z","day":"2020-01-02","at":"03:04:00",'
        '"span":"P1DT00H00M00S","price":"1.10","id":"00000000-0000-0000-0000-000000000001",'
        '"lazy":"ä","tuple":[1,null,true],"5":1.5,"null":"none"}'
    )


@pytest.mark.parametrize(
    "data", [None, "", 0, [], {}, "ä😀", nested(MAX_DEPTH), 10**MAX_DIGITS - 1]
)
def test_encode_data_takes(data: Any) -> None:
    """What JSON and all databases can hold is encoded."""
    assert json.loads(encode_data(data)) == data


class Colour(Enum):
    """Members that are no text."""

    RED = "red"


class Size(IntEnum):
    """Members that are integers."""

    LARGE = 3


class Label(StrEnum):
    """Members that are text, and whose value is something else."""

    def __new__(cls, text: str, number: int) -> Self:
        member = str.__new__(cls, text)
        member._value_ = number  # type: ignore[assignment]
        return member

    FIRST = ("first", 1)


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


@dataclass
class Record:
    """An object that some encoders take."""

    name: str = "a"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": Size.LARGE, "b": None}, '{"a":3,"b":null}'),
        ([Label.FIRST], '["first"]'),
        ({Label.FIRST: 1}, '{"first":1}'),
        ([Point(1, 2), (3,)], "[[1,2],[3]]"),
        (mark_safe("<b>"), '"<b>"'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (QueryDict("a=1&a=2&b=3"), '{"a":"2","b":"3"}'),
        ({"form": MultiValueDict({"a": [1, 2]})}, '{"form":{"a":2}}'),
        (True, "true"),
        ([1, 1.0, -0.0, 2**64, -(2**63)], "[1,1.0,-0.0,18446744073709551616,-9223372036854775808]"),
        ("\x01\x7f\u2028/<>&'\"\\", '"\\u0001\x7f\u2028/<>&\'\\"\\\\"'),
    ],
)
def test_encode_data_by_meaning(data: Any, text: str) -> None:
    """Subclasses are what Django's encoder takes them for, whatever they hold."""
    assert encode_data(data) == text == dumped(data)


def dumped(data: Any) -> str:
    """The text that Django's encoder makes of data, without spaces."""
    return json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=False, separators=(",", ":"))


@given(JSON)
def test_encode_data_means_what_the_standard_library_means(data: Any) -> None:
    """Any JSON is encoded to text that reads back as what the standard library's text does."""
    read, expected = json.loads(encode_data(data)), json.loads(dumped(data))
    assert repr(read) == repr(expected)


CYCLE: list[Any] = []
CYCLE.append({"again": CYCLE})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (float("nan"), "has nan;"),
        ({"a": [0, None, float("inf")]}, "has inf at data['a'][2]"),
        ({float("nan"): 1}, "has nan at data[nan]"),
        ({"a": {1, 2}}, "at data['a']: Object of type set is not JSON serializable"),
        ({"a": object()}, "Object of type object"),
        ({"a": b"bytes"}, "Object of type bytes"),
        ({"a": Colour.RED}, "at data['a']: Object of type Colour"),
        ([Record()], "at data[0]: Object of type Record"),
        ({"a": orjson.Fragment('{"a":')}, "at data['a']: Object of type"),
        ({"a": orjson.Fragment("1")}, "at data['a']: Object of type"),
        ({(1, 2): "a"}, "has a key of type tuple"),
        ({lazystr("a"): 1}, "has a key of type __proxy__"),
        ({"at": time(1, tzinfo=UTC)}, "at data['at']: JSON can't represent timezone-aware times"),
        ("a\0b", "U+0000"),
        ({"a": ["x", "a\0b"]}, "U+0000 at data['a'][1]"),
        ({"a\0": 1}, "U+0000 at data['a\\x00']"),
        ({"a": lazystr("\0")}, "U+0000 at data['a']"),
        ({"a": LONE_SURROGATE}, "lone surrogate at data['a']"),
        ({LONE_SURROGATE: 1}, "lone surrogate at data['\\ud800']"),
        ({"a": 10**MAX_DIGITS}, f"over {MAX_DIGITS} digits at data['a']"),
        ([-(10**5000)], f"over {MAX_DIGITS} digits at data[0]"),
        ({10**400: 1}, f"over {MAX_DIGITS} digits"),
        (nested(MAX_DEPTH + 1), f"nested over {MAX_DEPTH} levels"),
        ([{"a": nested(MAX_DEPTH - 1)}, 5], f"nested over {MAX_DEPTH} levels"),
        (nested(100_000), f"nested over {MAX_DEPTH} levels"),
        (CYCLE, "contains itself"),
    ],
)
def test_encode_data_refuses(data: Any, message: str) -> None:
    """What JSON or a database cannot hold raises InvalidEvent("data") saying what and where."""
    error = refused(lambda: encode_data(data))
    assert error.field == "data"
    assert message in error.message
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        "\\u0000",
        {"\\u0000": "\\\\u0000"},
        ["1" * 5000],
        [[]] * 1000,
        ["[" * 1000],
        [{"a": [1]}] * 500,
    ],
)
def test_encode_data_is_not_fooled(data: Any) -> None:
    """Text that looks like U+0000, a long number or deep nesting is none of them."""
    assert json.loads(encode_data(data)) == data


def test_long_numbers_are_found_wherever_they_stand() -> None:
    """The quick look for long integers misses none, at any offset."""
    for offset in range(50):
        data = ["x" * offset, 10**MAX_DIGITS, "tail"]
        assert "digits at data[1]" in refused(lambda data=data: encode_data(data)).message  # type: ignore[misc]
