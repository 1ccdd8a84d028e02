"""The rules of `ConnectedBackend` for backends that are written with it."""

from __future__ import annotations

import math
from collections.abc import Callable

from django_broadcaster.backends.base import Message
from django_broadcaster.backends.connected import ConnectedBackend, HeldConnection
from django_broadcaster.backends.in_flight import KeyOrder
from django_broadcaster.backends.outcomes import MessageBatch
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import make_message


class Connection(HeldConnection):
    """A connection to nothing, which can be stale in a way that another one would be, too."""

    was_dropped = False
    is_blocked = False

    def is_fresh(self) -> bool:
        if self.is_blocked:
            raise BackendUnavailable("blocked")
        return True

    def close(self) -> None:
        self.was_dropped = True


class Backend(ConnectedBackend[Connection]):
    """Delivers as `answer` says."""

    def __init__(self, answer: Callable[[MessageBatch], None]) -> None:
        super().__init__(alias="default")
        self.answer = answer
        self.opened: list[Connection] = []

    def connect(self, within: float = math.inf) -> Connection:
        self.opened.append(Connection())
        return self.opened[-1]

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        self.answer(batch)


def messages(count: int) -> list[Message]:
    """Return messages without a key."""
    return [make_message(data=number) for number in range(count)]


def time_out(batch: MessageBatch) -> None:
    """Raise the error of a broker that may still answer."""
    raise BackendUnavailable("no answer")


def test_connection_is_dropped_when_the_broker_is_unavailable() -> None:
    """The next batch must not read answers to the last one."""
    backend = Backend(time_out)
    for _ in range(2):
        (outcome,) = backend.send_batch(messages(1))
        assert isinstance(outcome, BackendUnavailable)
    assert [each.was_dropped for each in backend.opened] == [True, True]


def test_connection_stays_if_another_would_be_of_no_use() -> None:
    """A broker that takes nothing for a while is asked over the same connection again."""
    backend = Backend(time_out)
    backend.connection().is_blocked = True
    (outcome,) = backend.send_batch(messages(1))
    assert str(outcome) == "blocked"
    assert [each.was_dropped for each in backend.opened] == [False]


def test_event_without_an_outcome_is_not_delivered() -> None:
    """A backend that forgets a message loses no event: the relay sends it again."""

    def forget(batch: MessageBatch) -> None:
        batch.acknowledge(0)

    delivered, forgotten = Backend(forget).send_batch(messages(2))
    assert delivered is None
    assert isinstance(forgotten, BackendUnavailable)
    assert "no outcome" in str(forgotten)


def test_event_that_had_no_answer_at_the_end_of_a_batch_is_not_delivered() -> None:
    """So is one that its sender has neither acknowledged nor given up."""

    def forget(batch: MessageBatch) -> None:
        order = KeyOrder(batch, lambda: None)
        order.conclude(order.ready.popleft(), None)
        order.finish()

    delivered, forgotten = Backend(forget).send_batch(messages(2))
    assert delivered is None
    assert isinstance(forgotten, BackendUnavailable)
