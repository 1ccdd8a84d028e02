"""Compare arrived events, as the official `cloudevents` SDK reads them, with the published."""

from __future__ import annotations

import json
from typing import Any

from django_broadcaster.backends import MessageBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import make_message


def assert_same_event(read: Any, event: CloudEvent) -> None:
    """Assert that an event of the SDK (2.x) has the attributes and the data of ours.

    In binary mode an attribute arrives as its canonical text, so that is what is compared.
    """
    attributes = {
        name: value for name, value in read.get_attributes().items() if value not in (None, "")
    }
    time = attributes.pop("time", None)
    if event.time is not None:  # the SDK makes one up where there is none
        assert time == event.time
    expected = event.to_dict()
    for name in ("data", "data_base64", "time"):
        expected.pop(name, None)
    assert {name: canonical(value) for name, value in attributes.items()} == {
        name: canonical(value) for name, value in expected.items() if value != ""
    }
    assert _data(read.get_data(), event) == _expected_data(event)


def assert_long_line_shows_signs_of_life(backend: MessageBackend, **message: Any) -> None:
    """Assert that each answer for an event of a line is heard of by who watches for stalls.

    A server that takes a second for each of a key's events takes minutes for a batch, and is no
    reason to kill the relay.
    """
    signs: list[None] = []
    backend.on_progress = lambda: signs.append(None)
    line = [make_message(data=number, partition_key="a", **message) for number in range(5)]
    assert backend.send_batch(line) == [None] * 5
    assert len(signs) == 5


def _expected_data(event: CloudEvent) -> Any:
    if not event.has_data:
        return None
    if isinstance(event.data, bytes):
        return event.data
    return json.loads(json.dumps(event.to_dict()["data"]))


def _data(data: Any, event: CloudEvent) -> Any:
    """Return the SDK's data as ours, as far as the SDK keeps them apart."""
    if isinstance(event.data, bytes) and isinstance(data, str):
        return data.encode()  # it hands over text where it takes the type for text
    if data in (None, "", b""):  # it reads an empty body as no data
        return event.data if event.data in (None, "", b"") else data
    return data
