"""Any event survives JSON; any rubbish is refused by name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from django_broadcaster.events import CloudEvent, encode_data
from django_broadcaster.exceptions import InvalidEvent
from tests.events.samples import make, members, refused
from tests.events.strategies import EVENTS, JSON


@given(EVENTS)
def test_round_trip(event: CloudEvent) -> None:
    """Every event survives JSON and its members, with null, absent and binary data told apart."""
    for again in (CloudEvent.from_json(event.to_json()), CloudEvent.from_dict(event.to_dict())):
        assert again == event
        assert again.has_data is event.has_data
        assert type(again.data) is type(event.data)
        assert again.to_json() == event.to_json()


@given(st.text() | st.text(st.sampled_from("aZ0 :/?#[]@!%2f\\ü-._~+"), max_size=12))
def test_sources_are_refused_or_kept(source: str) -> None:
    """A source is kept to the letter or refused by name, and never anything else."""
    try:
        event = make(source=source)
    except InvalidEvent as exc:
        field = exc.field
    else:
        field = "source"
        assert event.source == source
        assert source.isascii()
    assert field == "source"


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_rubbish_raises_invalid_event(raw: bytes) -> None:
    """Whatever a consumer receives, the error is InvalidEvent."""
    refused(lambda: CloudEvent.from_json(raw))


@given(JSON, st.sampled_from(["id", "time", "x", "data_base64", "datacontenttype", "specversion"]))
def test_rubbish_in_a_member_raises_invalid_event(value: Any, name: str) -> None:
    """Whatever a member holds, the event is read or refused with InvalidEvent."""
    with suppress(InvalidEvent):
        CloudEvent.from_dict(members(**{name: value}))


@given(JSON)
def test_encoded_data_is_what_python_reads(data: Any) -> None:
    """Encoded data is UTF-8 text without U+0000 that decodes to the same value."""
    text = encode_data(data)
    assert json.loads(text.encode()) == data
