"""What an event refuses, and with which words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.utils.functional import lazystr

from django_broadcaster.events import JSON_NULL
from tests.events.samples import LONE_SURROGATE, VALID_SOURCES, make, refused

INVALID_SOURCES = [
    "",
    ":foo",
    "1a:b",
    "a b",
    "ü",
    "%zz",
    "a%4",
    "http://[:::]/",
    "http://[::1%25eth0]/",
    "http://host:port/",
    "a[b]",
    "a#b#c",
    "a\\b",
    "<a>",
    "a\n",
    "{a}",
    'a"b',
    None,
    b"/bytes",
    5,
]
INVALID_TEXTS = [
    "",
    "a\nb",
    "\x00",
    "\x1f",
    "\x7f",
    "\x9f",
    LONE_SURROGATE,
    "\udfff",
    "\ufdd0",
    "\ufdef",
    "\ufffe",
    "\uffff",
    "\U0001fffe",
    "\U0010ffff",
    5.5,
    True,
    b"bytes",
    ["list"],
]
INVALID_MEDIA_TYPES = [
    "",
    "json",
    "application/",
    "/json",
    "application/json;",
    "application/json; charset",
    "application/json; charset=",
    "appli cation/json",
    "a/b/c",
    "ä/json",
    'text/plain; a="',
    5,
]
INVALID_TIMES = [
    datetime(2020, 1, 1),  # noqa: DTZ001 (naive on purpose)
    datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    date(2020, 1, 1),
    1577836800,
    "",
    "2020-01-01",
    "2020-01-01T00:00:00",
    "2020-01-01 00:00:00Z",
    "2020-01-01T24:00:00Z",
    "2020-01-01T00:60:00Z",
    "2020-01-01T00:00:61Z",
    "2020-01-01T00:00:00.Z",
    "2020-01-01T00:00:00+0100",
    "2020-01-01T00:00:00+24:00",
    "2020-13-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "20200101T000000Z",
    "2020-W01-1T00:00:00Z",
    "٢٠٢٠-01-01T00:00:00Z",
]
INVALID_EXTENSIONS = [
    {"": 1},
    {"camelCase": 1},
    {"with-dash": 1},
    {"with_underscore": 1},
    {"ä": 1},
    {"new\n": 1},
    {"a23456789012345678901": 1},
    {5: 1},
    *({name: "x"} for name in ("id", "source", "specversion", "type", "datacontenttype")),
    *({name: "x"} for name in ("dataschema", "subject", "time", "data", "data_base64")),
    {"x": 2**31},
    {"x": -(2**31) - 1},
    {"x": 1.5},
    {"x": Decimal(1)},
    {"x": ["a"]},
    {"x": {"a": 1}},
    {"x": date(2020, 1, 1)},
    {"x": datetime(2020, 1, 1)},  # noqa: DTZ001 (naive on purpose)
    {"x": "a\nb"},
    {"x": LONE_SURROGATE},
    {"partitionkey": ""},
    {"partitionkey": 5},
    [("x", 1)],
    "text",
]


def every_invalid_value() -> Iterator[tuple[str, str, Any]]:
    """(field of the error, argument, value)."""
    tables: list[tuple[str, str, Iterable[Any]]] = [
        ("source", "source", [*INVALID_SOURCES, *INVALID_TEXTS]),
        ("event_type", "event_type", [*INVALID_TEXTS, 5, None]),
        ("event_id", "id", INVALID_TEXTS),
        ("subject", "subject", INVALID_TEXTS[1:]),
        (
            "data_schema",
            "data_schema",
            [*filter(None, INVALID_SOURCES), "/relative", "no-scheme", "//host/x"],
        ),
        ("data_content_type", "data_content_type", filter(None, INVALID_MEDIA_TYPES)),
        ("time", "time", INVALID_TIMES),
        ("extensions", "extensions", INVALID_EXTENSIONS),
    ]
    for field, argument, values in tables:
        # None stands for "not given" everywhere but in the two required arguments.
        required = argument in ("source", "event_type")
        yield from ((field, argument, v) for v in values if v is not None or required)


@pytest.mark.parametrize(("field", "argument", "value"), list(every_invalid_value()))
def test_invalid_input(field: str, argument: str, value: Any) -> None:
    """An invalid argument raises InvalidEvent with the name that publish_event has for it."""
    error = refused(lambda: make(**{argument: value}))
    assert error.field == field
    assert str(error) == f"{field}: {error.message}"
    assert str(error).isprintable(), "what is invalid must not reach a log as it is"


@pytest.mark.parametrize("source", VALID_SOURCES)
def test_valid_sources(source: str) -> None:
    """URI references are valid sources, and those with a scheme are valid schemas."""
    assert make(source=source).source == source
    if source.partition(":")[0].isalpha():
        assert make(data_schema=source).data_schema == source


@pytest.mark.parametrize(
    ("media_type", "is_json"),
    [
        ("application/json", True),
        ("APPLICATION/JSON", True),
        ("text/json; charset=utf-8", True),
        ("application/problem+json", True),
        ("application/vnd.shop.order+JSON;v=1", True),
        ("text/plain", False),
        ("application/json-seq", False),
        ("application/xjson", False),
        ('text/plain; a="b;\\"c"', False),
        ('text/plain; a="application/json"', False),
    ],
)
def test_media_types(media_type: str, is_json: bool) -> None:
    """Objects may be the data of JSON content types alone; text and bytes of every one."""
    for data in ("text", lazystr("text"), b"bytes", None):
        assert make(data=data, data_content_type=media_type).data_content_type == media_type
    values: list[Any] = [{}, [], JSON_NULL, 5]
    for value in values:
        if is_json:
            read = None if value is JSON_NULL else value
            assert make(data=value, data_content_type=media_type).data == read
        else:
            error = refused(lambda v=value: make(data=v, data_content_type=media_type))  # type: ignore[misc]
            assert error.field == "data_content_type"


def test_messages_name_the_fix() -> None:
    """Errors say what to do about them."""
    assert "make_aware" in refused(lambda: make(time=datetime(2020, 1, 1))).message  # noqa: DTZ001
    assert "percent-encode" in refused(lambda: make(source="a b")).message
    assert "'partitionkey' must be a non-empty string; use str(...)" in (
        refused(lambda: make(extensions={"partitionkey": 5})).message
    )
    assert (
        "must be a non-empty string, not UUID"
        in refused(lambda: make(event_type=UUID(int=1))).message
    )
    assert "a string, an integer or a UUID, not list" in refused(lambda: make(id=["1"])).message


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 10**5 + " ",
        "a:" + "/" * 10**5 + " ",
        "//" + "a@" * 10**5,
        "%41" * 10**5 + "%",
        "[" * 10**5,
    ],
)
def test_hostile_values_are_refused_in_linear_time(hostile: str) -> None:
    """No long value sends a pattern into backtracking, which would take minutes."""
    assert refused(lambda: make(source=hostile)).field == "source"
    assert refused(lambda: make(data_schema=hostile)).field == "data_schema"
    assert refused(lambda: make(data_content_type=f"a/b;{hostile}")).field == "data_content_type"


def test_errors_show_little_of_a_long_value() -> None:
    """A value of megabytes does not end in the log."""
    assert len(str(refused(lambda: make(source=" " * 10**6)))) < 300
