"""The NATS consumer on real servers: the contract, its options, and the order at takeover."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from nats.js.api import ConsumerConfig

from django_broadcaster.backends import MessageBackend, NATSBackend
from django_broadcaster.backends.bindings import NATS
from django_broadcaster.consumers import Consumer, Delivery, NATSConsumer
from django_broadcaster.consumers.nats import reader
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import ConsumerContract, ProducedMessage
from tests.support.nats_server import (
    add_stream,
    ask,
    delete_stream,
    nats_server,
    port_of,
    purge_stream,
    shared_url,
    version_of,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

SECONDS = 30.0

MakeConsumer = Callable[..., NATSConsumer]


@pytest.fixture
def stream() -> Iterator[str]:
    """A stream that nobody else uses on the shared server, for all subjects that begin so."""
    name = f"consumer-{uuid4().hex}"
    add_stream(shared_url(), name, f"{name}.>")
    yield name
    delete_stream(shared_url(), name)


@pytest.fixture
def make(stream: str) -> Iterator[MakeConsumer]:
    """Make consumers, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> NATSConsumer:
            defaults = {"servers": shared_url(), "stream": stream, "durable": "billing"}
            consumer = NATSConsumer(**{"alias": "orders", **defaults, **options})
            made.callback(consumer.close)
            return consumer

        yield make


def produce(url: str, subject: str, *messages: tuple[bytes, dict[str, str] | None]) -> None:
    """Publish bodies and headers with nats-py, in order."""

    async def publish(jetstream: Any) -> None:
        for body, headers in messages:
            await jetstream.publish(subject, body, headers=headers)

    ask(url, publish)


def produce_numbers(stream: str, *numbers: int, url: str = "") -> None:
    """Publish an event for each number, without headers, as clients without these do."""
    bodies = [
        json.dumps({"specversion": "1.0", "id": str(n), "source": "/s", "type": "t"}).encode()
        for n in numbers
    ]
    produce(url or shared_url(), f"{stream}.t", *((body, None) for body in bodies))


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of the events."""
    return [int(each.event.id) for each in deliveries if each.event is not None]


def receive(consumer: NATSConsumer, count: int, limit: int = 100) -> list[Delivery]:
    """Receive that many messages."""
    deliveries: list[Delivery] = []

    def is_enough() -> bool:
        deliveries.extend(consumer.receive(limit, 0.2))
        return len(deliveries) >= count

    wait_until(is_enough, SECONDS, f"{count} messages are received")
    assert len(deliveries) == count
    return deliveries


def is_unavailable(consumer: NATSConsumer) -> bool:
    """Return True if the broker is unavailable for the consumer."""
    try:
        consumer.receive(10, 0.1)
    except BackendUnavailable:
        return True
    return False


def info(stream: str, durable: str = "billing") -> Any:
    """What the server says of a durable consumer."""

    async def read(jetstream: Any) -> Any:
        return await jetstream.consumer_info(stream, durable)

    return ask(shared_url(), read)


def add_durable(stream: str, **config: Any) -> None:
    """Make a durable consumer as its operator would."""

    async def add(jetstream: Any) -> None:
        await jetstream.add_consumer(stream, ConsumerConfig(durable_name="billing", **config))

    ask(shared_url(), add)


# --- The contract ------------------------------------------------------------------------------


class TestContract(ConsumerContract):
    """Through a proxy, so that the shared server can be away."""

    binding = NATS
    wrong_options = {
        "stream": "a b",
        "durable": "a.b",
        "create": 1,
        "filter_subjects": 5,
        "start": "yesterday",
        "ack_wait": 0,
        "max_ack_pending": 0,
        "servers": "http://localhost",
        "timeout": 0,
        "tls": "yes",
    }
    secret_options = {"token": "hunter2-hunter2"}
    ordered = True

    @pytest.fixture(autouse=True)
    def _stream(self) -> Iterator[None]:
        self.stream = f"contract-{uuid4().hex}"
        add_stream(shared_url(), self.stream, f"{self.stream}.>")
        with TcpProxy("127.0.0.1", port_of(shared_url())) as self.proxy:
            yield
        delete_stream(shared_url(), self.stream)

    @property
    def servers(self) -> str:
        """The proxy's address."""
        return f"nats://127.0.0.1:{self.proxy.port}"

    def make_consumer(self, **options: Any) -> Consumer:
        defaults = {"servers": self.servers, "stream": self.stream, "durable": "billing"}
        return NATSConsumer(**{**defaults, "ordered": self.ordered, **options})

    def make_backend(self, **options: Any) -> MessageBackend:
        subject = f"{self.stream}.{{type}}"
        return NATSBackend(servers=self.servers, stream=self.stream, subject=subject, **options)

    def produce(self, messages: Sequence[ProducedMessage]) -> None:
        sent = []
        for message in messages:
            headers = dict(message.headers)
            if message.content_type:
                headers["Content-Type"] = message.content_type
            sent.append((message.body or b"", headers or None))
        produce(shared_url(), f"{self.stream}.produced", *sent)

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestContractWithoutOrder(TestContract):
    """With `ordered=False`, messages that are delivered again may follow newer ones."""

    ordered = False
    keeps_order = False

    # What a lost connection had comes again after `ack_wait`, and newer messages before that.
    test_receiving_goes_on_when_the_broker_is_back = None  # type: ignore[assignment]


# --- Producers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_events_of_the_sdk_are_received(make: MakeConsumer, stream: str, mode: str) -> None:
    """An event that the official SDK wrote arrives with its attributes and data.

    The SDK has no binding for NATS, whose headers are those of HTTP.
    """
    attributes = {"type": "order.placed", "source": "/shop", "id": "1", "subject": "Größe"}
    given = {**attributes, "datacontenttype": "application/json"}
    event = SDKEvent(given, {"größe": 7})
    write = http.to_structured if mode == "structured" else http.to_binary
    written = write(event, JSONFormat())
    produce(shared_url(), f"{stream}.sdk", (written.body, dict(written.headers)))
    consumer = make()
    consumer.open()
    (delivery,) = receive(consumer, 1)
    assert delivery.event is not None, delivery.problem
    found = delivery.event.to_dict()
    assert {name: found[name] for name in attributes} == attributes
    assert found["data"] == {"größe": 7}


def test_message_without_headers_is_structured(make: MakeConsumer, stream: str) -> None:
    """Clients without headers send the JSON format alone; the message has subject and number."""
    produce_numbers(stream, 7)
    consumer = make()
    consumer.open()
    (delivery,) = receive(consumer, 1)
    assert numbers([delivery]) == [7]
    assert (delivery.message.origin, delivery.message.position) == (f"{stream}.t", "1")
    assert delivery.message.headers == {}


# --- The durable consumer ----------------------------------------------------------------------


def test_durable_is_created_with_the_options(make: MakeConsumer, stream: str) -> None:
    """A missing durable is created, and a second open finds it."""
    options = {"ack_wait": 12.5, "max_ack_pending": 77, "filter_subjects": f"{stream}.a.*"}
    consumer = make(**options, start="new")
    consumer.open()
    consumer.open()
    config = info(stream).config
    assert (config.ack_wait, config.max_ack_pending) == (12.5, 77)
    assert (config.filter_subject, config.deliver_policy) == (f"{stream}.a.*", "new")
    assert (config.ack_policy, config.max_deliver) == ("explicit", -1)


def test_filtered_subjects_alone_are_received(make: MakeConsumer, stream: str) -> None:
    """Messages of other subjects are neither received nor counted."""
    consumer = make(filter_subjects=[f"{stream}.a"])
    consumer.open()
    produce(shared_url(), f"{stream}.a", (b"1", None))
    produce(shared_url(), f"{stream}.b", (b"2", None))
    produce(shared_url(), f"{stream}.a", (b"3", None))
    assert consumer.lag() == 2
    assert [each.message.body for each in receive(consumer, 2)] == [b"1", b"3"]


@pytest.mark.parametrize("start", [3, "all", "new", "time"])
def test_start_decides_about_the_first_message(make: MakeConsumer, stream: str, start: Any) -> None:
    """A durable that is created begins where `start` says, and a later open finds it the same."""
    produce_numbers(stream, 1, 2)
    moment = datetime.now(UTC)
    produce_numbers(stream, 3, 4)
    consumer = make(start=moment if start == "time" else start)
    consumer.open()
    produce_numbers(stream, 5)
    expected = {3: [3, 4, 5], "time": [3, 4, 5], "all": [1, 2, 3, 4, 5], "new": [5]}[start]
    deliveries = receive(consumer, len(expected))
    assert numbers(deliveries) == expected
    consumer.acknowledge(deliveries)
    consumer.open()
    assert consumer.receive(10, 0.0) == []


@pytest.mark.parametrize(
    ("config", "options", "option"),
    [
        ({"ack_wait": 60}, {"ack_wait": 30}, "ack_wait"),
        ({"max_ack_pending": 5}, {"max_ack_pending": 6}, "max_ack_pending"),
        ({"filter_subject": "{}.a"}, {"filter_subjects": "{}.b"}, "filter_subjects"),
        ({}, {"filter_subjects": "{}.b"}, "filter_subjects"),
        ({"deliver_policy": "new"}, {"start": "all"}, "start"),
        ({"max_deliver": 5}, {}, "durable"),
        ({"ack_policy": "none"}, {}, "durable"),
        ({"headers_only": True}, {}, "durable"),
        ({"deliver_subject": "pushed"}, {}, "durable"),
    ],
)
def test_existing_durable_with_other_settings_is_an_error(
    make: MakeConsumer, stream: str, config: dict[str, Any], options: dict[str, Any], option: str
) -> None:
    """The error names the option and the durable, which is not changed."""
    fill = {
        key: value.format(stream) if isinstance(value, str) else value
        for key, value in config.items()
    }
    add_durable(stream, **fill)
    before = info(stream).config
    given = {
        key: value.format(stream) if isinstance(value, str) else value
        for key, value in options.items()
    }
    with pytest.raises(BackendConfigurationError, match=r"'orders'.*'billing'") as caught:
        make(**given).open()
    assert f"['OPTIONS'][{option!r}]" in str(caught.value)
    assert info(stream).config == before


def test_existing_durable_is_used_as_it_is(make: MakeConsumer, stream: str) -> None:
    """Options that are not given don't have to agree with it."""
    add_durable(stream, ack_wait=60, max_ack_pending=5, filter_subject=f"{stream}.t")
    consumer = make(create=False)
    consumer.open()
    produce_numbers(stream, *range(8))
    deliveries = receive(consumer, 5)
    assert consumer.receive(10, 0.1) == []
    consumer.acknowledge(deliveries)
    assert numbers(receive(consumer, 3)) == [5, 6, 7]


def test_missing_durable_or_stream_is_named(make: MakeConsumer, stream: str) -> None:
    """The broker counts as unavailable, and the error has the command that creates the thing."""
    with pytest.raises(BackendUnavailable, match=f"nats consumer add {stream} billing"):
        make(create=False).open()
    with pytest.raises(BackendUnavailable, match="nats stream add missing"):
        make(stream="missing").open()


def test_deleted_durable_is_unavailable(make: MakeConsumer, stream: str) -> None:
    """A receiver does not wait for ever on a durable that was deleted; a new open creates it."""
    consumer = make()
    consumer.open()
    produce_numbers(stream, 1)
    consumer.acknowledge(receive(consumer, 1))
    assert consumer.receive(10, 0.0) == []

    async def delete(jetstream: Any) -> None:
        await jetstream.delete_consumer(stream, "billing")

    ask(shared_url(), delete)

    wait_until(lambda: is_unavailable(consumer), SECONDS, "the deletion is noticed")
    consumer.open()
    assert numbers(receive(consumer, 1)) == [1]


def test_several_subjects_need_a_newer_server(make: MakeConsumer, stream: str) -> None:
    """A server that would ignore the list is refused, and a newer one filters by it."""
    consumer = make(filter_subjects=[f"{stream}.a", f"{stream}.b"])
    if version_of(shared_url()) < (2, 10):
        with pytest.raises(BackendConfigurationError, match=r"'filter_subjects'.*2\.10"):
            consumer.open()
    else:
        consumer.open()
        assert sorted(info(stream).config.filter_subjects) == [f"{stream}.a", f"{stream}.b"]


def test_redelivery_seconds_are_the_age_that_the_stream_allows(
    make: MakeConsumer, stream: str
) -> None:
    """Without a limit for the age they are not known."""
    consumer = make()
    consumer.open()
    assert consumer.redelivery_seconds is None
    name = f"{stream}-aged"
    add_stream(shared_url(), name, f"aged.{name}", max_age=3600)
    try:
        aged = make(stream=name)
        aged.open()
        assert aged.redelivery_seconds == 3600
    finally:
        delete_stream(shared_url(), name)


# --- Redelivery --------------------------------------------------------------------------------


def test_unacknowledged_message_is_delivered_again_after_ack_wait(
    make: MakeConsumer, stream: str
) -> None:
    """Another receiver is given it, without the first one having closed."""
    first = make(ordered=False, ack_wait=1)
    first.open()
    produce_numbers(stream, 1)
    (old,) = receive(first, 1)
    second = make(ordered=False, ack_wait=1)
    second.open()
    (again,) = receive(second, 1)
    assert again.message.identity == old.message.identity
    second.acknowledge([again])
    first.acknowledge([old])
    assert second.lag() == 0


def test_extend_keeps_messages_from_being_delivered_again(make: MakeConsumer, stream: str) -> None:
    """Messages that are extended are not given to another receiver after `ack_wait`."""
    first = make(ordered=False, ack_wait=1)
    first.open()
    produce_numbers(stream, 1, 2)
    deliveries = receive(first, 2)
    second = make(ordered=False, ack_wait=1)
    second.open()
    for _ in range(10):  # two seconds, while `ack_wait` is one
        first.extend(deliveries)
        assert second.receive(10, 0.2) == []
    first.acknowledge(deliveries)
    assert second.lag() == 0


def test_rejected_message_is_told_to_those_who_listen(make: MakeConsumer, stream: str) -> None:
    """The server sends an advisory, and the message stays in the stream."""

    async def reject() -> Any:
        client = await nats.connect(shared_url())
        advisories = await client.subscribe(
            f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.billing"
        )
        await client.flush()
        consumer.reject(delivery)
        message = await advisories.next_msg(timeout=SECONDS)
        await client.close()
        return json.loads(message.data)

    consumer = make()
    consumer.open()
    produce_numbers(stream, 1)
    (delivery,) = receive(consumer, 1)
    assert asyncio.run(reject())["stream_seq"] == 1
    assert consumer.lag() == 0


# --- Order when another receiver takes over ----------------------------------------------------


@contextmanager
def crashed(consumer: NATSConsumer) -> Iterator[None]:
    """Cut the connection of a consumer, which returns nothing to the server."""
    connection, consumer._connection, consumer._reader = consumer._connection, None, None
    assert connection is not None
    connection.close()
    yield


def test_successor_of_a_crashed_receiver_is_given_its_messages_first(
    make: MakeConsumer, stream: str
) -> None:
    """They come in order, before newer ones, and long before `ack_wait` is over."""
    produce_numbers(stream, *range(20))
    former = make(ack_wait=3600)
    former.open()
    deliveries = receive(former, 10, limit=10)
    former.acknowledge(deliveries[:4])
    with crashed(former):
        successor = make(ack_wait=3600)
        successor.open()
        assert numbers(receive(successor, 16)) == list(range(4, 20))


def test_successor_finds_few_messages_among_very_many_others(
    make: MakeConsumer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter leaves out most of the stream; each request for redelivery has a limited size."""
    monkeypatch.setattr(reader, "MOST_RECALLED", 10)
    monkeypatch.setattr(reader, "RECALL_SECONDS", 0.01)
    options = {"filter_subjects": f"{stream}.t", "ack_wait": 3600}
    former, successor = make(**options), make(**options)
    former.open()
    for number in range(3):
        produce_numbers(stream, number)
        produce(shared_url(), f"{stream}.other", *[(b"{}", None)] * 25)
    receive(former, 3)
    with crashed(former):
        successor.open()
        assert numbers(receive(successor, 3)) == [0, 1, 2]


def test_messages_that_a_stalled_receiver_was_given_late_come_first(
    make: MakeConsumer, stream: str
) -> None:
    """A request of the former is answered after the takeover; the successor notices the gap."""
    former, successor = make(ack_wait=3600), make(ack_wait=3600)
    former.open()
    assert former.receive(3, 0.0) == []  # its request stays open at the server
    successor.open()
    produce_numbers(stream, *range(10))  # the first three of them go to the former
    received: list[int] = []

    def are_all_received() -> bool:
        deliveries = successor.receive(100, 0.2)
        successor.acknowledge(deliveries)
        received.extend(numbers(deliveries))
        return len(received) >= 10

    wait_until(are_all_received, SECONDS, "the successor is given all messages")
    assert received == list(range(10))


def test_gap_between_received_messages_is_closed_first(make: MakeConsumer, stream: str) -> None:
    """While another one reads some messages in between, the later ones are held back."""
    reads, intrudes = make(ack_wait=3600), make(ordered=False, ack_wait=3600)
    reads.open()
    intrudes.open()
    produce_numbers(stream, 0, 1)
    reads.acknowledge(receive(reads, 2, limit=2))
    produce_numbers(stream, 2, 3)
    assert numbers(receive(intrudes, 2, limit=2)) == [2, 3]
    produce_numbers(stream, 4, 5)
    assert numbers(receive(reads, 4)) == [2, 3, 4, 5]


def test_what_a_former_receiver_acknowledges_late_is_not_waited_for(
    make: MakeConsumer, stream: str
) -> None:
    """Its rows are stored, so the successor goes on with what is left."""
    produce_numbers(stream, *range(6))
    former, successor = make(ack_wait=3600), make(ack_wait=3600)
    former.open()
    deliveries = receive(former, 4, limit=4)
    former.acknowledge(deliveries)
    successor.open()
    assert numbers(receive(successor, 2)) == [4, 5]
    former.close()
    produce_numbers(stream, 6)
    assert numbers(receive(successor, 1)) == [6]


def test_messages_that_were_deleted_are_not_waited_for_forever(
    make: MakeConsumer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge of the stream removes what a crashed receiver had; later messages are received."""
    monkeypatch.setattr(reader, "REQUEST_SECONDS", 0.2)
    produce_numbers(stream, *range(4))
    former = make(ack_wait=1)
    former.open()
    receive(former, 4)
    with crashed(former):
        purge_stream(shared_url(), stream)
        successor = make(ack_wait=1)
        successor.open()
        produce_numbers(stream, 4, 5)
        assert numbers(receive(successor, 2)) == [4, 5]


def test_receivers_without_order_share_the_messages(make: MakeConsumer, stream: str) -> None:
    """With `ordered=False` two receivers read at once, and each message is given to one."""
    consumers = [make(ordered=False), make(ordered=False)]
    for each in consumers:
        each.open()
        assert each.receive(5, 0.0) == []
    produce_numbers(stream, *range(10))
    shares = [receive(each, 5, limit=5) for each in consumers]
    assert sorted(numbers(shares[0] + shares[1])) == list(range(10))
    assert all(shares)


# --- Servers that fail -------------------------------------------------------------------------


def test_restarted_server_delivers_what_is_unacknowledged(tmp_path: Path) -> None:
    """After a SIGKILL of the server, messages come again in order, perhaps acknowledged ones too.

    The server writes acknowledgements to its disk some time later.
    """
    with nats_server(tmp_path) as server, ExitStack() as made:
        add_stream(server.url, "EVENTS", "events.>")
        consumer = NATSConsumer(
            alias="orders", servers=server.url, stream="EVENTS", durable="d", ack_wait=3600
        )
        made.callback(consumer.close)
        consumer.open()
        produce_numbers("events", *range(10), url=server.url)
        consumer.acknowledge(receive(consumer, 10)[:4])
        server.kill()
        wait_until(lambda: is_unavailable(consumer), SECONDS, "the kill is noticed")
        consumer.close()
        server.start()
        consumer.open()
        produce_numbers("events", 10, url=server.url)
        again: list[int] = []

        def are_all_received() -> bool:
            again.extend(numbers(consumer.receive(100, 0.2)))
            return 10 in again

        wait_until(are_all_received, SECONDS, "the new message is received")
        assert again in [list(range(first, 11)) for first in range(5)]


def test_server_that_hangs_is_unavailable(tmp_path: Path) -> None:
    """No call takes longer than its time and the timeout."""
    with nats_server(tmp_path) as server, ExitStack() as made:
        add_stream(server.url, "EVENTS", "events.>")
        consumer = NATSConsumer(
            alias="orders", servers=server.url, stream="EVENTS", durable="d", timeout=0.5
        )
        made.callback(consumer.close)
        consumer.open()
        produce_numbers("events", 1, url=server.url)
        deliveries = receive(consumer, 1)
        with server.frozen():
            for call in (
                lambda: consumer.acknowledge(deliveries),
                lambda: consumer.extend(deliveries),
                consumer.lag,
            ):
                with pytest.raises(BackendUnavailable):
                    call()
            consumer.close()
            with pytest.raises(BackendUnavailable):
                consumer.open()
            assert consumer.health_check() is False
