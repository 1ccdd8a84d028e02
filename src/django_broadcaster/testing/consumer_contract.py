"""The promises of a consumer, as tests that every consumer runs.

    class TestPigeonConsumer(ConsumerContract):
        binding = Binding("pigeon-")

        def make_consumer(self, **options):
            return PigeonConsumer(loft=self.loft, **options)

        def produce(self, messages):
            for message in messages:
                self.loft.post(message.headers, message.body)

The names of the tests say what is promised; `consumers/base.py` says why.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NoReturn

import pytest

from django_broadcaster.backends import MessageBackend
from django_broadcaster.backends.bindings import (
    CONTENT_MODES,
    STRUCTURED_TYPE,
    Binding,
    ContentMode,
    canonical,
)
from django_broadcaster.consumers import Consumer, Delivery, ReceivedMessage
from django_broadcaster.events import CloudEvent
from django_broadcaster.events.grammar import is_json_type
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable

from .contract import EVENTS, make_message
from .fault_tests import SECONDS, eventually

LIMIT: Final = 100
"""The `limit` of the tests that are not about it."""

KEY: Final = "key"
"""The key of the messages of the tests: the order of one key is promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducedMessage:
    """A message for a producer to send.

    Args:
        body: Its bytes; None for an event without data in binary mode.
        headers: Its headers, attributes or properties.
        content_type: Its media type; empty if it has none.
        key: The key by which the broker orders it, if it has such keys.
    """

    body: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    key: str = KEY


MALFORMED: Mapping[str, ProducedMessage] = {
    "no bytes": ProducedMessage(body=b""),
    "not JSON": ProducedMessage(body=b"{not JSON", content_type=STRUCTURED_TYPE),
    "not UTF-8": ProducedMessage(body=b'"\xff\xfe\x00"', content_type=STRUCTURED_TYPE),
    "JSON, but no event": ProducedMessage(body=b'{"order": 7}', content_type="application/json"),
    "a list": ProducedMessage(body=b"[1, 2]", content_type=STRUCTURED_TYPE),
    "event without an id": ProducedMessage(
        body=b'{"specversion": "1.0", "type": "a", "source": "/b"}', content_type=STRUCTURED_TYPE
    ),
    "event of another version": ProducedMessage(
        body=b'{"specversion": "0.3", "type": "a", "source": "/b", "id": "1"}',
        content_type=STRUCTURED_TYPE,
    ),
    "deeply nested JSON": ProducedMessage(body=b"[" * 100_000, content_type=STRUCTURED_TYPE),
}
"""Messages that hold no event, by name; each becomes a delivery with a problem."""


class ConsumerContract:
    """Subclass it as `TestSomething`, and write `make_consumer` and `produce`.

    Each test has the source to itself: no other messages are in it, and no consumer has read from
    it. Fixtures and marks work as in any test class.
    """

    binding: ClassVar[Binding]
    """How events in binary mode name their attributes."""

    keeps_order: ClassVar[bool] = True
    """Whether messages of one key arrive in the order in which they were produced."""

    has_positions: ClassVar[bool] = True
    """Whether two messages with the same bytes have different positions."""

    tells_lag: ClassVar[bool] = True
    """Whether `lag` returns a number."""

    malformed: ClassVar[Mapping[str, ProducedMessage]] = MALFORMED
    """Messages that hold no event. Leave out what the broker can't carry."""

    wrong_options: ClassVar[Mapping[str, Any]] = {}
    """Options of the consumer's own, each with a wrong value."""

    secret_options: ClassVar[Mapping[str, Any]] = {}
    """Options with a secret, each with a value that no text may show."""

    large: ClassVar[int] = 200_000
    """Bytes of data in one message that the broker must be able to carry."""

    patience: ClassVar[float] = 20.0
    """Seconds that `receive` may take in addition to the given ones: the client's timeout."""

    alias: ClassVar[str] = "contract"

    _made: ExitStack

    # --- Hooks -------------------------------------------------------------------------------

    def make_consumer(self, **options: Any) -> Consumer:
        """Return a new consumer, not opened. `options` has `alias`, and whatever a test needs."""
        raise NotImplementedError

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        """Send messages in order, by a client that is independent of this project.

        The client is one of the broker's own: what the consumer reads was not written by its
        backend. Return once the broker has stored the messages.
        """
        raise NotImplementedError

    def make_backend(self, **options: Any) -> MessageBackend:
        """Return a backend that publishes to where the consumer reads.

        `options` has `alias` and `content_mode`. Leave it out if there is no such backend.
        """
        pytest.skip("no backend publishes to where this consumer reads")

    def break_broker(self) -> AbstractContextManager[object]:
        """Return a context manager in which the broker can't be reached.

        After it the broker is back, with its messages. Leave it out where there is no broker that
        could be away.
        """
        pytest.skip("this consumer has no broker that could be away")

    # --- For hooks and tests -----------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _close_consumers(self) -> Iterator[None]:
        with ExitStack() as self._made:
            yield

    def new_consumer(self, **options: Any) -> Consumer:
        """Return a consumer of `make_consumer` that is closed after the test."""
        consumer = self.make_consumer(**{"alias": self.alias, **options})
        self._made.callback(consumer.close)
        return consumer

    @pytest.fixture
    def consumer(self) -> Consumer:
        """An open consumer."""
        consumer = self.new_consumer()
        consumer.open()
        return consumer

    def produced(
        self, event: CloudEvent, mode: ContentMode = "structured", key: str = KEY
    ) -> ProducedMessage:
        """Return the message of an event in a content mode."""
        wire = self.binding.encode(make_message(event), mode)
        return ProducedMessage(
            body=wire.body, headers=wire.headers, content_type=wire.content_type, key=key
        )

    def produce_events(self, count: int, start: int = 0) -> list[str]:
        """Produce events of one key; return their ids."""
        events = [numbered_event(number) for number in range(start, start + count)]
        self.produce([self.produced(event) for event in events])
        return [event.id for event in events]

    def receive(self, consumer: Consumer, count: int, limit: int = LIMIT) -> list[Delivery]:
        """Receive exactly that many messages, in as many calls as it takes."""
        deliveries: list[Delivery] = []
        deadline = time.monotonic() + SECONDS
        while len(deliveries) < count:
            assert time.monotonic() < deadline, f"{len(deliveries)} of {count} messages arrived"
            # A broker may send a few at a time. Where more are waiting, no more are asked for.
            most = limit if limit > count else min(limit, count - len(deliveries))
            received = consumer.receive(most, 1.0)
            assert len(received) <= most
            deliveries += received
        assert len(deliveries) == count, "more messages arrived than were produced"
        return deliveries

    def receive_the_rest(self, consumer: Consumer) -> list[Delivery]:
        """Return all messages that are not acknowledged, and acknowledge them.

        A further message is produced and received, after which nothing older can come.
        """
        last = CloudEvent("test.last", "/contract", extensions={"partitionkey": KEY})
        self.produce([self.produced(last)])
        deliveries: list[Delivery] = []
        deadline = time.monotonic() + SECONDS
        while last.id not in ids(deliveries):
            assert time.monotonic() < deadline, "the last message has not arrived"
            deliveries += consumer.receive(LIMIT, 1.0)
        consumer.acknowledge(deliveries)
        return [each for each in deliveries if each.event is None or each.event.id != last.id]

    # --- What is received --------------------------------------------------------------------

    @pytest.mark.parametrize("mode", CONTENT_MODES)
    def test_every_event_is_received_as_it_was_produced(
        self, consumer: Consumer, mode: ContentMode
    ) -> None:
        """Every attribute, and the data with its types, is in the event of the delivery."""
        self.produce([self.produced(event, mode) for event in EVENTS.values()])
        deliveries = self.receive(consumer, len(EVENTS))
        consumer.acknowledge(deliveries)
        expected = {
            event.id: self._expected(event, mode, self.binding) for event in EVENTS.values()
        }
        self._assert_received(deliveries, expected)

    @pytest.mark.parametrize("mode", CONTENT_MODES)
    def test_every_event_of_the_backend_is_received(self, mode: ContentMode) -> None:
        """The events that the backend of the same broker publishes are received as they are."""
        backend = self.make_backend(alias=self.alias, content_mode=mode)
        self._made.callback(backend.close)
        messages = [make_message(event, partition_key=KEY) for event in EVENTS.values()]
        consumer = self.new_consumer()
        consumer.open()
        assert backend.send_batch(messages) == [None] * len(messages)
        deliveries = self.receive(consumer, len(messages))
        consumer.acknowledge(deliveries)
        binding = getattr(backend, "binding", self.binding)
        expected = {
            message.event_id: self._expected(message.event, mode, binding) for message in messages
        }
        self._assert_received(deliveries, expected)

    def test_large_event_is_received_as_it_was_produced(self, consumer: Consumer) -> None:
        """An event with much data is not cut."""
        event = CloudEvent("test.event", "/contract", data={"text": "ä" * (self.large // 2)})
        self.produce([self.produced(event)])
        (delivery,) = self.receive(consumer, 1)
        self._assert_received([delivery], {event.id: canonical_event(event)})

    def test_message_is_as_it_was_produced(self, consumer: Consumer) -> None:
        """The bytes, the headers as text and the media type are those of the producer."""
        produced = ProducedMessage(
            body='{"größe": 7}'.encode(),
            headers={"sender": "Zoë", "number": "7"},
            content_type="application/json",
        )
        self.produce([produced])
        (delivery,) = self.receive(consumer, 1)
        message = delivery.message
        assert message.body == produced.body
        assert {name: message.headers.get(name) for name in produced.headers} == produced.headers
        assert produced.content_type in (message.content_type, *message.headers.values())
        assert message.origin
        assert all(isinstance(each, str) for each in (message.key, message.position))

    def test_messages_are_received_in_order_up_to_the_limit(self, consumer: Consumer) -> None:
        """Each call returns at most `limit` messages, and together they are in order."""
        expected = self.produce_events(230)
        received: list[str] = []
        while len(received) < len(expected):
            deliveries = self.receive_some(consumer, 25)
            received += ids(deliveries)
            consumer.acknowledge(deliveries)
        self._assert_order(received, expected)

    def receive_some(self, consumer: Consumer, limit: int) -> list[Delivery]:
        """Return the deliveries of the first call that returns any."""
        deadline = time.monotonic() + SECONDS
        while not (deliveries := consumer.receive(limit, 1.0)):
            assert time.monotonic() < deadline, "no message arrived"
        assert len(deliveries) <= limit
        return deliveries

    def test_two_limits_may_be_unacknowledged(self, consumer: Consumer) -> None:
        """Messages are received while earlier ones are being written, which are acknowledged."""
        expected = self.produce_events(60)
        first = self.receive(consumer, 20, limit=20)
        second = self.receive(consumer, 20, limit=20)
        consumer.acknowledge(first)
        third = self.receive(consumer, 20, limit=20)
        consumer.acknowledge(second)
        consumer.acknowledge(third)
        self._assert_order(ids(first + second + third), expected)
        assert self.receive_the_rest(consumer) == []

    # --- How long it takes -------------------------------------------------------------------

    @pytest.mark.parametrize("seconds", [0.0, 0.2])
    def test_receive_waits_no_longer_than_given(self, consumer: Consumer, seconds: float) -> None:
        """Without messages, `receive` returns an empty list after the given time."""
        began = time.monotonic()
        assert consumer.receive(LIMIT, seconds) == []
        assert time.monotonic() - began < seconds + self.patience

    def test_receive_returns_when_a_message_arrives(self, consumer: Consumer) -> None:
        """A message that arrives during the call ends the wait."""
        self.produce_events(1)
        consumer.acknowledge(self.receive(consumer, 1))
        timer = threading.Timer(0.3, self.produce_events, [1], {"start": 1})
        timer.start()
        began = time.monotonic()
        try:
            deliveries = consumer.receive(LIMIT, SECONDS)
        finally:
            timer.join()
        assert ids(deliveries) == ["event-1"]
        assert time.monotonic() - began < SECONDS

    # --- Acknowledgements --------------------------------------------------------------------

    def test_unacknowledged_messages_are_received_again(self, consumer: Consumer) -> None:
        """After a close, the next consumer is given them in order, and then newer ones."""
        expected = self.produce_events(10)
        deliveries = self.receive(consumer, 10)
        consumer.acknowledge(deliveries[:4])
        expected += self.produce_events(5, start=10)
        consumer.close()
        other = self.new_consumer()
        other.open()
        self._assert_order(ids(self.receive(other, 11)), expected[4:])

    def test_acknowledged_messages_are_not_received_again(self, consumer: Consumer) -> None:
        """Neither the same consumer nor the next one receives them again."""
        self.produce_events(10)
        consumer.acknowledge(self.receive(consumer, 10))
        consumer.close()
        consumer.open()
        assert self.receive_the_rest(consumer) == []

    def test_acknowledging_nothing_is_permitted(self, consumer: Consumer) -> None:
        """An empty batch is acknowledged, also before anything was received."""
        consumer.acknowledge([])
        self.produce_events(1)
        assert ids(self.receive_the_rest(consumer)) == ["event-0"]

    def test_acknowledging_twice_is_harmless(self, consumer: Consumer) -> None:
        """A second acknowledgement raises nothing and acknowledges nothing else."""
        expected = self.produce_events(6)
        deliveries = self.receive(consumer, 6)
        consumer.acknowledge(deliveries[:3])
        consumer.acknowledge(deliveries[:3])
        consumer.close()
        consumer.open()
        self._assert_order(ids(self.receive_the_rest(consumer)), expected[3:])

    def test_acknowledging_after_reopening_is_harmless(self, consumer: Consumer) -> None:
        """An old delivery acknowledges its own message or nothing, and raises nothing."""
        expected = self.produce_events(5)
        old = self.receive(consumer, 5)
        consumer.acknowledge(old[:2])
        consumer.close()
        consumer.open()
        self._assert_order(ids(self.receive(consumer, 3)), expected[2:])
        consumer.acknowledge(old[2:3])
        consumer.close()
        consumer.open()
        assert ids(self.receive_the_rest(consumer))[-2:] == expected[3:]

    def test_many_messages_are_acknowledged_at_once(self, consumer: Consumer) -> None:
        """A batch of 1,000 messages is acknowledged in one call."""
        expected = self.produce_events(1000)
        deliveries = self.receive(consumer, 1000, limit=1000)
        self._assert_order(ids(deliveries), expected)
        consumer.acknowledge(deliveries)
        consumer.close()
        consumer.open()
        assert self.receive_the_rest(consumer) == []

    def test_position_is_the_same_each_time(self, consumer: Consumer) -> None:
        """A message that is received again has the same identity, and other messages have not."""
        copies = [ProducedMessage(body=b"the same") for _ in range(2)]
        self.produce([*copies, ProducedMessage(body=b"another one")])
        first = [each.message.identity for each in self.receive(consumer, 3)]
        consumer.close()
        consumer.open()
        again = [each.message.identity for each in self.receive(consumer, 3)]
        self._assert_order(again, first)
        assert len(set(first)) == (3 if self.has_positions else 2)

    def test_extend_keeps_messages_acknowledgeable(self, consumer: Consumer) -> None:
        """More time may be asked for, more than once, before messages are acknowledged."""
        self.produce_events(3)
        deliveries = self.receive(consumer, 3)
        consumer.extend([])
        consumer.extend(deliveries)
        consumer.extend(deliveries)
        consumer.acknowledge(deliveries)
        assert self.receive_the_rest(consumer) == []

    # --- Messages that hold no event ---------------------------------------------------------

    def test_malformed_messages_have_a_problem(self, consumer: Consumer) -> None:
        """Each is a delivery with its bytes and the reason, and is not received again."""
        good = [self.produced(numbered_event(number)) for number in range(2)]
        bad = list(self.malformed.values())
        self.produce([good[0], *bad, good[1]])
        deliveries = self.receive(consumer, len(bad) + 2)
        found = {
            each.message.body: bool(each.problem) and each.event is None for each in deliveries
        }
        expected = {each.body: True for each in bad} | {each.body: False for each in good}
        assert found == expected
        assert not any(each.problem for each in deliveries if each.event)
        consumer.acknowledge(deliveries)
        consumer.close()
        consumer.open()
        assert self.receive_the_rest(consumer) == []

    def test_message_over_the_limit_has_a_problem(self) -> None:
        """The problem names `max_message_bytes`; messages before and after it are events."""
        consumer = self.new_consumer(max_message_bytes=1000)
        consumer.open()
        large = CloudEvent("test.event", "/contract", id="large", data="x" * 2000)
        messages = [self.produced(each) for each in (numbered_event(0), large, numbered_event(1))]
        self.produce(messages)
        deliveries = self.receive(consumer, 3)
        problems = {bool(each.problem): each.problem for each in deliveries}
        assert "max_message_bytes" in problems[True]
        assert sorted(ids(deliveries)) == ["", "event-0", "event-1"]
        consumer.acknowledge(deliveries)
        assert self.receive_the_rest(consumer) == []

    def test_rejected_message_is_not_received_again(self, consumer: Consumer) -> None:
        """A message that is given up stays away, and the others are received."""
        expected = self.produce_events(3)
        deliveries = self.receive(consumer, 3)
        consumer.acknowledge(deliveries[:1])
        consumer.reject(deliveries[1])
        consumer.close()
        consumer.open()
        assert ids(self.receive_the_rest(consumer)) == expected[2:]

    def test_decode_function_reads_messages(self) -> None:
        """Messages in a format of their own are events, ignored, or have the error as a problem."""
        consumer = self.new_consumer(decode=_decode_order)
        consumer.open()
        bodies = [b"7", b"ignored", b"broken", b"of another type", b"8"]
        self.produce([ProducedMessage(body=body) for body in bodies])
        deliveries = self.receive(consumer, len(bodies))
        found = {each.message.body: each for each in deliveries}
        assert {body: ids([each]) for body, each in found.items()} == {
            b"7": ["7"], b"ignored": [""], b"broken": [""], b"of another type": [""], b"8": ["8"],
        }  # fmt: skip
        assert {body: each.problem for body, each in found.items() if each.problem} == {
            b"broken": "ValueError: not the number of an order",
            b"of another type": "TypeError: decode returned dict; it must return a CloudEvent or "
            "None",
        }
        consumer.acknowledge(deliveries)
        self.produce([ProducedMessage(body=b"9")])
        assert ids(self.receive(consumer, 1)) == ["9"]

    # --- The broker's state ------------------------------------------------------------------

    def test_lag_is_the_number_of_waiting_messages(self, consumer: Consumer) -> None:
        """The lag falls to 0 as messages are received and acknowledged."""
        if not self.tells_lag:
            assert consumer.lag() is None
            return
        self.produce_events(20)
        consumer.acknowledge(self.receive(consumer, 5, limit=5))
        eventually(lambda: consumer.lag() == 15, "the lag is 15")
        consumer.acknowledge(self.receive(consumer, 15, limit=15))
        eventually(lambda: consumer.lag() == 0, "the lag is 0")

    def test_redelivery_seconds_are_a_duration_or_unknown(self, consumer: Consumer) -> None:
        """A known time until a redelivery is a positive number of seconds."""
        seconds = consumer.redelivery_seconds
        assert seconds is None or seconds > 0

    def test_health_check_tells_that_the_broker_is_there(self) -> None:
        """The health check is True whether the consumer is new, open or closed."""
        consumer = self.new_consumer()
        answers = [consumer.health_check()]
        consumer.open()
        answers.append(consumer.health_check())
        consumer.close()
        answers.append(consumer.health_check())
        assert answers == [True, True, True]

    def test_health_check_tells_that_the_broker_is_away(self, consumer: Consumer) -> None:
        """The check is False while the broker is away, raises nothing, and is True afterwards."""
        with self.break_broker():
            assert consumer.health_check() is False
            assert self.new_consumer().health_check() is False
        eventually(consumer.health_check, "the health check is True")

    def test_broker_that_is_away_is_unavailable(self, consumer: Consumer) -> None:
        """Every method raises BackendUnavailable and nothing else, and `close` raises nothing."""
        self.produce_events(5)
        deliveries = self.receive(consumer, 5)
        with self.break_broker():
            eventually(
                lambda: is_unavailable(lambda: consumer.receive(1, 0.1)), "the outage is noticed"
            )
            for call in (
                lambda: consumer.acknowledge(deliveries),
                lambda: consumer.extend(deliveries),
                consumer.lag,
            ):
                is_unavailable(call)
            consumer.close()
            fresh = self.new_consumer()
            assert is_unavailable(fresh.open) or is_unavailable(lambda: fresh.receive(1, 0.1))
            fresh.close()

    def test_receiving_goes_on_when_the_broker_is_back(self, consumer: Consumer) -> None:
        """After a close and an open, unacknowledged messages are received again, then newer."""
        expected = self.produce_events(5)
        consumer.acknowledge(self.receive(consumer, 5)[:2])
        with self.break_broker():
            eventually(
                lambda: is_unavailable(lambda: consumer.receive(1, 0.1)), "the outage is noticed"
            )
            consumer.close()
        eventually(lambda: not is_unavailable(consumer.open), "the consumer is open")
        expected += self.produce_events(5, start=5)
        received = list(dict.fromkeys(ids(self.receive_the_rest(consumer))))
        self._assert_order(received[-8:], expected[2:])

    # --- Settings ----------------------------------------------------------------------------

    def test_unknown_option_is_named(self) -> None:
        """An option that the consumer does not know is an error that names it and the alias."""
        with pytest.raises(BackendConfigurationError) as caught:
            self.new_consumer(no_such_option=1)
        assert f"OUTBOX_CONSUMERS[{self.alias!r}]['OPTIONS']" in str(caught.value)
        assert "'no_such_option'" in str(caught.value)

    def test_wrong_options_are_named(self) -> None:
        """A wrong value is an error that names the setting, the alias and the option."""
        wrong = {"decode": 5, "max_message_bytes": 0, "ordered": "yes", **self.wrong_options}
        for option, value in wrong.items():
            with pytest.raises(BackendConfigurationError) as caught:
                self.new_consumer(**{option: value})
            assert f"OUTBOX_CONSUMERS[{self.alias!r}]['OPTIONS'][{option!r}]" in str(caught.value)

    def test_decode_that_cannot_be_imported_is_named(self) -> None:
        """A dotted path that leads nowhere is an error that names the option and the path."""
        with pytest.raises(BackendConfigurationError, match=r"'decode'.*no_such_module\.decode"):
            self.new_consumer(decode="no_such_module.decode")

    def test_secrets_are_not_shown(self) -> None:
        """Neither the consumer's text nor an error about an option shows a secret."""
        for option, secret in self.secret_options.items():
            consumer = self.new_consumer(**{option: secret})
            assert str(secret) not in f"{consumer!r} {consumer}"
            with pytest.raises(BackendConfigurationError) as caught:
                self.new_consumer(**{option: [secret]})
            assert str(secret) not in str(caught.value)

    # --- Life --------------------------------------------------------------------------------

    def test_making_a_consumer_opens_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The constructor speaks to no server: system checks make consumers, too."""

        def refuse(*_: object) -> NoReturn:
            pytest.fail("the constructor opened a connection")

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", refuse)
            self.new_consumer().close()

    def test_close_may_be_called_at_any_time(self) -> None:
        """Closing twice, or without having opened, raises nothing."""
        consumer = self.new_consumer()
        consumer.close()
        consumer.open()
        consumer.close()
        consumer.close()

    def test_closed_consumer_can_be_opened_again(self) -> None:
        """A consumer receives after it was closed and opened."""
        consumer = self.new_consumer()
        for number in range(2):
            consumer.open()
            (event_id,) = self.produce_events(1, start=number)
            deliveries = self.receive(consumer, 1)
            assert ids(deliveries) == [event_id]
            consumer.acknowledge(deliveries)
            consumer.close()

    # --- Helpers -----------------------------------------------------------------------------

    def _expected(self, event: CloudEvent, mode: ContentMode, binding: Binding) -> str:
        """Return the event as it arrives.

        In binary mode attributes arrive as text, and bytes of a JSON type as JSON.
        """
        message = make_message(event)
        if binding.is_structured(message, mode):
            return canonical_event(message.event)
        members = message.event.to_dict()
        members |= {name: canonical(members[name]) for name in event.extensions}
        if isinstance(event.data, bytes) and is_json_type(event.data_content_type):
            del members["data_base64"]
            members["data"] = json.loads(event.data)
        return canonical_event(CloudEvent.from_dict(members))

    def _assert_received(self, deliveries: Sequence[Delivery], expected: Mapping[str, str]) -> None:
        assert [each.problem for each in deliveries if each.problem] == []
        received = {
            each.event.id: canonical_event(each.event)
            for each in deliveries
            if each.event is not None
        }
        assert received == expected
        self._assert_order(ids(deliveries), list(expected))

    def _assert_order(self, received: Sequence[str], expected: Sequence[str]) -> None:
        if self.keeps_order:
            assert list(received) == list(expected)
        else:
            assert sorted(received) == sorted(expected)


def numbered_event(number: int, key: str = KEY) -> CloudEvent:
    """Return the event with that number, which is in its id."""
    return CloudEvent(
        "test.event",
        "/contract",
        id=f"event-{number}",
        data={"number": number},
        extensions={"partitionkey": key},
    )


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the id of each delivery's event, empty where there is none."""
    return ["" if each.event is None else each.event.id for each in deliveries]


def canonical_event(event: CloudEvent) -> str:
    """Return text that is equal only if the types are: to Python, 1, 1.0 and True are equal.

    A media type that the specification implies may be stated or not.
    """
    members = json.loads(event.to_json())
    if event.data_content_type == "application/json":
        members.pop("datacontenttype", None)
    return json.dumps(members, sort_keys=True)


def is_unavailable(call: Callable[[], object]) -> bool:
    """Return True if the call raises BackendUnavailable; any other error is one of the test."""
    try:
        call()
    except BackendUnavailable:
        return True
    return False


def _decode_order(message: ReceivedMessage) -> Any:
    """Read the number of an order as an event."""
    if message.body == b"ignored":
        return None
    if message.body == b"of another type":
        return {}
    if not message.body.isdigit():
        raise ValueError("not the number of an order")
    return CloudEvent("order.placed", "/shop", id=message.body.decode())
