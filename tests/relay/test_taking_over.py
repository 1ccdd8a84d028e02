"""A relay takes over from earlier senders, if its backend keeps positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connections

from django_broadcaster.backends.position import MOST_ROWS
from django_broadcaster.exceptions import BackendUnavailable, LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import locked
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.clock import Clock
from tests.support.databases import SERVERS
from tests.support.events import count, publish, statuses
from tests.support.kafka_server import make_topic, shared_servers
from tests.support.kafka_transactions import committed_names

from .conftest import Join, drain, turn
from .test_fencing import limited_waiting
from .test_locked_rows import Holder

if TYPE_CHECKING:
    from pytest_django import Settings

NAMES = ["a1", "a2", "b1"]
MANY = [f"{key}1" for key in "abcdefghijklmnop"]
"""Events in partitions of both relays, if two share them."""

MORE = [f"{key}2" for key in "abcdefghijklmnop"]
"""Later events of the same keys."""


@pytest.fixture
def topic(settings: Settings) -> str:
    """The topic of the backend `default`, which sends in transactions."""
    topic = make_topic(shared_servers())
    options = {
        "bootstrap_servers": shared_servers(),
        "topic": topic,
        "transactional_id": f"test-{uuid4()}",
    }
    backend = "django_broadcaster.backends.KafkaBackend"
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": backend, "OPTIONS": options}}
    return topic


def lose_the_answer(
    loop: DeliveryLoop, clock: Clock, names: Sequence[str] = NAMES
) -> list[OutboxEvent]:
    """Let a batch be committed, and the relay not know it; return its events."""
    if loop.broker.backend.must_take_over(loop.lease.id):
        turn(loop)
    connection: Any = loop.broker.backend.connection()  # type: ignore[attr-defined]
    commit = connection.commit

    def commit_without_answer(position: Any) -> None:
        commit(position)
        raise BackendUnavailable("no answer")

    connection.commit = commit_without_answer
    events = publish(*names, using=loop.using)
    assert turn(loop).unavailable
    assert set(statuses(loop.using).values()) == {"pending"}
    clock.advance(60)  # the pause of the circuit
    return events


@contextmanager
def failing_once(database: str, statement: str) -> Iterator[None]:
    """Let the first statement fail that matches a regular expression."""
    failures = [OperationalError("the server closed the connection")]

    def execute(run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if failures and re.search(statement, sql):
            raise failures.pop()
        return run(sql, params, many, context)

    with connections[database].execute_wrapper(execute):
        yield
    assert not failures


def test_batch_whose_answer_was_lost_is_settled_without_being_sent(
    database: str, topic: str, join: Join, clock: Clock
) -> None:
    """The relay asks Kafka for its own position before it sends anything more."""
    loop = join()
    lose_the_answer(loop, clock)
    publish("a3", using=database)
    assert turn(loop).published == len(NAMES)
    clock.advance(60)
    while turn(loop).found_work:
        pass
    assert count("published", database) == 4
    assert sorted(committed_names(shared_servers(), topic)) == [*NAMES[:2], "a3", "b1"]


@pytest.mark.parametrize(
    "statement",
    [
        r"SELECT \S+outboxmove\S+row",
        "SELECT id, partition_key, event_id",
        "(UPDATE|DELETE) .*django_broadcaster_outboxevent",
        "UPDATE .django_broadcaster_outboxpartition. SET .sent_by",
    ],
    ids=["replays", "rows", "settle", "claim"],
)
def test_database_that_fails_meanwhile_causes_no_repeat(
    database: str, topic: str, join: Join, clock: Clock, statement: str
) -> None:
    """The relay asks for the position again, or settles what it still knows."""
    loop = join()
    lose_the_answer(loop, clock)
    with failing_once(database, statement), pytest.raises(OperationalError):
        turn(loop)
    for _ in range(3):
        turn(loop)
        clock.advance(60)
    assert count("published", database) == len(NAMES)
    assert sorted(committed_names(shared_servers(), topic)) == NAMES


def test_partitions_that_change_owners_in_peace_are_not_taken_over(
    database: str, topic: str, join: Join
) -> None:
    """What a relay gives up is settled, so the next owner has nothing to ask."""
    first = join()
    publish(*NAMES, using=database)
    assert turn(first).published == len(NAMES)
    second = join()
    for loop in (first, second, first, second):
        turn(loop)
    partitions = OutboxPartition.objects.using(database)
    for loop in (first, second):
        mine = partitions.filter(relay=loop.lease.id)
        assert set(mine.values_list("sent_by", flat=True)) == {loop.lease.id}
    publish("a3", "b2", using=database)
    assert turn(first).published + turn(second).published == 2
    assert sorted(committed_names(shared_servers(), topic)) == ["a1", "a2", "a3", "b1", "b2"]


def join_again(loop: DeliveryLoop) -> None:
    """Let a relay find that it must give up partitions though it is in doubt."""
    with pytest.raises(LeaseLost, match="must give up partitions"):
        turn(loop)
    loop.join()


def test_relay_in_doubt_gives_up_no_part_of_its_partitions(
    database: str, topic: str, join: Join, clock: Clock
) -> None:
    """It sends on under another lease, so a new owner still finds the position of the batch."""
    first = join()
    lose_the_answer(first, clock, MANY)
    second = join()
    join_again(first)
    publish(*MORE, using=database)
    for loop in (first, second):
        drain(loop)
        assert loop.lease.partitions
    for loop in (first, second):
        drain(loop)
    assert count("published", database) == len(MANY + MORE)
    assert sorted(committed_names(shared_servers(), topic)) == sorted(MANY + MORE)


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_locked_event_is_not_sent_by_the_next_owner_of_its_partition(
    database: str, topic: str, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position has it until it is settled, whoever owns the partition meanwhile."""
    monkeypatch.setattr(locked, "RETRY_SECONDS", 0.0)
    first, holder = join(), Holder(database)
    with closing(holder._connection), limited_waiting(database):
        publish(*MANY, using=database)
        holder.change(MANY)
        turn(first)
        assert len(first.owned.locked) == len(MANY)
        second = join()
        join_again(first)
        publish(*MORE, using=database)
        for loop in (first, second, first, second):
            turn(loop)
        holder.rollback()
        for loop in (first, second, first, second):
            drain(loop)
    assert count("published", database) == len(MANY + MORE)
    assert sorted(committed_names(shared_servers(), topic)) == sorted(MANY + MORE)


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_next_owner_takes_over_after_a_failover_of_the_database(
    database: str, topic: str, join: Join
) -> None:
    """What was settled may be pending on the replica, so the earlier lease stays known."""
    if connections[database].vendor != "postgresql":
        pytest.skip("a timeline is PostgreSQL's")
    loop = join()
    publish(*NAMES, using=database)
    turn(loop)
    server: Any = loop.lease._server
    loop.lease._server = server._replace(timeline="another")
    with pytest.raises(LeaseLost, match="another database server"):
        loop.lease.renew()
    loop.lease.leave()
    senders = OutboxPartition.objects.using(database).values_list("sent_by", flat=True)
    assert set(senders) == {loop.lease.id}


def test_batch_and_locked_events_fit_into_a_position(database: str, topic: str, join: Join) -> None:
    """The more events are locked, the fewer are sent; in the end none are."""
    broker = join().broker
    allowed = [broker.open_for(100, locked=number) for number in (0, MOST_ROWS - 10, MOST_ROWS)]
    assert allowed == [100, 10, 0]


def test_single_event_that_is_found_delivered_counts_as_acknowledged(
    routed: str, topic: str, join: Join, clock: Clock
) -> None:
    """A call that delivers one event settles it without sending it again, and says True."""
    loop = join()
    event, *_ = lose_the_answer(loop, clock)
    loop.lease.leave()
    assert publisher._process_single_event(event) is True
    assert sorted(committed_names(shared_servers(), topic)) == NAMES
