"""ConsumerFaultContract itself: a consumer that breaks a promise fails the test of that promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from django_broadcaster.consumers import Consumer, Delivery
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import ConsumerFaultContract, ProducedMessage
from tests.consumers.memory import Broker, MemoryConsumer

TYPE = "application/cloudevents+json"


class Faults(ConsumerFaultContract):
    """The hooks, for a broker in memory."""

    consumer_class: type[MemoryConsumer] = MemoryConsumer
    missing = "no such queue"

    def __init__(self) -> None:
        self.broker = Broker()

    def make_consumer(self, **options: Any) -> Consumer:
        return self.consumer_class(broker=self.broker, **options)

    def produce(self, events: Sequence[CloudEvent]) -> None:
        messages = [ProducedMessage(body=each.to_json(), content_type=TYPE) for each in events]
        self.broker.produce(messages)

    def stopped(self) -> AbstractContextManager[object]:
        return self.broker.away()

    def frozen(self) -> AbstractContextManager[object]:
        return self.broker.away()

    @contextmanager
    def connection_cut(self, direction: str, after: int) -> Iterator[None]:
        self.broker.release(self.broker.taken)
        self.broker.problem = "cut"
        yield
        self.broker.problem = ""

    @contextmanager
    def source_missing(self, case: str) -> Iterator[Consumer]:
        self.broker.problem = "no such queue"
        yield self.new_consumer()
        self.broker.problem = ""

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        self.broker.problem = "refused" if case else ""
        yield self.new_consumer()


class Leaks(Faults):
    """Shows the password."""

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        self.broker.problem = f"refused: {self.secret}"
        yield self.new_consumer()


class Forgets(MemoryConsumer):
    """Loses what is not acknowledged."""

    def close(self) -> None:
        for offset in (*self.broker.taken, *self.broker.waiting[:5]):
            self.broker.taken.pop(offset, None)
        del self.broker.waiting[:5]


class Keeps(MemoryConsumer):
    """Never takes over what another consumer holds."""

    def release_others(self) -> None:
        pass


class TakesOverAtFirst(MemoryConsumer):
    """Takes over what another consumer holds when it is opened, and never later."""

    def open(self) -> None:
        super().open()
        super().release_others()

    def release_others(self) -> None:
        pass


class Insists(MemoryConsumer):
    """Takes a broker that is away for one without messages."""

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        try:
            return super().receive(limit, seconds)
        except BackendUnavailable:
            return []


CASE = {"case": "default"}
TESTS: Mapping[str, tuple[Callable[..., None], Mapping[str, Any]]] = {
    "restart": (Faults.test_server_stopped_and_started, {}),
    "cut": (Faults.test_connection_cut_while_receiving, {"after": 0}),
    "cut acknowledgement": (Faults.test_connection_cut_while_acknowledging, {"after": 0}),
    "frozen": (Faults.test_frozen_server_is_given_up_after_the_timeout, {}),
    "missing": (Faults.test_missing_source_is_named, CASE),
    "credentials": (Faults.test_wrong_credentials_are_refused, CASE),
    "right credentials": (Faults.test_right_credentials_receive, {}),
    "takeover": (Faults.test_next_receiver_gets_what_was_not_acknowledged, {}),
    "stalled": (Faults.test_receiver_that_was_replaced_does_not_break_the_order, {}),
}


@pytest.mark.parametrize("test", TESTS)
def test_consumer_that_keeps_its_promises_passes(test: str) -> None:
    """The contract asks for no more than the promises."""
    run, arguments = TESTS[test]
    run(Faults(), **arguments)


@pytest.mark.parametrize(
    ("consumer", "test"),
    [
        (Forgets, "restart"),
        (Forgets, "cut"),
        (Keeps, "takeover"),
        (TakesOverAtFirst, "stalled"),
        (Insists, "restart"),
    ],
)
def test_consumer_that_breaks_a_promise_fails(
    consumer: type[MemoryConsumer], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of a promise notices who breaks it."""
    for module in ("consumer_faults", "fault_tests"):
        monkeypatch.setattr(f"django_broadcaster.testing.{module}.SECONDS", 0.5)
    monkeypatch.setattr(Faults, "consumer_class", consumer)
    run, arguments = TESTS[test]
    with pytest.raises(AssertionError):
        run(Faults(), **arguments)


def test_error_with_the_password_fails() -> None:
    """The test of wrong credentials reads the whole chain of errors."""
    with pytest.raises(AssertionError):
        Leaks().test_wrong_credentials_are_refused(case="default")
