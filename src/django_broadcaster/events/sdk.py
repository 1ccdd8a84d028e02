"""Read events of the official `cloudevents` SDK by their methods, without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .absent import ABSENT


def read_sdk_event(event: object) -> tuple[dict[str, Any], Any]:
    """Return the unvalidated attributes of an SDK event, and its data (ABSENT for None).

    Raises TypeError for anything but an SDK event.
    """
    read = getattr(event, "get_attributes", None) or getattr(event, "_get_attributes", None)
    read_data = getattr(event, "get_data", None)
    attributes = read() if callable(read) and callable(read_data) else None
    if not isinstance(attributes, Mapping) or not callable(read_data):
        raise TypeError(
            "expected a django_broadcaster.events.CloudEvent or a CloudEvent of the official "
            f"cloudevents SDK (http, pydantic or core), not {event.__class__.__name__}"
        )
    data = read_data()
    return dict(attributes), ABSENT if data is None else data
