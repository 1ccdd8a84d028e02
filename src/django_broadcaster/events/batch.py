"""Many events in one JSON array: application/cloudevents-batch+json."""

from __future__ import annotations

from collections.abc import Iterable

from django_broadcaster.exceptions import InvalidEvent

from .cloud_event import CloudEvent
from .json_format import parse_json


def to_json_batch(events: Iterable[CloudEvent]) -> bytes:
    """Return events as application/cloudevents-batch+json, in UTF-8."""
    return b"[%b]" % b",".join(event.to_json() for event in events)


def from_json_batch(raw: bytes | bytearray | memoryview | str) -> list[CloudEvent]:
    """Read application/cloudevents-batch+json; the error for an invalid event has its index."""
    batch = parse_json(raw)
    if not isinstance(batch, list):
        raise InvalidEvent("event", f"a batch must be a JSON array, not {batch.__class__.__name__}")
    events = []
    for index, members in enumerate(batch):
        try:
            events.append(CloudEvent.from_dict(members))
        except InvalidEvent as exc:
            raise InvalidEvent(exc.field, f"{exc.message} (event {index} of the batch)") from exc
    return events
