"""What RedisStreamConsumer does with its group: other readers, several streams, names, trimming."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import RedisStreamBackend
from django_broadcaster.consumers import Delivery, RedisStreamConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import make_message
from tests.support.redis_groups import redis_cluster, watched_servers
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import wait_until

SECONDS = 30.0

Make = Callable[..., RedisStreamConsumer]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this file."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """That server, emptied."""
    running.command("FLUSHALL")
    return running


@pytest.fixture
def make(server: RedisServer) -> Iterator[Make]:
    """Make open consumers, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RedisStreamConsumer:
            known = {"alias": "billing", "group": "billing", "port": server.port}
            consumer = RedisStreamConsumer(**{**known, **options})
            made.callback(consumer.close)
            consumer.open()
            return consumer

        yield make


def add(server: RedisServer, *numbers: int, stream: str = "events") -> None:
    """Append events with these numbers as their ids."""
    with server.client() as client:
        for number in numbers:
            event = CloudEvent("test.event", "/test", id=str(number))
            client.xadd(stream, {"data": event.to_json()})


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """Return the numbers of the events that were received."""
    assert [each.problem for each in deliveries if each.problem] == []
    return [int(each.event.id) for each in deliveries if each.event is not None]


def drain(consumer: RedisStreamConsumer, limit: int = 10) -> list[int]:
    """Receive and acknowledge until nothing comes any more."""
    received: list[int] = []
    while deliveries := consumer.receive(limit, 0):
        assert len(deliveries) <= limit
        received += numbers(deliveries)
        consumer.acknowledge(deliveries)
    return received


def readers(server: RedisServer, stream: str = "events") -> dict[str, int]:
    """Return the names of the group's readers, and how many entries each holds."""
    with server.client() as client:
        return {each["name"]: each["pending"] for each in client.xinfo_consumers(stream, "billing")}


# --- Other readers -------------------------------------------------------------------------------


def test_entries_of_several_former_readers_come_in_order(server: RedisServer, make: Make) -> None:
    """Entries that readers hold in turn are received by their ids, in pages of the limit."""
    add(server, *range(100))
    holders = [make(ordered=False) for _ in range(3)]
    for turn in range(9):
        holders[turn % 3].receive(7 + turn % 2, 0)
    assert drain(make(), limit=10) == list(range(100))


def test_entries_that_a_stalled_reader_has_fetched_come_first(
    server: RedisServer, make: Make
) -> None:
    """Older entries that a replaced reader still fetches are handed out before newer ones."""
    former, following = make(), make()
    add(server, *range(5))
    former.receive(2, 0)
    received = numbers(following.receive(10, 0))  # the former's, and then what is left
    received += numbers(following.receive(10, 0))
    assert received == list(range(5))
    add(server, *range(5, 25))
    with server.client() as client:  # the former wakes up, and fetches the first of the new ones
        client.xreadgroup("billing", "stalled", {"events": ">"}, count=12)
    assert numbers(following.receive(8, 0)) == list(range(5, 13))
    assert numbers(following.receive(8, 0)) == list(range(13, 21))
    assert numbers(following.receive(8, 0)) == list(range(21, 25))


def test_acknowledgement_of_a_claimed_entry_counts(server: RedisServer, make: Make) -> None:
    """An entry is stored, whichever reader holds it now."""
    former, following = make(), make()
    add(server, 0, 1)
    deliveries = former.receive(10, 0)
    assert numbers(following.receive(10, 0)) == [0, 1]
    former.acknowledge(deliveries)
    assert sum(readers(server).values()) == 0


def test_trimmed_entries_are_given_up_once(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A pending entry that the stream has lost is logged, and nothing waits for it."""
    add(server, *range(10))
    make().receive(6, 0)
    server.command("XTRIM", "events", "MAXLEN", 6)
    following = make()
    assert drain(following) == list(range(4, 10))
    assert sum(readers(server).values()) == 0
    assert caplog.messages == [
        "4 entries of stream 'events' were trimmed before they were received; skipping them."
    ]


def test_all_pending_entries_trimmed_is_no_loop(server: RedisServer, make: Make) -> None:
    """New entries are received although all pending ones are gone."""
    add(server, *range(30))
    make().receive(30, 0)
    server.command("DEL", "events")
    server.command("XGROUP", "CREATE", "events", "billing", "0", "MKSTREAM")
    following = make()
    add(server, *range(30, 33))
    assert drain(following) == [30, 31, 32]


def test_group_that_was_deleted_is_created_again(server: RedisServer, make: Make) -> None:
    """The consumer is unavailable, and reads from `start` when it is opened again."""
    consumer = make()
    add(server, 0, 1)
    assert numbers(consumer.receive(10, 0)) == [0, 1]
    server.command("FLUSHALL")
    with pytest.raises(BackendUnavailable, match="NOGROUP"):
        consumer.receive(10, 0)
    consumer.close()
    consumer.open()
    add(server, 2)
    assert drain(consumer) == [2]


# --- Without order -------------------------------------------------------------------------------


def test_readers_without_order_share_the_entries(server: RedisServer, make: Make) -> None:
    """Each entry is given to one of the readers."""
    first, second = make(ordered=False), make(ordered=False)
    add(server, *range(20))
    received = [numbers(each.receive(5, 0)) for each in (first, second, first, second)]
    assert received == [[*range(at, at + 5)] for at in range(0, 20, 5)]


def test_entries_of_a_dead_reader_are_claimed_after_a_while(
    server: RedisServer, make: Make
) -> None:
    """Without order, another reader waits for `claim_idle` seconds."""
    patient, eager = make(ordered=False), make(ordered=False, claim_idle=0.2)
    dead = make(ordered=False)
    add(server, 0, 1)
    assert numbers(dead.receive(10, 0)) == [0, 1]
    assert patient.receive(10, 0) == []
    claimed: list[int] = []
    wait_until(lambda: claimed.extend(drain(eager)) or claimed, SECONDS, "they are claimed")
    assert claimed == [0, 1]


def test_more_time_keeps_entries_from_being_claimed(server: RedisServer, make: Make) -> None:
    """`extend` begins the time of `claim_idle` again."""
    slow, eager = make(ordered=False), make(ordered=False, claim_idle=5.0)
    add(server, 0, 1)
    deliveries = slow.receive(10, 0)
    with server.client() as client:
        name = next(name for name, count in readers(server).items() if count)
        entries = [each.message.position for each in deliveries]
        client.xclaim("events", "billing", name, 0, entries, idle=100_000)
    slow.extend(deliveries)
    assert eager.receive(10, 0) == []


def test_closed_reader_without_order_lets_go(server: RedisServer, make: Make) -> None:
    """The entries of a reader that is closed can be claimed at once."""
    first = make(ordered=False)
    add(server, 0, 1)
    first.receive(10, 0)
    first.close()
    assert drain(make(ordered=False)) == [0, 1]


# --- Names, streams, the start -------------------------------------------------------------------


def test_name_is_deleted_if_nothing_is_pending(server: RedisServer, make: Make) -> None:
    """A closed reader that holds entries keeps its name, and so they are not lost."""
    add(server, 0, 1)
    first, second = make(), make()
    held = first.receive(10, 0)
    second.receive(10, 0)
    first.close()
    assert list(readers(server).values()) == [2]
    second.acknowledge(held)
    second.close()
    assert readers(server) == {}


def test_several_streams_are_read(server: RedisServer, make: Make) -> None:
    """Each stream is in order, and the entries of all together are at most the limit."""
    consumer = make(stream_name=["a", "b", "c"])
    for stream, first in (("a", 0), ("b", 100), ("c", 200)):
        add(server, *range(first, first + 20), stream=stream)
    assert consumer.lag() == 60
    received = drain(consumer, limit=9)
    for first in (0, 100, 200):
        mine = [each for each in received if first <= each < first + 100]
        assert mine == list(range(first, first + 20))
    assert consumer.lag() == 0


def test_more_streams_than_the_limit_are_read(server: RedisServer, make: Make) -> None:
    """A call returns at most the limit, and nothing of another stream is lost."""
    streams = list("abcde")
    consumer = make(stream_name=streams)
    for number, stream in enumerate(streams):
        add(server, 10 * number, 10 * number + 1, stream=stream)
    received = drain(consumer, limit=2)
    assert sorted(received) == [10 * each + last for each in range(5) for last in (0, 1)]
    assert all(received.index(10 * each) < received.index(10 * each + 1) for each in range(5))


def test_new_group_begins_where_start_says(server: RedisServer, make: Make) -> None:
    """ "$" skips the entries that are there; a group that exists goes on where it was."""
    add(server, 0)
    consumer = make(start="$")
    add(server, 1)
    consumer.close()
    assert drain(make(start="0")) == [1]
    assert drain(make(start="0", group="other")) == [0, 1]


def test_lag_is_unknown_if_redis_cannot_tell(server: RedisServer, make: Make) -> None:
    """After an entry was deleted in the middle, Redis doesn't know the lag."""
    consumer = make()
    add(server, *range(5))
    consumer.receive(1, 0)
    with server.client() as client:
        entry_id, _ = client.xrange("events")[2]
        client.xdel("events", entry_id)
    assert consumer.lag() is None


def test_key_that_is_not_a_stream_is_named(server: RedisServer, make: Make) -> None:
    """The error names the option and the key."""
    server.command("SET", "events", "x")
    with pytest.raises(BackendConfigurationError, match=r"'stream_name'.*'events'"):
        make()


DOCUMENTED = ("+xreadgroup", "+xpending", "+xack", "+xclaim", "+xrange", "+xinfo|groups")


@pytest.mark.parametrize("further", [(), ("+xgroup|create",)])
def test_documented_permissions_suffice(
    server: RedisServer, make: Make, further: tuple[str, ...]
) -> None:
    """A user with few permissions reads, takes over and acknowledges; a group may be given."""
    server.command("ACL", "SETUSER", "reader", "reset", "on", ">secret", "~events")
    server.command("ACL", "SETUSER", "reader", *DOCUMENTED, *further)
    limited = {"username": "reader", "password": "secret"}
    if not further:
        with pytest.raises(BackendUnavailable, match="NOGROUP"):
            make(**limited)
        make().close()
    add(server, *range(4))
    make(**limited).receive(2, 0)
    following = make(**limited)
    assert following.lag() == 2
    assert drain(following) == [0, 1, 2, 3]
    assert following.health_check() is True
    following.close()


def test_reader_with_few_permissions_lets_go_of_all_streams(
    server: RedisServer, make: Make
) -> None:
    """That it may not delete its name in the first stream does not keep the entries of others."""
    server.command("ACL", "SETUSER", "reader", "reset", "on", ">secret", "~*", *DOCUMENTED)
    options: dict[str, Any] = {"stream_name": ["a", "b"], "ordered": False, "claim_idle": 3600}
    make(**options).close()
    add(server, 1, stream="a")
    add(server, 2, stream="b")
    limited = make(**options, username="reader", password="secret")
    assert sorted(numbers(limited.receive(10, 0))) == [1, 2]
    limited.close()
    assert sorted(drain(make(**options))) == [1, 2]


# --- Producers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("body_field", ["data", "payload"])
def test_body_field_is_that_of_the_backend(
    server: RedisServer, make: Make, mode: Any, body_field: str
) -> None:
    """A backend and a consumer with the same `body_field` understand each other."""
    backend = RedisStreamBackend(
        alias="default", port=server.port, content_mode=mode, body_field=body_field
    )
    backend.send(make_message(id="7", data={"a": 1}, config={"tenant": "blue"}))
    backend.close()
    (delivery,) = make(body_field=body_field).receive(10, 1)
    assert delivery.event is not None
    assert (delivery.event.id, delivery.event.data) == ("7", {"a": 1})
    assert delivery.message.headers["tenant"] == "blue"
    assert delivery.message.headers["event_id"] == "7"


def test_entry_of_another_producer_is_decoded(server: RedisServer, make: Make) -> None:
    """A decode function sees the fields of an entry that has no body."""

    def decode(message: Any) -> CloudEvent:
        headers = message.headers
        return CloudEvent("order.placed", "/shop", id=headers["order"], data=dict(headers))

    server.command("XADD", "events", "*", "order", "7", "total", "19.50")
    (delivery,) = make(decode=decode).receive(10, 1)
    assert delivery.event is not None
    assert (delivery.event.id, delivery.event.data["total"]) == ("7", "19.50")


def test_entry_without_a_body_names_the_field(server: RedisServer, make: Make) -> None:
    """The problem says which fields are read."""
    server.command("XADD", "events", "*", "order", "7")
    (delivery,) = make().receive(10, 1)
    assert delivery.problem == (
        "InvalidEvent: event: the entry has no field 'cloud_event' or 'data', or an empty one"
    )
    assert dict(delivery.message.headers) == {"order": "7"}
    with pytest.raises(KeyError, match="'kind'"):
        delivery.message.headers["kind"]


def test_fields_that_are_not_text_are_kept(server: RedisServer, make: Make) -> None:
    """A field with other bytes than UTF-8 is in the headers, and harms no event."""
    event = CloudEvent("test.event", "/test", id="7")
    server.command("XADD", "events", "*", "raw", b"\xff", "data", event.to_json())
    (delivery,) = make().receive(10, 1)
    assert delivery.event == event
    assert delivery.message.headers["raw"].encode(errors="surrogateescape") == b"\xff"


def test_event_of_dapr_is_read(server: RedisServer, make: Make) -> None:
    """Dapr writes the event as JSON to the field `data`."""
    event = {
        "specversion": "1.0",
        "id": "1",
        "type": "com.dapr",
        "source": "shop",
        "pubsubname": "x",
    }
    server.command("XADD", "events", "*", "data", json.dumps(event), "metadata", "{}")
    (delivery,) = make().receive(10, 1)
    assert delivery.event is not None
    assert delivery.event.extensions == {"pubsubname": "x"}


# --- Groups of servers ---------------------------------------------------------------------------


@pytest.mark.slow
def test_cluster_is_read_on_all_nodes(tmp_path: Path) -> None:
    """Streams on different nodes are read by one consumer, also after one has moved."""
    with redis_cluster(tmp_path) as cluster:
        streams = [cluster.stream_on(node, f"on-{at}") for at, node in enumerate(cluster.nodes)]
        port = cluster.nodes[0].port
        options = {"alias": "billing", "group": "billing", "port": port, "cluster": True}
        consumer = RedisStreamConsumer(stream_name=streams, **options)
        consumer.open()
        for at, (stream, node) in enumerate(zip(streams, cluster.nodes, strict=True)):
            add(node, *range(100 * at, 100 * at + 20), stream=stream)
        assert sorted(drain(consumer)) == [100 * at + each for at in range(3) for each in range(20)]
        for _ in cluster.move(streams[1], cluster.nodes[0]):
            pass
        add(cluster.nodes[0], 7, stream=streams[1])
        received: list[int] = []

        def receive() -> bool:
            with suppress(BackendUnavailable):
                received.extend(drain(consumer))
            return received == [7]

        wait_until(receive, SECONDS, "the consumer has found the stream")
        consumer.close()


@pytest.mark.slow
def test_new_master_is_read_after_a_failover(tmp_path: Path) -> None:
    """The sentinels name the new master, whose group has the same entries pending."""
    with watched_servers(tmp_path, replicas=1) as watched:
        consumer = RedisStreamConsumer(alias="billing", group="billing", **watched.options())
        consumer.open()
        add(watched.master(), *range(10))
        deliveries = consumer.receive(10, 1)
        consumer.acknowledge(deliveries[:4])
        with watched.master().client() as client:
            assert client.wait(1, 5000) == 1
        former = watched.master()
        former.kill()
        wait_until(lambda: watched.master() is not former, SECONDS, "there is a new master")

        def reopened() -> bool:
            with suppress(BackendUnavailable):
                consumer.close()
                consumer.open()
                return True
            return False

        wait_until(reopened, SECONDS, "the consumer is open")
        assert numbers(consumer.receive(10, 1)) == list(range(4, 10))
        consumer.close()
