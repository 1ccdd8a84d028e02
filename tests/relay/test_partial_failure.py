"""Batches of which a real Redis takes only a part: a key waits for its first event that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.support.events import SOURCE, publish, row, statuses
from tests.support.redis_server import RedisServer, redis_server

from .conftest import Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

REDIS = "django_broadcaster.backends.RedisStreamBackend"
LIMIT = 2**20
"""What the server takes for one value: the least that it can be set to."""

USED_UP = "used-up"
"""A stream that takes no entry any more, for its last one has the highest id that there is."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of these tests' own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """A Redis that refuses large events, and all that are for the stream `USED_UP`."""
    running.command("FLUSHALL")
    running.command("CONFIG", "SET", "proto-max-bulk-len", LIMIT)
    running.command("XADD", USED_UP, f"{2**64 - 1}-{2**64 - 1}", "last", "one")
    return running


@pytest.fixture(params=["skip", "block"])
def on_exhausted(request: pytest.FixtureRequest, server: RedisServer, settings: Settings) -> str:
    """Run a test with each ON_EXHAUSTED of the backend; the value is the word."""
    word = str(request.param)
    options = {"url": server.url, "stream_name": "events", "max_len": None}
    entry = {"BACKEND": REDIS, "OPTIONS": options, "ON_EXHAUSTED": word}
    settings.OUTBOX_PUBLISHERS = {"default": entry}
    return word


def arrived(server: RedisServer, stream: str = "events") -> list[str]:
    """Return the names of the events in a stream, in order."""
    with server.client() as client:
        entries = client.xrange(stream)
    return [json.loads(fields["cloud_event"])["subject"] for _, fields in entries]


def publish_with(name: str, using: str, size: int = 0, **arguments: Any) -> None:
    """Publish an event of so many bytes, or with further arguments."""
    publisher.publish_event(
        "order.placed",
        SOURCE,
        {"filler": "x" * size},
        subject=name,
        partition_key=name[0],
        using=using,
        **arguments,
    )


def hasten(using: str) -> None:
    """Let what waits for its next attempt be due."""
    assert OutboxEvent.objects.using(using).hasten() == 1


def test_the_followers_of_an_event_that_is_too_large_never_overtake_it(
    database: str, server: RedisServer, on_exhausted: str, join: Join
) -> None:
    """The followers of a too large event in one batch go on once it is given up; where it is not
    to be, they wait until the broker takes it. Other keys go on at once."""
    publish("b1", using=database)
    publish_with("a1", database, size=LIMIT)
    publish("a2", "b2", "a3", using=database)
    loop = join()
    drain(loop)
    assert row("a1", database).last_error.startswith("Rejected: the event takes")
    if on_exhausted == "skip":
        assert statuses(database) == dict.fromkeys(["b1", "a1", "a2", "b2", "a3"], "published") | {
            "a1": "failed"
        }
        found = arrived(server)
        assert [name for name in found if name[0] == "a"] == ["a2", "a3"]
        assert [name for name in found if name[0] == "b"] == ["b1", "b2"]
        return
    waiting = {"a1": "retry", "a2": "blocked", "a3": "blocked"}
    for _ in range(2):
        drain(loop)
        assert statuses(database) == {"b1": "published", "b2": "published"} | waiting
        assert arrived(server) == ["b1", "b2"]
        hasten(database)
    server.command("CONFIG", "SET", "proto-max-bulk-len", 2 * LIMIT)
    loop.broker.backend.open()  # a relay asks for the limit as it connects
    publish("a4", using=database)
    drain(loop)
    assert arrived(server) == ["b1", "b2", "a1", "a2", "a3", "a4"]


def test_the_followers_of_an_event_in_retry_wait_through_all_of_its_attempts(
    database: str, server: RedisServer, on_exhausted: str, join: Join
) -> None:
    """Refused by the broker, the first event of a key is tried again and again, with its followers
    behind it; out of retries, they go on without it, or wait for ever."""
    config = {"stream_name": USED_UP}
    publish_with("a1", database, publisher_config=config, max_retries=2)
    publish("a2", "b1", "a3", using=database)
    loop = join()
    for attempt in (1, 2):
        turn(loop)
        assert row("a1", database).retry_count == attempt
        publish(f"b{attempt + 1}", using=database)
        drain(loop)
        assert arrived(server) == [f"b{number + 1}" for number in range(attempt + 1)]
        assert statuses(database)["a1"] == "retry"
        hasten(database)
    drain(loop)
    if on_exhausted == "skip":
        assert row("a1", database).status == "failed"
        assert arrived(server)[3:] == ["a2", "a3"]
    else:
        assert statuses(database)["a1"] == "retry"
        assert arrived(server) == ["b1", "b2", "b3"]


def test_a_key_goes_on_in_order_when_its_first_event_is_taken(
    database: str, server: RedisServer, on_exhausted: str, join: Join
) -> None:
    """As soon as the broker takes the event that it refused, those behind it follow in order."""
    publish_with("a1", database, publisher_config={"stream_name": USED_UP})
    publish("a2", "b1", using=database)
    loop = join()
    drain(loop)
    publish("a3", using=database)
    drain(loop)
    assert arrived(server) == ["b1"]
    server.command("DEL", USED_UP)
    hasten(database)
    drain(loop)
    assert arrived(server, USED_UP) == ["a1"]
    assert arrived(server) == ["b1", "a2", "a3"]
    followers = OutboxEvent.objects.using(database).exclude(subject="a1")
    assert set(followers.values_list("status", "retry_count")) == {("published", 0)}
