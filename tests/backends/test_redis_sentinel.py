"""The Redis backend with sentinels: a real master, replicas and a sentinel, and failovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from django_broadcaster.backends import Message, RedisStreamBackend
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import make_message
from tests.support.batches import kinds
from tests.support.redis_groups import MASTER, Watched, confirm, watched_servers
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

SECONDS = 30.0
BATCH = 50

MakeBackend = Callable[..., RedisStreamBackend]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A master with two replicas, and a sentinel."""
    with watched_servers(tmp_path, replicas=2) as servers:
        yield servers


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RedisStreamBackend:
            backend = RedisStreamBackend(alias="default", socket_timeout=2.0, **options)
            made.callback(backend.close)
            return backend

        yield make


def numbers(count: int, key: str = "key") -> list[Message]:
    """Messages whose data is 0, 1, 2, ..."""
    return [make_message(data=number, partition_key=key) for number in range(count)]


def ids(server: RedisServer) -> list[str]:
    """The event ids in the stream, in order."""
    with server.client() as client:
        return [fields["event_id"] for _, fields in client.xrange("events")]


def insist(backend: RedisStreamBackend, batch: list[Message]) -> int:
    """Publish until all is acknowledged, as a relay does; return how often it was not."""
    deadline = time.monotonic() + SECONDS
    attempts = 0
    while kinds(backend.send_batch(batch)) != [None] * len(batch):
        attempts += 1
        assert time.monotonic() < deadline
    return attempts


def test_sentinels_are_asked_for_the_master(make: MakeBackend, watched: Watched) -> None:
    """The first sentinel that answers tells where to publish, and the health check is True."""
    backend = make(**watched.options())
    messages = numbers(10)
    assert backend.send_batch(messages) == [None] * 10
    assert ids(watched.servers[0]) == [message.event_id for message in messages]
    assert backend.health_check() is True


@pytest.mark.parametrize(
    "wrong",
    [{"sentinel_master": "other"}, {"sentinel_password": "wrong"}, {"password": "wrong"}],
)
def test_wrong_name_or_login_is_unavailable(
    make: MakeBackend, watched: Watched, wrong: dict[str, str]
) -> None:
    """It costs no event, and the error names the sentinels but no password."""
    options = {**watched.options(), **wrong}
    backend = make(**options)
    outcomes = backend.send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert f"{options['sentinel_master']!r} of the sentinels 127.0.0.1:" in str(outcomes[0])
    assert "secret" not in str(outcomes[0])
    assert backend.health_check() is False


def test_sentinels_that_are_all_away_are_unavailable(make: MakeBackend, watched: Watched) -> None:
    """Nobody who tells where the master is, is like a master that is away; but an open connection
    goes on."""
    opened, fresh = make(**watched.options()), make(**watched.options())
    opened.open()
    watched.sentinel.kill()
    assert opened.send_batch(numbers(2)) == [None, None]
    assert kinds(fresh.send_batch(numbers(2))) == [BackendUnavailable] * 2
    assert fresh.health_check() is False


@pytest.mark.chaos
def test_demoted_master_sends_us_to_the_new_one(make: MakeBackend, watched: Watched) -> None:
    """READONLY is unavailable, stores nothing, and the next batch goes to the new master."""
    old, new, _ = watched.servers
    backend = make(**watched.options())
    backend.open()
    _promote(watched, new)
    # Of itself a demotion leaves connections open: ours finds out by the answer.
    old.command("REPLICAOF", "127.0.0.1", new.port)
    messages = numbers(3)
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert isinstance(outcomes[0].__cause__, redis.ConnectionError)  # type: ignore[union-attr]
    assert backend.send_batch(messages) == [None] * 3
    assert ids(new) == [message.event_id for message in messages]


@pytest.mark.chaos
def test_old_master_that_comes_back_gets_nothing(make: MakeBackend, watched: Watched) -> None:
    """A master that was replaced and takes writes again, not knowing it, is not written to."""
    old, new, _ = watched.servers
    backend = make(**watched.options())
    before, after = numbers(5), numbers(5)
    assert backend.send_batch(before) == [None] * 5
    wait_until(lambda: len(ids(new)) == 5, SECONDS, "the replica has the events")
    old.kill()
    _promote(watched, new)
    old.start()
    assert old.command("INFO", "replication")["role"] == "master"
    insist(backend, after)
    assert ids(old) == [message.event_id for message in before]
    assert ids(new) == [message.event_id for message in before + after]


def _promote(watched: Watched, server: RedisServer) -> None:
    """Make a replica the master, and let the sentinel know no more than that."""
    server.command("REPLICAOF", "NO", "ONE")
    watched.sentinel.command("SENTINEL", "REMOVE", MASTER)
    watched.sentinel.command("SENTINEL", "MONITOR", MASTER, "127.0.0.1", server.port, 1)
    watched.sentinel.command("SENTINEL", "SET", MASTER, "auth-pass", server.password)


@pytest.mark.shows("sentinel")
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("replicas", [0, 1])
def test_failover_under_load(make: MakeBackend, watched: Watched, replicas: int) -> None:
    """SIGKILL of the master: delivery goes on with a replica, by itself and in order.

    What the new master lacks is an end piece of what the old one had acknowledged, and nothing at
    all with `wait_replicas`. Doubled is no more than the batch that was on its way.
    """
    old = watched.servers[0]
    backend = make(**watched.options(), wait_replicas=replicas)
    killer = threading.Thread(target=_kill_under_load, args=(old,))
    killer.start()
    acknowledged: list[str] = []
    while killer.is_alive() or watched.master() is old or len(acknowledged) < 2000:
        batch = [make_message(data=n, partition_key=f"key-{n % 5}") for n in range(BATCH)]
        insist(backend, batch)
        acknowledged += [message.event_id for message in batch]
    killer.join()
    new = watched.master()
    stored = ids(new)
    watched.sentinel.kill()
    old.start()
    lost = set(acknowledged) - set(stored)
    assert lost <= set(ids(old))
    kept = [each for each in acknowledged if each not in lost]
    first = next((n for n, each in enumerate(acknowledged) if each in lost), 0)
    assert acknowledged[first : first + len(lost)] == [e for e in acknowledged if e in lost]
    assert list(dict.fromkeys(stored)) == kept
    assert len(stored) - len(kept) <= BATCH
    if replicas:
        assert lost == set()


def _kill_under_load(server: RedisServer) -> None:
    wait_until(lambda: server.command("XLEN", "events") > 500, SECONDS, "it is under load")
    server.kill()


@pytest.mark.chaos
@pytest.mark.slow
def test_switch_of_masters_loses_nothing_that_all_replicas_had(
    make: MakeBackend, watched: Watched
) -> None:
    """A switch under load, with the old master alive: delivery goes on, in order and complete.

    The old master takes events until the sentinel has told it, with the other replica behind it:
    only to wait for all the replicas keeps what was acknowledged.
    """
    backend = make(**watched.options(), wait_replicas=2)
    old = watched.servers[0]
    insist(backend, numbers(BATCH))
    wait_until(partial(_switch, watched), SECONDS, "the sentinel finds a replica good enough")
    acknowledged: list[str] = []
    deadline = time.monotonic() + SECONDS
    while watched.master() is old or len(acknowledged) < 1000:
        assert time.monotonic() < deadline
        batch = numbers(BATCH)
        insist(backend, batch)
        acknowledged += [message.event_id for message in batch]
    stored = [each for each in ids(watched.master()) if each in set(acknowledged)]
    assert list(dict.fromkeys(stored)) == acknowledged


def _switch(watched: Watched) -> bool:
    try:
        watched.sentinel.command("SENTINEL", "FAILOVER", MASTER)
    except redis.ResponseError as error:
        if "NOGOODSLAVE" not in str(error):
            raise
        return False
    return True


@pytest.mark.shows("sentinel")
@pytest.mark.chaos
def test_event_that_too_few_replicas_have_is_unavailable(
    make: MakeBackend, watched: Watched
) -> None:
    """With `wait_replicas`, what they have not confirmed waits, and is not stored ever again."""
    master, *replicas = watched.servers
    backend = RedisStreamBackend(
        alias="default", url=master.url, wait_replicas=2, socket_timeout=1.0
    )
    assert backend.send_batch(numbers(3)) == [None] * 3
    replicas[0].stop()
    messages = numbers(3)
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert "wait_replicas" in str(outcomes[0])
    replicas[0].resume()
    replicas[0].kill()
    wait_until(partial(confirm, master, 1), SECONDS, "the master knows that one is gone")
    for _ in range(3):
        assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 3
    assert len(ids(master)) == 6
    replicas[0].start()
    replicas[0].command("REPLICAOF", "127.0.0.1", master.port)
    wait_until(partial(confirm, master, 2), SECONDS, "it is back")
    insist(backend, messages)
    backend.close()
    assert ids(master)[-3:] == [message.event_id for message in messages]
