"""The Kafka backend with `transactional_id`: what readers of committed records see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import ResourceType

from django_broadcaster.backends import KafkaBackend, Message
from django_broadcaster.backends.position import MOST_CHARACTERS, MOST_ROWS, decode, encode, mark_of
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    Rejected,
)
from django_broadcaster.testing import make_message
from tests.support.batches import kinds
from tests.support.kafka_server import (
    SASL,
    KafkaServer,
    add_user,
    changed,
    forbid,
    kafka_server,
    make_topic,
    shared_servers,
)
from tests.support.kafka_transactions import committed
from tests.support.waiting import wait_until

MakeBackend = Callable[..., KafkaBackend]

PASSWORD = "s3cret"
SECONDS = 30.0  # at the most

LEASE, NEXT_LEASE = 1001, 1002


@pytest.fixture(scope="module")
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker with permissions, and the user `shop`."""
    folder = tmp_path_factory.mktemp("kafka")
    with kafka_server(folder, SASL, ["SASL_PLAINTEXT"]) as server:
        add_user(server, "shop", PASSWORD)
        yield server


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of two partitions."""
    return make_topic(servers, 2)


@pytest.fixture
def make(servers: str, topic: str) -> Iterator[MakeBackend]:
    """Make backends of the same transactional id, each for one relay."""
    transactional_id = f"test-{uuid4()}"
    with ExitStack() as made:

        def make(**options: Any) -> KafkaBackend:
            ours = {"alias": "default", "bootstrap_servers": servers, "topic": topic}
            backend = KafkaBackend(**{**ours, "transactional_id": transactional_id, **options})
            made.callback(backend.close)
            return backend

        yield make


_rows = count(10_000)


def rows(number: int, key: str = "", size: int = 10) -> list[Message]:
    """Messages as a relay makes them, with the ids of their rows."""
    made = [make_message(data="x" * size, partition_key=key) for _ in range(number)]
    for message in made:
        message.row = next(_rows)
    return made


def position_of(messages: Sequence[Message]) -> dict[int, int]:
    """The position of a transaction with these messages."""
    return {message.row: mark_of(message.event_id) for message in messages}


def ids(messages: Sequence[Message]) -> list[str]:
    """The ids of messages."""
    return [message.event_id for message in messages]


def stored(servers: str, topic: str) -> list[str]:
    """The ids of the events that a reader of committed records sees."""
    return [json.loads(each.value() or b"")["id"] for each in committed(servers, topic)]


def test_batch_is_committed_with_its_position(make: MakeBackend, servers: str, topic: str) -> None:
    """Who takes over gets the position of the last batch, and readers see all batches."""
    first, second = rows(5, "a"), rows(3, "a")
    backend = make()
    assert backend.take_over(LEASE, []) == []
    assert kinds(backend.send_batch(first)) == [None] * 5
    assert kinds(backend.send_batch(second)) == [None] * 3

    assert make().take_over(NEXT_LEASE, [LEASE]) == [position_of(second)]
    assert stored(servers, topic) == ids(first + second)


def test_sender_that_was_replaced_sends_nothing(
    make: MakeBackend, servers: str, topic: str
) -> None:
    """After a take-over the earlier sender's batch fails, and is not in the topic."""
    sent, late = rows(2), rows(2)
    earlier = make()
    earlier.take_over(LEASE, [])
    earlier.send_batch(sent)
    later = make()
    assert later.take_over(NEXT_LEASE, [LEASE]) == [position_of(sent)]

    assert kinds(earlier.send_batch(late)) == [BackendUnavailable] * 2
    assert earlier.must_take_over(LEASE)
    assert kinds(later.send_batch(late)) == [None] * 2
    assert sorted(stored(servers, topic)) == sorted(ids(sent + late))


def test_open_transaction_is_aborted_by_who_takes_over(
    make: MakeBackend, servers: str, topic: str
) -> None:
    """Records that were sent and not committed are in no position, and no reader sees them."""
    sent, lost = rows(2), rows(2)
    earlier = make()
    earlier.take_over(LEASE, [])
    earlier.send_batch(sent)
    connection: Any = earlier.connection()
    connection.commit = lambda position: _raise(BackendUnavailable("killed here"))
    connection.close = lambda: None
    assert kinds(earlier.send_batch(lost)) == [BackendUnavailable] * 2

    later = make()
    assert later.take_over(NEXT_LEASE, [LEASE]) == [position_of(sent)]
    later.send_batch(lost)
    assert sorted(stored(servers, topic)) == sorted(ids(sent + lost))


def test_relay_takes_over_from_itself_after_a_commit_without_answer(
    make: MakeBackend, servers: str, topic: str
) -> None:
    """If the answer to a commit is lost, the position shows that the batch is there."""
    sent = rows(2)
    backend = make()
    backend.take_over(LEASE, [])
    connection: Any = backend.connection()
    commit = connection.commit

    def commit_without_answer(position: Any) -> None:
        commit(position)
        raise BackendUnavailable("no answer")

    connection.commit = commit_without_answer
    assert kinds(backend.send_batch(sent)) == [BackendUnavailable] * 2
    assert backend.must_take_over(LEASE)
    assert backend.take_over(LEASE, [LEASE]) == [position_of(sent)]
    assert not backend.must_take_over(LEASE)
    assert kinds(backend.send_batch(more := rows(1))) == [None]
    assert sorted(stored(servers, topic)) == sorted(ids(sent + more))


def test_relay_sends_nothing_before_it_takes_over_again(make: MakeBackend) -> None:
    """A lost producer is not replaced in the middle of a delivery, whose lease may be lost."""
    backend = make()
    backend.take_over(LEASE, [])
    backend.drop()
    assert kinds(backend.send_batch(rows(1))) == [BackendUnavailable]


def test_batch_is_not_committed_without_all_answers(
    make: MakeBackend, servers: str, topic: str
) -> None:
    """If some answers do not come in time, nothing of the batch is sent, and the error says why."""
    messages = rows(3)
    backend = make()
    backend.take_over(LEASE, [])
    connection: Any = backend.connection()
    send = connection.send

    def send_late(records: Any) -> Any:
        reports = send(records)
        del reports[records[-1].place]
        connection.is_late = True
        return reports

    connection.send = send_late
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert "no answer within" in str(outcomes[0])
    backend.take_over(LEASE, [LEASE])
    assert kinds(backend.send_batch(messages)) == [None] * 3
    assert sorted(stored(servers, topic)) == sorted(ids(messages))


def test_lease_goes_on_after_the_position_that_it_has(make: MakeBackend) -> None:
    """A producer that is begun again for its lease numbers its transactions further."""
    backend = make()
    for number in range(1, 3):
        backend.take_over(LEASE, [])
        kept = rows(2, "a")
        assert kinds(backend.send_batch(kept)) == [None] * 2
        connection: Any = backend.connection()
        assert connection._sequence == number
        backend.drop()
    assert make().take_over(NEXT_LEASE, [LEASE]) == [position_of(kept)]


def test_refused_events_are_in_no_position(make: MakeBackend, servers: str, topic: str) -> None:
    """If the topic refuses an event, its key waits, and all others are delivered once."""
    with changed(servers, topic, "max.message.bytes", "1500"):
        before, large, after = rows(1, "a"), rows(1, "a", 5000), rows(1, "a")
        others = rows(20, "b")
        backend = make()
        backend.take_over(LEASE, [])
        outcomes = backend.send_batch(before + large + after + others)
    assert kinds(outcomes) == [None, Rejected, Held, *[None] * 20]
    delivered = before + others
    assert make().take_over(NEXT_LEASE, [LEASE]) == [position_of(delivered)]
    assert sorted(stored(servers, topic)) == sorted(ids(delivered))


def test_event_over_the_limit_aborts_nothing(make: MakeBackend, servers: str, topic: str) -> None:
    """An event that is too large by itself fails; the rest is one transaction."""
    small, large, held = rows(1, "a"), rows(1, "a", 2000), rows(1, "a")
    backend = make(max_message_bytes=1000)
    backend.take_over(LEASE, [])
    assert kinds(backend.send_batch(small + large + held)) == [None, Rejected, Held]
    assert make().take_over(NEXT_LEASE, [LEASE]) == [position_of(small)]
    assert stored(servers, topic) == ids(small)


def test_events_that_could_not_be_settled_stay_in_the_position(make: MakeBackend) -> None:
    """While a row is locked, each position has it, so a later relay does not send it."""
    locked, others = rows(1), rows(2)
    backend = make()
    backend.take_over(LEASE, [])
    backend.send_batch(locked)
    backend.unsettled = position_of(locked)
    backend.send_batch(others)
    assert make().take_over(NEXT_LEASE, [LEASE]) == [position_of(locked + others)]


def test_backend_works_without_a_relay(make: MakeBackend, servers: str, topic: str) -> None:
    """A script that calls `send_batch` sends in transactions, too."""
    messages = rows(2, "a")
    assert kinds(make().send_batch(messages)) == [None, None]
    assert stored(servers, topic) == ids(messages)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"transactional_id": ""}, "'transactional_id'.*must be a non-empty string"),
        ({"transactional_id": 7}, "'transactional_id'.*must be a non-empty string"),
        ({"config": {"transactional.id": "x"}}, "give the option 'transactional_id'"),
        (
            {"timeout": 20, "config": {"transaction.timeout.ms": 65_000}},
            r"'transaction.timeout.ms' must be more than 3 times 'timeout' and 5 s, 65000 in all",
        ),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], problem: str) -> None:
    """The error names the option and the rule."""
    with pytest.raises(BackendConfigurationError, match=problem):
        KafkaBackend(alias="default", **{"transactional_id": "orders", **options})


def test_transaction_timeout_over_that_of_the_broker_is_named(make: MakeBackend) -> None:
    """The broker's error says which setting to change."""
    backend = make(config={"transaction.timeout.ms": 3_600_000})
    with pytest.raises(BackendUnavailable, match=r"transaction\.max\.timeout\.ms"):
        backend.take_over(LEASE, [])


@pytest.mark.chaos
@pytest.mark.long  # librdkafka has ended the process once, on a busy machine
@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        (ResourceType.TRANSACTIONAL_ID, "Write and Describe on transactional ids"),
        (ResourceType.GROUP, "Read on groups"),
    ],
    ids=["transactional id", "group"],
)
def test_missing_permission_is_named(
    protected: KafkaServer, kind: ResourceType, operation: str
) -> None:
    """Events wait until the permission is there, and the error says which one is missing."""
    topic = make_topic(protected.servers)
    backend = KafkaBackend(
        alias="default",
        bootstrap_servers=f"127.0.0.1:{protected.ports['SASL_PLAINTEXT']}",
        topic=topic,
        username="shop",
        password=PASSWORD,
        config={"sasl.mechanisms": "SCRAM-SHA-256"},
        transactional_id="orders",
    )
    problem = ""

    def is_sent() -> bool:
        nonlocal problem
        try:
            _send(backend, rows(1))
        except BackendUnavailable as error:
            problem = str(error)
            return False
        return True

    # The brokers learn of a permission some time after the answer.
    with closing(backend):
        with forbid(protected, "shop", "orders-", kind=kind, by_prefix=True):
            wait_until(lambda: not is_sent(), SECONDS, "events are refused")
            assert f"{operation} that begin with 'orders-'" in problem
        before = len(stored(protected.servers, topic))
        wait_until(is_sent, SECONDS, "events are sent")
    assert len(stored(protected.servers, topic)) == before + 1


def _send(backend: KafkaBackend, messages: Sequence[Message]) -> None:
    """Send as a relay does; raises the error of the first message."""
    backend.take_over(LEASE, [])
    (outcome,) = backend.send_batch(messages)
    if outcome is not None:
        raise outcome


@pytest.mark.parametrize("distance", [1, 7, 300, 2**20, 2**27], ids=str)
def test_position_of_a_full_batch_fits_into_the_metadata_of_an_offset(distance: int) -> None:
    """As text it is short enough for Kafka's default, and it is read back as it was."""
    position = {2**40 + each * distance: mark_of(f"{each}") for each in range(MOST_ROWS)}
    text = encode(2**31, position)
    assert len(text) <= MOST_CHARACTERS
    assert decode(text) == (2**31, position)


def _raise(error: Exception) -> None:
    raise error
