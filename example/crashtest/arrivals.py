"""Read the events at the destination, without code of django-broadcaster."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

from .judge import Event
from .places import redis_url


class Destination(Protocol):
    """The destination of events."""

    def count(self) -> int:
        """Return the number of events that have arrived, including duplicates."""

    def read(self) -> list[Event]:
        """Return all events in the order of arrival."""


class HandlerRows:
    """The destination of broker `local`: rows that the shop's handler wrote."""

    def count(self) -> int:
        """Return the number of rows."""
        from shop.models import ReceivedEvent

        return ReceivedEvent.objects.count()

    def read(self) -> list[Event]:
        """Return the rows in the order in which they were written."""
        from shop.models import ReceivedEvent

        rows = ReceivedEvent.objects.order_by("id").values_list("event_id", "key", "sequence")
        return [Event(*row) for row in rows]


class Stream:
    """The destination of broker `redis`: a stream, read with redis-py and JSON only."""

    def __init__(self) -> None:
        import redis

        self._redis: Any = redis.Redis.from_url(redis_url())
        self._name = os.environ["SHOP_STREAM"]

    def count(self) -> int:
        """Return the length of the stream."""
        return int(self._redis.xlen(self._name))

    def read(self) -> list[Event]:
        """Return the entries of the stream, which are JSON documents."""
        entries = self._redis.xrange(self._name)
        return [_parse(json.loads(fields[b"cloud_event"])) for _, fields in entries]


def destination() -> Destination:
    """Return the destination that the environment selects."""
    return Stream() if os.environ["SHOP_BROKER"] == "redis" else HandlerRows()


def _parse(document: dict[str, Any]) -> Event:
    return Event(document["id"], document["partitionkey"], document["data"]["sequence"])
