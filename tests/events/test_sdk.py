"""Events of the official SDK, there and back."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given

from django_broadcaster.events import CloudEvent, as_cloud_event
from tests.events.samples import NOON, make, members, refused
from tests.events.strategies import EVENTS


def sdk(*names: str) -> Any:
    """The first of these modules of the SDK that there is; its 1.x moved to `v1` in 2.x."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return pytest.skip(f"the official cloudevents SDK has no {names[0]} here")


def http() -> Any:
    """The SDK's API of version 1."""
    return sdk("cloudevents.v1.http", "cloudevents.http")


def pydantic() -> Any:
    """The SDK's API of version 1 on pydantic."""
    return sdk("cloudevents.v1.pydantic", "cloudevents.pydantic")


SDK_ATTRIBUTES = {
    "type": "com.example.someevent",
    "source": "https://example.com/shop",
    "id": "B234",
    "time": "2018-04-05T17:31:00+00:00",
    "subject": "123",
    "datacontenttype": "application/json",
    "dataschema": "https://example.com/schema",
    "partitionkey": "key",
    "number": 5,
    "flag": True,
}
SDK_EVENT = CloudEvent(
    event_type="com.example.someevent",
    source="https://example.com/shop",
    id="B234",
    time=NOON,
    subject="123",
    data={"ä": [1, None, {"b": "c"}]},
    data_content_type="application/json",
    data_schema="https://example.com/schema",
    extensions={"partitionkey": "key", "number": 5, "flag": True},
)


def in_sdk_v2(attributes: dict[str, Any], data: Any) -> Any:
    """An event of the SDK's version 2, which takes datetimes only."""
    when = datetime.fromisoformat(attributes["time"])
    return sdk("cloudevents.core.v1.event").CloudEvent({**attributes, "time": when}, data)


SDKS = {
    "http": lambda attributes, data: http().CloudEvent(attributes, data),
    "pydantic": lambda attributes, data: pydantic().CloudEvent(attributes, data),
    "v2": in_sdk_v2,
}
TO_SDK_JSON = {
    "http": lambda event: sdk("cloudevents.v1.conversion", "cloudevents.conversion").to_json(event),
    "pydantic": lambda event: sdk("cloudevents.v1.conversion", "cloudevents.conversion").to_json(
        event
    ),
    "v2": lambda event: sdk("cloudevents.core.formats.json").JSONFormat().write(event),
}
FROM_SDK_JSON = {
    "http": lambda raw: http().from_json(raw),
    "pydantic": lambda raw: pydantic().from_json(raw),
    "v2": lambda raw: sdk("cloudevents.core.formats.json").JSONFormat().read(None, raw),
}


@pytest.mark.parametrize("api", SDKS)
def test_from_sdk(api: str) -> None:
    """Events of each of the SDK's APIs become ours, with attributes, data and types."""
    event = CloudEvent.from_sdk(SDKS[api](dict(SDK_ATTRIBUTES), SDK_EVENT.data))
    assert event == SDK_EVENT
    assert event.extensions["flag"] is True
    assert as_cloud_event(SDKS[api](dict(SDK_ATTRIBUTES), SDK_EVENT.data)) == SDK_EVENT


@pytest.mark.parametrize("api", SDKS)
def test_from_sdk_data(api: str) -> None:
    """Binary, text and missing data of the SDK's events are read as such."""
    xml = {**SDK_ATTRIBUTES, "datacontenttype": "application/xml"}
    assert CloudEvent.from_sdk(SDKS[api](dict(xml), b"<a/>")).data == b"<a/>"
    assert CloudEvent.from_sdk(SDKS[api](dict(xml), "<a/>")).data == "<a/>"
    assert not CloudEvent.from_sdk(SDKS[api](dict(xml), None)).has_data


@pytest.mark.parametrize("api", SDKS)
def test_sdk_reads_our_json(api: str) -> None:
    """The SDK reads the same event from our JSON, data of JSON and of bytes."""
    for event in (SDK_EVENT, SDK_EVENT.replace(data=b"\x00\xff", data_content_type="image/png")):
        read = FROM_SDK_JSON[api](event.to_json())
        assert CloudEvent.from_sdk(read) == event
        assert read.get_data() == event.data
        assert dict(read.get_attributes())["number"] == 5


@pytest.mark.parametrize("api", SDKS)
def test_we_read_the_sdks_json(api: str) -> None:
    """We read the same event from the SDK's JSON, data of JSON and of bytes."""
    raw = TO_SDK_JSON[api](SDKS[api](dict(SDK_ATTRIBUTES), SDK_EVENT.data))
    assert CloudEvent.from_json(raw) == SDK_EVENT
    png = {**SDK_ATTRIBUTES, "datacontenttype": "image/png"}
    raw = TO_SDK_JSON[api](SDKS[api](dict(png), b"\x00\xff"))
    assert CloudEvent.from_json(raw).data == b"\x00\xff"


@pytest.mark.parametrize("api", ["http", "v2"])
@given(event=EVENTS)
def test_sdk_agrees(api: str, event: CloudEvent) -> None:
    """Attributes and data of any event are the same for the SDK's parser as for ours."""
    if api == "http" and (isinstance(event.data, str) or event.data == b""):
        return  # it reads a JSON string as a JSON document once more, and empty bytes as no data
    event = event.replace(time=event.time or NOON)  # it makes up a missing time
    read = FROM_SDK_JSON[api](event.to_json())
    ours, theirs = event.to_dict(), dict(read.get_attributes())
    for name in ("data", "data_base64"):
        ours.pop(name, None)
    ours["time"], theirs["time"] = event.time, make(time=theirs["time"]).time
    assert {name: value for name, value in theirs.items() if value is not None} == ours
    assert read.get_data() == event.data


def test_sdk_events_of_other_versions_are_refused() -> None:
    """An event of CloudEvents 0.3 is not valid here."""
    event = http().CloudEvent({"type": "t", "source": "s", "specversion": "0.3"})
    assert refused(lambda: CloudEvent.from_sdk(event)).field == "specversion"


def test_sdk_events_are_validated() -> None:
    """What the SDK lets through and the specification does not is refused."""
    event = http().CloudEvent({"type": "t", "source": "a b"})
    assert refused(lambda: CloudEvent.from_sdk(event)).field == "source"


def test_sdk_events_with_long_extension_names_are_forwarded() -> None:
    """The specification only advises against names over 20 characters, and brokers use them."""
    names = {"knativekafkapartition": "0"}
    event = CloudEvent.from_sdk(http().CloudEvent({"type": "t", "source": "s", **names}))
    assert event.extensions == names
    assert event.replace(extensions={**event.extensions, "own": "1"}).extensions["own"] == "1"
    assert refused(lambda: event.replace(extensions={"averyveryverylongname2": "x"})).field == (
        "extensions"
    )


def test_sdk_bytes_without_a_content_type_stay_without_one() -> None:
    """No media type is made up for bytes that come from the SDK."""
    event = CloudEvent.from_sdk(http().CloudEvent({"type": "t", "source": "s"}, b"\x00\xff"))
    assert event.data == b"\x00\xff"
    assert "datacontenttype" not in event.to_dict()


def test_older_sdk_without_public_attributes() -> None:
    """An event that has the SDK's older, private reader is read as well."""

    class Older:
        def _get_attributes(self) -> dict[str, Any]:
            return {**members(), "unset": None}

        def get_data(self) -> Any:
            return None

    assert CloudEvent.from_sdk(Older()) == CloudEvent.from_dict(members())


class OnlyData:
    """Not an event, though it has one of the methods of one."""

    def get_data(self) -> None:
        return None


class OddAttributes(OnlyData):
    """Not an event, because its attributes are no mapping."""

    def get_attributes(self) -> list[str]:
        return []


@pytest.mark.parametrize(
    "other", [None, {}, members(), "event", object(), OnlyData(), OddAttributes()]
)
def test_other_objects_are_no_events(other: object) -> None:
    """Anything else than an event raises TypeError that says what is accepted."""
    with pytest.raises(TypeError, match="official cloudevents SDK"):
        as_cloud_event(other)


def test_our_events_pass_through() -> None:
    """`as_cloud_event` gives back our own event, not a copy."""
    event = make()
    assert as_cloud_event(event) is event
