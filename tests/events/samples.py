"""Small valid events, and the error that a call raises."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent

NOON = datetime(2018, 4, 5, 17, 31, tzinfo=UTC)
LONE_SURROGATE = "\ud800"

# URI references; those with a scheme are absolute URIs as well.
VALID_SOURCES = [
    "user-service",
    "/shop/orders",
    "urn:x:y",
    "https://a/b?c#d",
    "https://github.com/cloudevents",
    "mailto:cncf-wg-serverless@lists.cncf.io",
    "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
    "/cloudevents/spec/pull/123",
    "1-555-123-4567",
    "//host/path",
    "?query",
    "#fragment",
    "./a:b",
    "a%20b",
    "x:",
    "http://user:pw@[2001:db8::7]:8080/a//b;p=1?q=/?#/?",
    "http://[v1.future:x]/",
]


def make(**changes: Any) -> CloudEvent:
    """A small valid event."""
    given = {
        "event_type": "com.example.someevent",
        "source": "/mycontext",
        "id": "A234",
        "time": NOON,
    }
    return CloudEvent(**{**given, **changes})


def members(**changes: Any) -> dict[str, Any]:
    """The smallest members of the JSON format; `...` takes one out."""
    given = {"specversion": "1.0", "type": "com.example.someevent", "source": "/m", "id": "A234"}
    return {name: value for name, value in {**given, **changes}.items() if value is not ...}


def refused(call: Callable[[], object]) -> InvalidEvent:
    """The InvalidEvent that `call` raises."""
    with pytest.raises(InvalidEvent) as caught:
        call()
    return caught.value
