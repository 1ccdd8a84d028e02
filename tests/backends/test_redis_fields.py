"""The items of an event's `publisher_config` as further fields of its entry in a Redis stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from django.db import connections, transaction

from django_broadcaster.backends import RedisStreamBackend
from django_broadcaster.backends.redis.fields import DOCUMENTED
from django_broadcaster.exceptions import Held, InvalidPublisherConfig, Rejected
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.testing import make_message
from tests.support.batches import kinds, numbers
from tests.support.redis_server import redis_server, shared_url
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

MakeBackend = Callable[..., RedisStreamBackend]
MODES = ("structured", "binary")
FURTHER = {"tenant": "Zoë & sons", "shard": 7, "weight": 0.25, "urgent": True, "test": False}
AS_TEXT = {
    "tenant": "Zoë & sons",
    "shard": "7",
    "weight": "0.25",
    "urgent": "true",
    "test": "false",
}


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    """A client of the shared server."""
    with redis.Redis.from_url(shared_url(), decode_responses=True) as client:
        yield client


@pytest.fixture
def stream(client: redis.Redis) -> Iterator[str]:
    """The name of a stream that nobody else uses on the shared server."""
    name = f"test-{uuid4()}"
    yield name
    client.delete(name, f"{name}-2")


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RedisStreamBackend:
            backend = RedisStreamBackend(**{"alias": "default", "url": shared_url(), **options})
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def outbox(database: str, settings: Settings, stream: str) -> str:
    """A database whose events go to the stream; the value is its alias."""
    options = {"url": shared_url(), "stream_name": stream}
    backend = "django_broadcaster.backends.RedisStreamBackend"
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": backend, "OPTIONS": options}}
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


def fields_of(client: redis.Redis, stream: str) -> list[dict[str, str]]:
    """The fields of the stream's entries, in order."""
    return [fields for _, fields in client.xrange(stream)]


@pytest.mark.parametrize("mode", MODES)
def test_items_of_the_config_are_fields_of_the_entry(
    make: MakeBackend, client: redis.Redis, stream: str, mode: str
) -> None:
    """They come as text after the documented fields, and `stream_name` is none of them."""
    backend = make(stream_name=stream, content_mode=mode)
    plain = make_message(data={"total": 1})
    backend.send(plain)
    more = make_message(
        plain.event, config={**FURTHER, "stream_name": f"{stream}-2", "max_len": None}
    )
    backend.send(more)
    ((documented,), (entry,)) = (fields_of(client, name) for name in (stream, f"{stream}-2"))
    assert list(entry.items()) == [*documented.items(), *AS_TEXT.items()]


def test_further_fields_arrive_from_every_database(
    outbox: str, client: redis.Redis, stream: str
) -> None:
    """What a publish call names is in the entry, whichever database held it meanwhile."""
    publisher.publish_event(
        "order.placed", "/shop", {"order": 1}, publisher_config=FURTHER, using=outbox
    )
    with DeliveryLoop(outbox, "default") as loop:
        loop.turn(100)
    (entry,) = fields_of(client, stream)
    assert {name: entry[name] for name in AS_TEXT} == AS_TEXT
    assert entry.keys() == DOCUMENTED | AS_TEXT.keys()


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_documented_field_can_not_be_replaced(outbox: str, name: str) -> None:
    """The publish call fails, names the key, and leaves the caller's transaction usable."""
    with transaction.atomic(using=outbox):
        with pytest.raises(InvalidPublisherConfig, match=f"'{name}'") as caught:
            publisher.publish_event(
                "order.placed", "/shop", publisher_config={name: "mine"}, using=outbox
            )
        assert not connections[outbox].needs_rollback
        publisher.publish_event("order.placed", "/shop", using=outbox)
    assert caught.value.backend == "default"
    assert OutboxEvent.objects.using(outbox).count() == 1


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}], ids=["null", "list", "object"])
def test_value_that_is_no_field_is_refused(outbox: str, value: object) -> None:
    """The publish call fails, and names the key and the kinds of values that there are."""
    with pytest.raises(InvalidPublisherConfig, match="'tenant' must be text, a number or a bool"):
        publisher.publish_event(
            "order.placed", "/shop", publisher_config={"tenant": value}, using=outbox
        )
    assert not OutboxEvent.objects.using(outbox).exists()


@pytest.mark.parametrize("name", ["data", "content_type", "ce_tenant"])
def test_fields_of_binary_mode_are_refused_in_binary_mode_alone(
    make: MakeBackend, name: str
) -> None:
    """A field of the content mode can't be replaced either; in structured mode it is free."""
    make().validate_config({name: "mine"})
    with pytest.raises(InvalidPublisherConfig, match=f"'{name}'"):
        make(content_mode="binary").validate_config({name: "mine"})


def test_field_over_the_limit_is_refused(make: MakeBackend) -> None:
    """A value over `max_message_bytes` is an error of the publish call."""
    with pytest.raises(InvalidPublisherConfig, match="1001 bytes, over the limit of 1000"):
        make(max_message_bytes=1000).validate_config({"note": "x" * 1001})


@pytest.mark.parametrize("config", [{"event_id": "mine"}, {"tenant": None}, {"tenant": [1]}])
def test_row_that_no_publish_call_has_judged_is_rejected_alone(
    make: MakeBackend, client: redis.Redis, stream: str, config: dict[str, Any]
) -> None:
    """An event with impossible fields becomes a dead letter; its batch goes on."""
    (key,) = config
    messages = [
        *numbers(1, "a"),
        make_message(partition_key="a", config=config),
        *numbers(1, "a"),
        *numbers(1, "b"),
    ]
    outcomes = make(stream_name=stream).send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, Held, None]
    assert f"publisher_config: '{key}'" in str(outcomes[1])
    assert [each["event_id"] for each in fields_of(client, stream)] == [
        messages[place].event_id for place in (0, 3)
    ]


@pytest.mark.parametrize(
    ("mode", "large"),
    [
        ("structured", {"config": {"note": "x" * 2**21}}),
        ("binary", {"config": {"note": "x" * 2**21}}),
        ("binary", {"extensions": {"note": "x" * 2**21}}),
    ],
    ids=["field", "field beside binary data", "extension in binary mode"],
)
def test_field_over_the_servers_limit_is_rejected_alone(
    make: MakeBackend, tmp_path: Path, mode: str, large: dict[str, Any]
) -> None:
    """The server would cut the connection at such a field, which would look like an outage."""
    with redis_server(tmp_path) as server:
        server.command("CONFIG", "SET", "proto-max-bulk-len", 2**20)
        backend = make(url=server.url, content_mode=mode)
        messages = [*numbers(1, "a"), make_message(**large), *numbers(1, "a")]
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == [None, Rejected, None]
        assert "proto-max-bulk-len" in str(outcomes[1])
        assert server.command("XLEN", "events") == 2


@pytest.mark.parametrize("mode", MODES)
def test_order_stays_with_and_without_further_fields(
    make: MakeBackend, client: redis.Redis, stream: str, mode: str
) -> None:
    """Entries of different numbers of fields are in one stream in the order of the batch."""
    configs = [{}, {"tenant": "a"}, {"tenant": "b", "shard": 1}]
    messages = [make_message(partition_key="key", config=configs[n % 3]) for n in range(300)]
    backend = make(stream_name=stream, content_mode=mode)
    assert backend.send_batch(messages) == [None] * 300
    stored = fields_of(client, stream)
    assert [each["event_id"] for each in stored] == [each.event_id for each in messages]
    assert [each.get("tenant") for each in stored] == [None, "a", "b"] * 100


def test_documented_options_have_their_documented_defaults() -> None:
    """Timeouts are five seconds, the stream is `events`, and it keeps about 10000 entries."""
    backend = RedisStreamBackend(alias="default")
    assert (backend.connect_timeout, backend.socket_timeout) == (5, 5)
    assert (backend.stream_name, backend.max_len) == ("events", 10_000)
