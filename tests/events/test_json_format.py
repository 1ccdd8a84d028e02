"""The JSON event format: examples, members, batches and the relay's envelope."""

from __future__ import annotations

import copy
import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from django_broadcaster.events import (
    JSON_NULL,
    CloudEvent,
    encode_data,
    envelope,
    from_json_batch,
    to_json_batch,
)
from django_broadcaster.testing import make_message
from tests.events.samples import LONE_SURROGATE, NOON, make, members, refused


def test_examples_of_the_specification() -> None:
    """The examples of the specification's JSON format, section 3.2, are read as it says."""
    common = {"comexampleextension1": "value", "comexampleothervalue": 5}
    base = members(source="/mycontext", time="2018-04-05T17:31:00Z", **common)
    thrift = "application/vnd.apache.thrift.binary"
    binary = CloudEvent.from_dict({**base, "datacontenttype": thrift, "data_base64": "AAEC"})
    assert (binary.data, binary.data_content_type) == (b"\x00\x01\x02", thrift)
    xml = {
        "unsetextension": None,
        "datacontenttype": "application/xml",
        "data": '<much wow="xml"/>',
    }
    assert CloudEvent.from_dict({**base, **xml}).data == '<much wow="xml"/>'
    assert CloudEvent.from_dict({**base, **xml}).extensions == common
    content = {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True}
    as_json = {"subject": None, "datacontenttype": "application/json", "data": content}
    event = CloudEvent.from_json(json.dumps({**base, **as_json}))
    assert (event.data, event.subject, event.time) == (content, "", NOON)
    implied = CloudEvent.from_dict({**base, "data": "I'm just a string"})
    assert (implied.data, implied.data_content_type) == ("I'm just a string", "application/json")


def test_to_json() -> None:
    """Members have the specification's names, and unset ones are left out."""
    event = make(
        subject="123",
        data={"ä": 1},
        data_schema="https://example.com/schema",
        extensions={"partitionkey": "k"},
    )
    assert event.to_json().decode() == (
        '{"specversion":"1.0","id":"A234","source":"/mycontext","type":"com.example.someevent",'
        '"subject":"123","time":"2018-04-05T17:31:00Z","datacontenttype":"application/json",'
        '"dataschema":"https://example.com/schema","partitionkey":"k","data":{"ä":1}}'
    )
    assert make(time=None).to_dict() == {
        "specversion": "1.0",
        "id": "A234",
        "source": "/mycontext",
        "type": "com.example.someevent",
    }


@pytest.mark.parametrize(
    ("data", "content_type", "member"),
    [
        (None, None, {}),
        (None, "text/plain", {}),
        (JSON_NULL, None, {"data": None}),
        ("text", None, {"data": "text"}),
        ("<a/>", "application/xml", {"data": "<a/>"}),
        (b"\x00", None, {"data_base64": "AA=="}),
        (b"{}", "application/json", {"data_base64": "e30="}),
        ([1], "application/problem+json", {"data": [1]}),
    ],
)
def test_data_member(data: Any, content_type: str | None, member: dict[str, Any]) -> None:
    """Binary data goes as data_base64, everything else as a JSON value, and back."""
    event = make(data=data, data_content_type=content_type)
    read = json.loads(event.to_json())
    assert {
        name: value for name, value in read.items() if name in ("data", "data_base64")
    } == member
    assert read == event.to_dict()
    assert CloudEvent.from_json(event.to_json()) == event


def test_to_dict_keeps_the_data_as_it_is() -> None:
    """`to_dict` does not encode the data, `to_json` does."""
    data = {"price": Decimal("1.10")}
    assert make(data=data).to_dict()["data"] is data
    assert json.loads(make(data=data).to_json())["data"] == {"price": "1.10"}
    assert refused(make(data={"a": float("nan")}).to_json).field == "data"


def test_binary_without_content_type_stays_without_one() -> None:
    """Received bytes have no media type that their sender did not state, whatever is done to them.

    JSON is implied where `datacontenttype` is missing, but only for the member `data`.
    """
    event = CloudEvent.from_dict(members(data_base64="AP8="))
    twins = [event, event.replace(subject="new"), copy.deepcopy(event)]
    twins += [CloudEvent.from_json(event.to_json()), make_message(event).event]
    for twin in twins:
        assert twin.data == b"\x00\xff"
        assert "datacontenttype" not in twin.to_dict()


def test_missing_time_stays_missing() -> None:
    """A received event without a time gets none."""
    assert CloudEvent.from_dict(members()).time is None


def test_received_extension_names_may_be_long() -> None:
    """The specification advises against names over 20 characters, but they are valid."""
    event = CloudEvent.from_dict(members(averyveryverylongname2=1))
    assert event.extensions == {"averyveryverylongname2": 1}
    assert event.replace(event_type="t").extensions == event.extensions
    assert copy.deepcopy(event) == CloudEvent.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    "number", [2**53 + 1, 2**64, -(2**63) - 1, 10**30, 12345678901234567890123]
)
def test_big_integers_stay_exact(number: int) -> None:
    """Integers over 64 bits are not rounded to floats."""
    assert CloudEvent.from_json(make(data={"n": [number]}).to_json()).data == {"n": [number]}


@pytest.mark.parametrize(
    ("field", "given_members"),
    [
        ("event", []),
        ("event", None),
        ("event", "text"),
        ("specversion", members(specversion=...)),
        ("specversion", members(specversion="0.3")),
        ("specversion", members(specversion=1.0)),
        ("event_id", members(id=...)),
        ("event_id", members(id=None)),
        ("event_id", members(id="")),
        ("event_id", members(id=5)),
        ("event_type", members(type=...)),
        ("source", members(source=...)),
        ("source", members(source="a b")),
        ("subject", members(subject=5)),
        ("time", members(time="yesterday")),
        ("time", members(time=5)),
        ("data_schema", members(dataschema="relative")),
        ("data_content_type", members(datacontenttype="json")),
        ("data_content_type", members(datacontenttype="text/plain", data={})),
        ("data_content_type", members(datacontenttype="text/plain", data=None)),
        ("data", members(data=1, data_base64="AA==")),
        ("data", members(data=None, data_base64="AA==")),
        ("data", members(data_base64="A")),
        ("data", members(data_base64="A A=")),
        ("data", members(data_base64="ä")),
        ("data", members(data_base64=5)),
        ("extensions", members(camelCase=1)),
        ("extensions", members(x=1.5)),
        ("extensions", members(x={})),
        ("extensions", members(x=2**31)),
    ],
)
def test_invalid_members(field: str, given_members: Any) -> None:
    """A received event that breaks the format raises InvalidEvent naming the field."""
    assert refused(lambda: CloudEvent.from_json(json.dumps(given_members))).field == field
    assert refused(lambda: CloudEvent.from_dict(given_members)).field == field


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        '{"a":"' + LONE_SURROGATE + '"}',
        b'{"a":' + b"1" * 5000 + b"}",
        None,
        5,
    ],
)
def test_malformed_json(raw: Any) -> None:
    """What is not JSON in UTF-8 raises InvalidEvent("event")."""
    assert refused(lambda: CloudEvent.from_json(raw)).field == "event"
    assert refused(lambda: from_json_batch(raw)).field == "event"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda raw: raw.decode()])
def test_from_json_takes_bytes_and_text(kind: Callable[[bytes], Any]) -> None:
    """Every form in which clients hand out a message's body is read."""
    event = make(data={"ä": 10**30})
    assert CloudEvent.from_json(kind(event.to_json())) == event


def test_batch() -> None:
    """A batch is a JSON array, may be empty, and names the event that is invalid."""
    batch = [make(), make(id="B", data=b"x"), make(id="C", data=None)]
    assert from_json_batch(to_json_batch(batch)) == batch
    assert (to_json_batch([]), from_json_batch(b"[]")) == (b"[]", [])
    assert refused(lambda: from_json_batch(b"{}")).field == "event"
    error = refused(lambda: from_json_batch(json.dumps([members(), members(id=5)])))
    assert error.field == "event_id"
    assert "event 1 of the batch" in error.message


def test_envelope_and_to_json_give_the_same_bytes() -> None:
    """The relay's way from stored columns ends in the same bytes as the event's own."""
    event = make(subject="s", data={"ä": [1, None]}, extensions={"b": True, "t": "x"})
    columns: dict[str, Any] = {
        "id": event.id,
        "source": event.source,
        "event_type": event.event_type,
        "subject": event.subject,
        "data_content_type": event.data_content_type,
        "data_schema": None,
        "extensions": dict(event.extensions),
        "data_json": encode_data(event.data),
        "data_binary": None,
    }
    naive = NOON.replace(tzinfo=None)
    for stored in (NOON, naive, NOON.astimezone(timezone(timedelta(hours=2)))):
        assert envelope(time=stored, **columns) == event.to_json()
    columns["data_json"] = columns["data_json"].encode()
    assert envelope(time=NOON, **columns) == event.to_json()


def test_envelope_does_not_decode() -> None:
    """Stored JSON goes in as it is, with any number of digits and spaces."""
    columns: dict[str, Any] = dict.fromkeys(("subject", "data_content_type", "data_schema", "time"))
    raw = envelope(
        id="1",
        source="s",
        event_type="t",
        extensions={},
        data_json="[1.00, 2 ]",
        data_binary=None,
        **columns,
    )
    assert raw.endswith(b'"data":[1.00, 2 ]}')
    raw = envelope(
        id="1",
        source="s",
        event_type="t",
        extensions={},
        data_json=None,
        data_binary=memoryview(b"x"),
        **columns,
    )
    assert raw.endswith(b'"data_base64":"eA=="}')


def test_envelope_takes_json_values_only() -> None:
    """A value that is no JSON, which no stored event has, is an error and not written as text."""
    columns: dict[str, Any] = dict.fromkeys(("subject", "data_content_type", "data_schema", "time"))
    columns |= {"id": "1", "source": "s", "event_type": "t", "data_json": None, "data_binary": None}
    with pytest.raises(TypeError):
        envelope(extensions={"x": object()}, **columns)


def test_subclasses_of_datetime() -> None:
    """Times of libraries that subclass datetime, to freeze it or for comfort, are encoded."""

    class Frozen(datetime):
        pass

    event = make(time=Frozen(2018, 4, 5, 17, 31, tzinfo=UTC))
    assert CloudEvent.from_json(event.to_json()).time == NOON
    assert event.to_json() == make().to_json()


def test_base64_is_the_standard_alphabet() -> None:
    """Binary data uses RFC 4648's standard alphabet with padding, as the format says."""
    data = bytes(range(256))
    assert make(data=data).to_dict()["data_base64"] == b64encode(data).decode()
