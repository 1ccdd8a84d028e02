"""What is at the destination, read without any code of the package that sent it."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

from .judge import Event
from .places import redis_url


class Destination(Protocol):
    """Where events arrive."""

    def count(self) -> int:
        """Return how many have arrived so far, repeated ones included."""

    def read(self) -> list[Event]:
        """Return everything that arrived, in the order of arrival."""


class HandlerRows:
    """Broker `local`: the rows that the shop's handler wrote."""

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
    """Broker `redis`: a consumer that knows redis-py, JSON and the CloudEvents format, no more."""

    def __init__(self) -> None:
        import redis

        self._redis: Any = redis.Redis.from_url(redis_url())
        self._name = os.environ["SHOP_STREAM"]

    def count(self) -> int:
        """Return the length of the stream."""
        return int(self._redis.xlen(self._name))

    def read(self) -> list[Event]:
        """Return what the stream holds, as it is there: an entry is a JSON document."""
        entries = self._redis.xrange(self._name)
        return [_parse(json.loads(fields[b"cloud_event"])) for _, fields in entries]


def destination() -> Destination:
    """Return the destination that the environment leads the shop to."""
    return Stream() if os.environ["SHOP_BROKER"] == "redis" else HandlerRows()


def _parse(document: dict[str, Any]) -> Event:
    return Event(document["id"], document["partitionkey"], document["data"]["sequence"])
