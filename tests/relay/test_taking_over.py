"""A relay takes over from earlier senders, if its backend keeps positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connections

from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.models import OutboxPartition
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.clock import Clock
from tests.support.events import count, publish, statuses
from tests.support.kafka_server import make_topic, shared_servers
from tests.support.kafka_transactions import committed_names

from .conftest import Join, turn

if TYPE_CHECKING:
    from pytest_django import Settings

NAMES = ["a1", "a2", "b1"]


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


def lose_the_answer(loop: DeliveryLoop, clock: Clock) -> None:
    """Let a batch be committed, and the relay not know it."""
    if loop.broker.backend.must_take_over(loop.lease.id):
        turn(loop)
    connection: Any = loop.broker.backend.connection()  # type: ignore[attr-defined]
    commit = connection.commit

    def commit_without_answer(position: Any) -> None:
        commit(position)
        raise BackendUnavailable("no answer")

    connection.commit = commit_without_answer
    publish(*NAMES, using=loop.using)
    assert turn(loop).unavailable
    assert set(statuses(loop.using).values()) == {"pending"}
    clock.advance(60)  # the pause of the circuit


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
