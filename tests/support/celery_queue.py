"""The content of a queue of Celery, read by plain clients of Redis and RabbitMQ."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import redis

from tests.support import rabbitmq_server


@dataclass(frozen=True)
class Sent:
    """A call of a task as its worker gets it (Celery's message protocol, version 2)."""

    headers: dict[str, Any]
    args: list[Any]
    keywords: dict[str, Any]
    properties: dict[str, Any]
    embedded: dict[str, Any]
    """The callbacks, the errbacks, the chain and the chord of the call."""

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.headers["task"])

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.headers["id"])


def take(url: str, queue: str) -> list[Sent]:
    """Take all calls out of a queue, in the order in which a worker would get them."""
    return _from_redis(url, queue) if url.startswith("redis") else _from_rabbitmq(url, queue)


def event_ids(calls: list[Sent]) -> list[str]:
    """The ids of the events that calls are about."""
    return [call.args[0]["id"] for call in calls]


def remove(url: str, *queues: str) -> None:
    """Delete what Celery made for the queues."""
    if not url.startswith("redis"):
        rabbitmq_server.remove(url, *queues)
        return
    with redis.Redis.from_url(url) as client:
        for queue in queues:
            for key in client.scan_iter(f"*{queue}*"):
                client.delete(key)


def _from_redis(url: str, queue: str) -> list[Sent]:
    with redis.Redis.from_url(url) as client, client.pipeline() as pipeline:
        raw, _ = pipeline.lrange(queue, 0, -1).delete(queue).execute()
    calls = []
    for text in reversed(raw):  # workers take them from the other end
        message = json.loads(text)
        args, keywords, embedded = json.loads(base64.b64decode(message["body"]))
        calls.append(Sent(message["headers"], args, keywords, message["properties"], embedded))
    return calls


def _from_rabbitmq(url: str, queue: str) -> list[Sent]:
    calls = []
    for message in rabbitmq_server.take(url, queue):
        args, keywords, embedded = json.loads(message.body)
        properties = vars(message.properties)
        calls.append(Sent(message.headers, args, keywords, properties, embedded))
    return calls
