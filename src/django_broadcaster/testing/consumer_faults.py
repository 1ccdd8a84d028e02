"""The faults that a consumer survives, as tests that every consumer with a server runs.

    class TestPigeonConsumerFaults(ConsumerFaultContract):
        excluded = {ConsumerFault.TLS: "a pigeon has no connection"}

        def make_consumer(self, **options):
            return PigeonConsumer(loft=self.loft.address, **options)

        def produce(self, events):
            self.loft.post([event.to_json() for event in events])

        def stopped(self):
            return self.loft.closed()

Each fault has a hook, a context manager in which the server has that fault. A consumer implements
the hooks or says in `excluded` why its server cannot have the fault.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, ClassVar, Literal

import pytest

from django_broadcaster.consumers import Consumer, Delivery
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    BroadcasterError,
)

from .consumer_contract import ids, numbered_event
from .fault_tests import SECONDS, FaultTests, about, eventually


class ConsumerFault(StrEnum):
    """Faults that a consumer meets, in the order of the tests."""

    RESTART = "server stopped and started"
    CUT = "connection cut while messages are received"
    CUT_ACKNOWLEDGEMENT = "connection cut while messages are acknowledged"
    FROZEN = "server slower than the timeout"
    MISSING = "source missing"
    CREDENTIALS = "wrong credentials"
    TLS = "wrong TLS"
    TAKEOVER = "receiver replaced by another one"
    STALLED = "receiver that was replaced goes on"


class ConsumerFaultContract(FaultTests):
    """Subclass it as `TestSomethingFaults`, and write the hooks or `excluded`.

    Each test has the source to itself: no other messages are in it, and no consumer has read from
    it. The tests act as a receiver does: after a BackendUnavailable they close the consumer and
    open it again. Nothing may be lost, and the first deliveries of each key must be in order.
    """

    keeps_order: ClassVar[bool] = True
    """Whether messages of one key arrive in the order in which they were produced."""

    healthy_despite: ClassVar[Collection[ConsumerFault]] = ()
    """Faults in which `health_check` may be True: it does not ask the server that much."""

    timeout_options: ClassVar[Mapping[str, Any]] = {}
    """The options of a consumer that gives up a silent server soon."""

    patience: ClassVar[float] = 20.0
    """The longest, in seconds, that one call may take with those options."""

    secret: ClassVar[str] = "hush-hush"  # noqa: S105  # it protects nothing
    """A wrong password, for `credentials`. No error may contain it."""

    missing: ClassVar[str] = ""
    """A part of the error about a missing source, such as its name."""

    alias: ClassVar[str] = "contract"

    # --- Hooks -------------------------------------------------------------------------------

    def make_consumer(self, **options: Any) -> Consumer:
        """Return a new consumer, not opened. `options` has `alias`, and whatever a test needs.

        Hooks call `new_consumer` instead, whose consumers are closed after the test.
        """
        raise NotImplementedError

    def produce(self, events: Sequence[CloudEvent]) -> None:
        """Send events in order, each with its partition key; return once they are stored."""
        raise NotImplementedError

    def stopped(self) -> AbstractContextManager[object]:
        """Return a context manager in which the server is stopped.

        After it, the server is up, with its messages.
        """
        raise NotImplementedError

    def connection_cut(
        self, direction: Literal["request", "reply"], after: int
    ) -> AbstractContextManager[object]:
        """Return a context manager that cuts the connection after `after` further bytes.

        Args:
            direction: Whether the bytes go to the server, or come back from it.
            after: The number of bytes.
        """
        raise NotImplementedError

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context manager in which the server takes connections and answers nothing."""
        raise NotImplementedError

    def source_missing(self, case: str) -> AbstractContextManager[Consumer]:
        """Return a context manager in which a consumer's source is missing.

        Its value is the consumer. After the context, the source is there.
        """
        raise NotImplementedError

    def credentials(self, case: str | None) -> AbstractContextManager[Consumer]:
        """Return a context manager whose value is a consumer of a server that wants credentials.

        They are wrong in that way, with `secret` as the password, or right for None.
        """
        raise NotImplementedError

    def tls(self, case: str | None) -> AbstractContextManager[Consumer]:
        """Return a context manager whose value is a consumer of a server that speaks TLS.

        The options for TLS are wrong in that way, or right for None.
        """
        raise NotImplementedError

    def abandon(self, consumer: Consumer) -> None:
        """Do what the broker needs to see that a consumer's receiver was killed.

        By default, nothing: the consumer is open, and is not called.
        """

    # --- For hooks ---------------------------------------------------------------------------

    def new_consumer(self, **options: Any) -> Consumer:
        """Return a consumer of `make_consumer` that is closed after the test."""
        consumer = self.make_consumer(**{"alias": self.alias, **options})
        self.closed_after_test(consumer.close)
        return consumer

    # --- Stopped, cut off, frozen ------------------------------------------------------------

    @about(ConsumerFault.RESTART)
    def test_server_stopped_and_started(self) -> None:
        """Nothing is lost, also of what was received and not yet acknowledged."""
        events = self._produce(400)
        consumer = self._opened()
        deliveries = self._receive(consumer, 50)
        consumer.acknowledge(deliveries)
        unacknowledged = self._receive(consumer, 20)
        with self.stopped():
            eventually(lambda: self._is_lost(consumer), "the outage is noticed")
            consumer.close()
            assert consumer.health_check() is False
            assert self._refusal(consumer) is not None
        events += self._produce(20, start=400)
        rest = self._receive_all(consumer, events, deliveries)
        assert set(ids(unacknowledged)) <= set(ids(rest))
        self._assert_received(deliveries + rest, events)

    @pytest.mark.parametrize("after", [0, 1, 1_000, 20_000])
    @about(ConsumerFault.CUT)
    def test_connection_cut_while_receiving(self, after: int) -> None:
        """Messages of which only a part arrived are received again."""
        consumer = self._opened()
        deliveries: list[Delivery] = []
        with self.connection_cut("reply", after):
            events = self._produce(200)
            self._receive_until_lost(consumer, deliveries, len(events))
        deliveries += self._receive_all(consumer, events, deliveries)
        self._assert_received(deliveries, events)

    @pytest.mark.parametrize("after", [0, 20])
    @about(ConsumerFault.CUT_ACKNOWLEDGEMENT)
    def test_connection_cut_while_acknowledging(self, after: int) -> None:
        """Messages whose acknowledgement was lost are received again, and no others are lost."""
        events = self._produce(100)
        consumer = self._opened()
        deliveries = self._receive(consumer, 50)
        with self.connection_cut("request", after):
            self._is_lost(consumer, deliveries)
        events += self._produce(10, start=100)
        deliveries += self._receive_all(consumer, events, deliveries)
        self._assert_received(deliveries, events)

    @about(ConsumerFault.FROZEN)
    def test_frozen_server_is_given_up_after_the_timeout(self) -> None:
        """Each call ends in time, and everything is received afterwards."""
        events = self._produce(20)
        consumer, fresh = self._opened(), self.new_consumer(**self.timeout_options)
        deliveries = self._receive(consumer, 10)
        with self.frozen():
            self._within_patience(lambda: self._is_lost(consumer, deliveries))
            assert self._within_patience(lambda: self._refusal(fresh)) is not None
            healthy = self._within_patience(fresh.health_check)
            assert not healthy or ConsumerFault.FROZEN in self.healthy_despite
            self._within_patience(consumer.close)
            self._within_patience(fresh.close)
        deliveries += self._receive_all(consumer, events, deliveries)
        self._assert_received(deliveries, events)

    # --- The server refuses ------------------------------------------------------------------

    @about(ConsumerFault.MISSING)
    def test_missing_source_is_named(self, case: str) -> None:
        """The error names the source, and the consumer opens when the source is there."""
        with self.source_missing(case) as consumer:
            refusal = self._refusal(consumer)
            assert refusal is not None
            assert self.missing in str(refusal)
            consumer.close()
        eventually(lambda: self._refusal(consumer) is None, "the consumer is open")

    @about(ConsumerFault.CREDENTIALS)
    def test_wrong_credentials_are_refused(self, case: str) -> None:
        """Wrong credentials are an error, which does not contain them."""
        with self.credentials(case) as consumer:
            self._assert_refused(consumer, ConsumerFault.CREDENTIALS)

    @about(ConsumerFault.CREDENTIALS)
    def test_right_credentials_receive(self) -> None:
        """With the right credentials, the same server can be read."""
        with self.credentials(None) as consumer:
            self._assert_works(consumer)

    @about(ConsumerFault.TLS)
    def test_wrong_tls_is_refused(self, case: str) -> None:
        """TLS that fails is an error, and a connection without TLS never replaces it."""
        with self.tls(case) as consumer:
            self._assert_refused(consumer, ConsumerFault.TLS)

    @about(ConsumerFault.TLS)
    def test_right_tls_receives(self) -> None:
        """With the right certificates, the same server can be read."""
        with self.tls(None) as consumer:
            self._assert_works(consumer)

    # --- Several receivers -------------------------------------------------------------------

    @about(ConsumerFault.TAKEOVER)
    def test_next_receiver_gets_what_was_not_acknowledged(self) -> None:
        """After a receiver was killed, the next one is first given what that one held, in order."""
        events = self._produce(60)
        former = self._opened()
        deliveries = self._receive(former, 20)
        former.acknowledge(deliveries)
        held = self._receive(former, 20)
        self.abandon(former)
        following = self._opened()
        rest = self._receive_all(following, events, deliveries)
        assert set(ids(held)) <= set(ids(rest))
        self._assert_received(deliveries + rest, events)

    @about(ConsumerFault.STALLED)
    def test_receiver_that_was_replaced_does_not_break_the_order(self) -> None:
        """Messages that a replaced receiver still fetches reach the next one in order.

        For a consumer without `shares_by_key`: one receiver at a time has the right to read. What
        the replaced one has fetched too late is rolled back, and not acknowledged.
        """
        if self.new_consumer().shares_by_key:
            pytest.skip("the broker itself keeps the order among several receivers")
        events = self._produce(30)
        former = self._opened()
        self._receive(former, 10)
        following = self._opened()
        deliveries = self._receive(following, 5)
        following.acknowledge(deliveries)
        for number in range(3):  # it wakes up, and has not yet noticed
            start = 30 + 20 * number
            events += self._produce(20, start=start)
            self._is_lost(former)
            received = self._receive(following, 10)
            following.acknowledge(received)
            deliveries += received
        deliveries += self._receive_all(following, events, deliveries)
        self._assert_received(deliveries, events)

    # --- Helpers -----------------------------------------------------------------------------

    def _opened(self) -> Consumer:
        consumer = self.new_consumer(**self.timeout_options)
        consumer.open()
        return consumer

    def _produce(self, count: int, start: int = 0) -> list[CloudEvent]:
        """Produce events that take turns at five keys."""
        events = [numbered_event(n, f"key-{n % 5}") for n in range(start, start + count)]
        self.produce(events)
        return events

    def _receive(self, consumer: Consumer, limit: int) -> list[Delivery]:
        """Return the deliveries of the first call that returns any."""
        deadline = time.monotonic() + SECONDS
        while not (deliveries := consumer.receive(limit, 1.0)):
            assert time.monotonic() < deadline, "no message has arrived"
        return deliveries

    def _receive_all(
        self, consumer: Consumer, events: Sequence[CloudEvent], received: Sequence[Delivery]
    ) -> list[Delivery]:
        """Receive and acknowledge until there was one delivery of each event, as a receiver does.

        The consumer is closed and opened again first, and after each BackendUnavailable.
        """
        deliveries: list[Delivery] = []
        missing = {event.id for event in events} - {*ids(received)}
        deadline = time.monotonic() + SECONDS
        is_open = False
        while missing:
            assert time.monotonic() < deadline, f"{len(missing)} messages have not arrived"
            try:
                if not is_open:
                    consumer.close()
                    consumer.open()
                    is_open = True
                found = consumer.receive(50, 0.5)
                deliveries += found
                consumer.acknowledge(found)
                missing -= {*ids(found)}
            except BackendUnavailable:
                is_open = False
                time.sleep(0.05)
        return deliveries

    def _receive_until_lost(
        self, consumer: Consumer, deliveries: list[Delivery], count: int
    ) -> None:
        """Receive and acknowledge until the connection breaks, or everything has arrived."""
        deadline = time.monotonic() + self.patience
        while len(deliveries) < count and time.monotonic() < deadline:
            try:
                found = consumer.receive(50, 0.5)
                deliveries += found
                consumer.acknowledge(found)
            except BackendUnavailable:
                return

    def _is_lost(self, consumer: Consumer, unacknowledged: Sequence[Delivery] = ()) -> bool:
        """Acknowledge and receive; return True if one raises BackendUnavailable."""
        try:
            if unacknowledged:
                consumer.acknowledge(unacknowledged)
            consumer.receive(10, 0.1)
        except BackendUnavailable:
            return True
        return False

    def _refusal(self, consumer: Consumer) -> BroadcasterError | None:
        """Return the error that `open` or `receive` raises, None if they work."""
        try:
            consumer.open()
            consumer.receive(1, 0.1)
        except (BackendUnavailable, BackendConfigurationError) as error:
            return error
        return None

    def _within_patience(self, call: Callable[[], Any]) -> Any:
        began = time.monotonic()
        result = call()
        assert time.monotonic() - began < self.patience
        return result

    def _assert_refused(self, consumer: Consumer, fault: ConsumerFault) -> None:
        refusal = self._refusal(consumer)
        assert refusal is not None
        assert self.secret not in "".join(traceback.format_exception(refusal))
        assert self.secret not in repr(consumer)
        assert fault in self.healthy_despite or consumer.health_check() is False

    def _assert_works(self, consumer: Consumer) -> None:
        consumer.open()
        assert consumer.receive(10, 0.1) == []
        assert consumer.health_check() is True

    def _assert_received(
        self, deliveries: Sequence[Delivery], events: Sequence[CloudEvent]
    ) -> None:
        """Assert that these events and no others arrived, the first times of each key in order."""
        assert [each.problem for each in deliveries if each.problem] == []
        first = list(dict.fromkeys(ids(deliveries)))
        assert set(first) == {event.id for event in events}
        if self.keeps_order:
            for key in {event.partition_key for event in events}:
                mine = [event.id for event in events if event.partition_key == key]
                assert [each for each in first if each in {*mine}] == mine
