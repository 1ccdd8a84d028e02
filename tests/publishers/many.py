"""Events for publish_events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django_broadcaster.events import CloudEvent

from .test_publish import DATA, NOON, outbox


def event(subject: object = "1", **changes: Any) -> dict[str, Any]:
    """The keywords of a small event, some changed."""
    return {
        "event_type": "order.placed",
        "source": "/shop/orders",
        "data": {"n": subject},
        "subject": str(subject),
        **changes,
    }


def cloud_event(subject: object = "1", **changes: Any) -> CloudEvent:
    """The same as a CloudEvent."""
    given = {"event_type": "order.placed", "source": "/shop/orders", "data": {"n": subject}}
    return CloudEvent(**{**given, "subject": str(subject), **changes})


def subjects(database: str) -> list[str]:
    """The subjects of what is in the outbox, in order of the ids."""
    return [row.subject for row in outbox(database)]


ALL: list[dict[str, Any]] = [
    *(event(name, data=data) for name, data in DATA.items()),
    event(extensions={"a": 'q"\\', "n": -5, "flag": True, "partitionkey": "key"}),
    event(partition_key="k,{}\"'\\"),
    event(data_schema="https://example.com/schema.json#order"),
    event(data="<a/>", data_content_type="application/xml"),
    event(data=b"\x00'\"\\,{}", data_content_type="image/png"),
    event(max_retries=0),
    event(max_retries=32_767, publisher_config={}),
    event(scheduled_at=NOON - timedelta(days=10_000)),
    event(scheduled_at=datetime(1, 1, 1, tzinfo=UTC), time=datetime(1, 1, 1, tzinfo=UTC)),
    event(scheduled_at=datetime.max.replace(tzinfo=UTC), time=datetime.max.replace(tzinfo=UTC)),
    event("{NULL,NULL}", event_type="NULL", partition_key="NULL"),
    event("", event_type="%s", partition_key="a\u00a0 "),
    event("😀" * 512, event_type="😀" * 255, partition_key="😀" * 255),
]
"""Events of every kind of data, and with every argument."""
