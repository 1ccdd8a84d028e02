"""ConsumerContract itself: a consumer that breaks a promise fails the test of that promise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from inspect import signature
from typing import Any

import pytest

from django_broadcaster.consumers import Consumer, Delivery, ReceivedMessage
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.consumers.memory import BINDING, Broker, MemoryConsumer


class TestHonest(ConsumerContract):
    """The contract asks for no more than the promises."""

    binding = BINDING
    consumer_class: type[MemoryConsumer] = MemoryConsumer
    wrong_options = {"password": 5}
    secret_options = {"password": "hush-hush"}

    @pytest.fixture(autouse=True)
    def _broker(self) -> None:
        self.broker = Broker()

    def make_consumer(self, **options: Any) -> Consumer:
        return self.consumer_class(broker=self.broker, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        self.broker.produce(messages)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.broker.away()


class Forgets(MemoryConsumer):
    """Loses what is not acknowledged."""

    def close(self) -> None:
        self.broker.taken.clear()
        super().close()


class Reverses(MemoryConsumer):
    """Returns the messages of a call from the last to the first."""

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        return super().receive(limit, seconds)[::-1]


class ReturnsLast(MemoryConsumer):
    """Puts what is returned to the queue behind newer messages."""

    def close(self) -> None:
        self.broker.waiting += sorted(self.broker.taken)
        self.broker.taken.clear()
        self.is_open = False


class Greedy(MemoryConsumer):
    """Returns one more than the limit."""

    def take(self, limit: int) -> list[int]:
        return super().take(limit + 1)


class AcknowledgesAll(MemoryConsumer):
    """Acknowledges everything that was received."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.taken.clear()


class AcknowledgesNothing(MemoryConsumer):
    """Tells the broker nothing."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.check()


class Drops(MemoryConsumer):
    """Leaves out messages that hold no event."""

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        return [each for each in super().receive(limit, seconds) if not each.problem]


class Raises(MemoryConsumer):
    """Stops at a message that holds no event."""

    def delivery_of(self, offset: int) -> Delivery:
        delivery = super().delivery_of(offset)
        if delivery.problem:
            raise ValueError(delivery.problem)
        return delivery


class ReadsOneMode(MemoryConsumer):
    """Knows structured mode only."""

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        return CloudEvent.from_json(message.body)


class Counts(MemoryConsumer):
    """Names messages by the order of their delivery."""

    count = 0

    def delivery_of(self, offset: int) -> Delivery:
        self.count += 1
        delivery = super().delivery_of(offset)
        message = ReceivedMessage(body=delivery.message.body, position=str(self.count))
        return Delivery(message, offset, delivery.event, delivery.problem)


class Leaks(MemoryConsumer):
    """Shows the password."""

    def __init__(self, *, password: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.password = password

    def __repr__(self) -> str:
        return f"Leaks(password={self.password!r})"


class Blames(MemoryConsumer):
    """Raises the errors of the client."""

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        if self.broker.problem:
            raise ConnectionError(self.broker.problem)
        return super().receive(limit, seconds)


class Healthy(MemoryConsumer):
    """Never asks the broker."""

    def health_check(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("consumer", "test"),
    [
        (Forgets, "test_unacknowledged_messages_are_received_again"),
        (ReturnsLast, "test_unacknowledged_messages_are_received_again"),
        (AcknowledgesAll, "test_unacknowledged_messages_are_received_again"),
        (AcknowledgesAll, "test_acknowledging_after_reopening_is_harmless"),
        (AcknowledgesNothing, "test_acknowledged_messages_are_not_received_again"),
        (Reverses, "test_messages_are_received_in_order_up_to_the_limit"),
        (Greedy, "test_messages_are_received_in_order_up_to_the_limit"),
        (Drops, "test_malformed_messages_have_a_problem"),
        (Raises, "test_malformed_messages_have_a_problem"),
        (ReadsOneMode, "test_every_event_is_received_as_it_was_produced"),
        (Counts, "test_position_is_the_same_each_time"),
        (Leaks, "test_secrets_are_not_shown"),
        (Blames, "test_broker_that_is_away_is_unavailable"),
        (Healthy, "test_health_check_tells_that_the_broker_is_away"),
    ],
)
def test_consumer_that_breaks_a_promise_fails(
    consumer: type[MemoryConsumer], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of a promise notices who breaks it."""
    for module in ("consumer_contract", "fault_tests"):
        monkeypatch.setattr(f"django_broadcaster.testing.{module}.SECONDS", 0.3)
    contract = TestHonest()
    contract.consumer_class = consumer
    contract.broker = Broker()
    with ExitStack() as contract._made:
        opened = contract.new_consumer()
        opened.open()
        names = signature(getattr(contract, test)).parameters
        arguments = {"consumer": opened, "mode": "binary"}
        with pytest.raises((AssertionError, ConnectionError, ValueError)):
            getattr(contract, test)(**{name: arguments[name] for name in names})
