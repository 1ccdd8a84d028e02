"""Events: defaults, values, equality and immutability."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from django.utils.safestring import mark_safe

from django_broadcaster.events import ABSENT, JSON_NULL, CloudEvent
from tests.events.samples import NOON, make, members, refused


def test_defaults() -> None:
    """An event gets a UUIDv7, the current time in UTC, and no optional attribute."""
    before = datetime.now(UTC)
    event = CloudEvent(event_type="t", source="s")
    assert UUID(event.id).version == 7
    assert event.time is not None
    assert before <= event.time <= datetime.now(UTC)
    assert event.time.tzinfo is UTC
    assert (event.subject, event.data_schema) == ("", "")
    assert (event.data_content_type, event.stated_content_type) == ("application/json", "")
    assert (event.spec_version, event.extensions, event.partition_key) == ("1.0", {}, None)


def test_generated_ids_differ_and_sort() -> None:
    """Ids made one after the other are unique and in order."""
    ids = [CloudEvent(event_type="t", source="s").id for _ in range(1000)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (None, "application/json"),
        (JSON_NULL, "application/json"),
        ({}, "application/json"),
        ("text", "application/json"),
        (b"", "application/octet-stream"),
        (bytearray(b"x"), "application/octet-stream"),
        (memoryview(b"x"), "application/octet-stream"),
    ],
)
def test_default_content_type(data: Any, content_type: str) -> None:
    """The content type follows from the data where it is not given."""
    assert make(data=data).data_content_type == content_type


def test_absent_data_is_not_null() -> None:
    """Both read as None, and `has_data` and equality tell them apart."""
    absent, null = make(data=None), make(data=JSON_NULL)
    assert (absent.data, absent.has_data) == (None, False)
    assert (null.data, null.has_data) == (None, True)
    assert absent != null
    assert absent == make()
    assert (repr(ABSENT), repr(JSON_NULL)) == ("ABSENT", "JSON_NULL")


def test_binary_data_becomes_bytes() -> None:
    """Other buffers are copied into bytes, so that nobody changes them afterwards."""
    buffer = bytearray(b"abc")
    event = make(data=buffer)
    buffer[:] = b"xyz"
    assert event.data == b"abc"


def test_empty_subject_is_none() -> None:
    """The specification wants a subject non-empty; a model's empty one counts as none."""
    assert make(subject="").subject == make(subject=None).subject == ""


def test_times() -> None:
    """Times are kept in UTC, from aware datetimes or RFC 3339 text, and None leaves them out."""
    offset = timezone(timedelta(hours=2))
    assert make(time=datetime(2018, 4, 5, 19, 31, tzinfo=offset)).time == NOON
    assert make(time="2018-04-05T19:31:00+02:00").time == NOON
    assert str(make(time="2018-04-05T19:31:00+02:00").time) == "2018-04-05 17:31:00+00:00"
    assert make(time=None).time is None


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2018-04-05T17:31:00Z", 0),
        ("2018-04-05t17:31:00z", 0),
        ("2018-04-05T17:31:00.5Z", 500_000),
        ("2018-04-05T17:31:00.123456Z", 123_456),
        ("2018-04-05T17:31:00.123456999Z", 123_456),
        ("2018-04-05T15:01:00.25-02:30", 250_000),
        ("2018-04-05T17:31:00-00:00", 0),
    ],
)
def test_rfc3339(text: str, microsecond: int) -> None:
    """Every form of RFC 3339 is read, and digits after microseconds are cut off."""
    assert CloudEvent.from_dict(members(time=text)).time == NOON.replace(microsecond=microsecond)


def test_extensions_become_json_values() -> None:
    """Binary and timestamp values get their canonical text, unset ones are dropped."""
    event = make(
        extensions={
            "flag": True,
            "low": -(2**31),
            "high": 2**31 - 1,
            "text": "äöü 😀",
            "empty": "",
            "binary": b"\x00\xff",
            "stamp": datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            "unset": None,
            "a2345678901234567890": 1,
        }
    )
    assert event.extensions == {
        "flag": True,
        "low": -(2**31),
        "high": 2**31 - 1,
        "text": "äöü 😀",
        "empty": "",
        "binary": "AP8=",
        "stamp": "2020-01-01T00:00:00Z",
        "a2345678901234567890": 1,
    }


def test_partition_key() -> None:
    """The partition key is the extension of that name."""
    assert make(extensions={"partitionkey": "order-1"}).partition_key == "order-1"


def test_str_subclasses_become_plain_str() -> None:
    """Members of an Enum and safe strings are stored as the text they stand for."""

    class Kind(str, Enum):  # noqa: UP042 (StrEnum and TextChoices are the harmless ones)
        CREATED = "order.created"

    event = make(event_type=Kind.CREATED, subject=mark_safe("s"), extensions={"k": Kind.CREATED})
    assert [type(v) for v in (event.type, event.subject, event.extensions["k"])] == [str] * 3
    assert event.type == "order.created"


def test_identity_and_equality() -> None:
    """Events are equal by value and hashed by their identity."""
    event = make(data={"a": 1}, extensions={"x": 1})
    assert event == make(data={"a": 1}, extensions={"x": 1})
    assert event != make(data={"a": 2}, extensions={"x": 1})
    assert event != make(data={"a": 1}, extensions={"x": 2})
    assert event != "event"
    assert hash(event) == hash(make(subject="other"))
    assert len({event, make(), make(id="B")}) == 3


def test_repr_keeps_data_to_itself() -> None:
    """The repr names the event and shows no payload, which may be confidential."""
    shown = repr(make(data={"password": "secret"}))
    assert shown == "CloudEvent(event_type='com.example.someevent', source='/mycontext', id='A234')"


# --- Immutability --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["type", "event_type", "data", "_data", "extensions", "has_data", "new"]
)
def test_attributes_cannot_be_set(name: str) -> None:
    """An event cannot be changed, and has no room for new attributes."""
    event = make()
    with pytest.raises(dataclasses.FrozenInstanceError, match="replace"):
        setattr(event, name, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(event, name)
    assert event == make()


def test_extensions_cannot_be_changed() -> None:
    """Extensions are a read-only copy of what was given."""
    given_extensions = {"a": 1}
    event = make(extensions=given_extensions)
    given_extensions["b"] = 2
    assert event.extensions == {"a": 1}
    assert isinstance(event.extensions, MappingProxyType)
    with pytest.raises(TypeError):
        event.extensions["b"] = 2  # type: ignore[index]


def test_replace() -> None:
    """A replaced event keeps everything else, absent data and a missing time included."""
    event = make(time=None, subject="s", extensions={"a": 1})
    changed = event.replace(event_type="other", extensions={"b": 2})
    assert (changed.type, changed.extensions, changed.id) == ("other", {"b": 2}, event.id)
    assert (changed.has_data, changed.time, changed.subject) == (False, None, "s")
    assert event.replace() == event
    assert event.replace(extensions=None).extensions == {}
    assert event.replace(data=JSON_NULL).has_data
    assert not event.replace(data=1).replace(data=None).has_data
    assert refused(lambda: event.replace(source="a b")).field == "source"
    with pytest.raises(TypeError):
        event.replace(unknown=1)


def pickled(event: CloudEvent) -> CloudEvent:
    """The event after a trip through pickle."""
    again = pickle.loads(pickle.dumps(event))  # noqa: S301 (our own bytes)
    assert isinstance(again, CloudEvent)
    return again


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, pickled])
def test_copies_are_equal(twin: Callable[[CloudEvent], CloudEvent]) -> None:
    """Events can be copied and pickled, read-only extensions included."""
    for event in (make(data={"a": [1]}, extensions={"a": 1}), make(time=None), make(data=None)):
        again = twin(event)
        assert again == event
        assert again.has_data is event.has_data
        assert isinstance(again.extensions, MappingProxyType)
