"""Events in Avro by a schema registry: on a real registry and a real broker.

What is sent is read by Confluent's own deserializer, and by fastavro from the bytes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from types import NoneType
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from confluent_kafka import Message as KafkaRecord
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from django.utils import timezone

from django_broadcaster.backends import KafkaBackend, Message
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import State, judgements
from tests.relay.conftest import turn
from tests.support.events import row, statuses
from tests.support.kafka_server import headers_of, make_topic, records, shared_servers
from tests.support.kafka_transactions import committed
from tests.support.protobuf_classes import generated
from tests.support.registry_proxy import RegistryProxy, registry_proxy
from tests.support.schema_registry import ORDER, shared_registry, through
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options
from tests.support.tls_proxy import TlsProxy
from tests.support.waiting import wait_until
from tools.schema_registry import PATH, Registry

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.timeout(300)  # the first time, the registry is fetched

WAIT = 30.0
TYPE = "order.placed"

DATA = {"order_id": 7, "total": "19.90", "placed": "2026-11-30T12:00:00.000001+00:00", "note": "x"}

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The registry of the process."""
    return shared_registry()


@pytest.fixture
def client(registry: Registry) -> Iterator[SchemaRegistryClient]:
    """Confluent's own client of the registry."""
    with SchemaRegistryClient({"url": registry.url, "timeout": 10}) as client:
        yield client


@pytest.fixture(scope="module")
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of one partition."""
    return make_topic(servers)


@pytest.fixture
def backend(servers: str, topic: str, registry: Registry) -> Iterator[Make]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> KafkaBackend:
            where = {"url": registry.url, "schemas": {TYPE: ORDER}, **options}
            backend = KafkaBackend(
                alias="default", bootstrap_servers=servers, topic=topic, schema_registry=where
            )
            made.callback(backend.close)
            return backend

        yield make


@contextmanager
def slow_server(answer: bytes) -> Iterator[int]:
    """A server that sends an answer byte by byte, twenty each second; give its port."""
    done = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                for index in range(len(answer)):
                    connection.sendall(answer[index : index + 1])
                    if done.wait(0.05):
                        return
                done.wait(WAIT)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        done.set()
        thread.join(WAIT)


def message(data: Any = DATA, *, key: str = "", **attributes: Any) -> Message:
    """Return an event as the relay gives it to a backend."""
    event = CloudEvent(attributes.pop("type", TYPE), "/shop", data, **attributes)
    return Message.of(event, partition_key=key or None)


def value_of(record: KafkaRecord) -> bytes:
    """Return the value of a record, which has one."""
    value = record.value()
    assert isinstance(value, bytes)
    return value


def sent(backend: KafkaBackend, *messages: Message) -> list[DeliveryError | None]:
    """Send messages; return what became of each."""
    backend.open()
    return backend.send_batch(messages)


# --- What is sent ------------------------------------------------------------------------------


def test_value_is_avro_in_the_wire_format(
    backend: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """The magic byte and the id of the schema come first; the attributes are headers."""
    assert sent(backend(), message(key="7", id="e1", data_schema="https://shop/order")) == [None]
    (record,) = records(servers, topic)
    value = value_of(record)
    registered = client.get_latest_version(f"{topic}-value")
    assert value[0] == 0
    assert int.from_bytes(value[1:5]) == registered.schema_id
    found = fastavro.schemaless_reader(BytesIO(value[5:]), fastavro.parse_schema(ORDER), None)
    assert found == {
        "order_id": 7,
        "total": Decimal("19.90"),
        "placed": datetime(2026, 11, 30, 12, 0, 0, 1, UTC),
        "note": "x",
    }
    headers = headers_of(record)
    assert headers["content-type"] == b"application/avro"
    assert (headers["ce_type"], headers["ce_id"]) == (TYPE.encode(), b"e1")
    assert headers["ce_dataschema"] == b"https://shop/order"
    assert record.key() == b"7"


def test_confluents_deserializer_reads_what_is_sent(
    backend: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """Consumers with any client of Confluent's read the same values."""
    assert sent(backend(), message()) == [None]
    (record,) = records(servers, topic)
    config = {"subject.name.strategy": lambda context, name: None}
    found: Any = AvroDeserializer(client, conf=config)(value_of(record))
    assert found["total"] == Decimal("19.90")
    assert found["order_id"] == 7


def test_event_without_data_is_a_tombstone(backend: Make, servers: str, topic: str) -> None:
    """An event without data has no value, and needs neither schema nor registry."""
    events = [CloudEvent("order.deleted", "/shop"), CloudEvent(TYPE, "/shop")]
    sender = backend(url="http://127.0.0.1:1")
    assert sent(sender, *(Message.of(each, partition_key="7") for each in events)) == [None, None]
    assert [each.value() for each in records(servers, topic)] == [None, None]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("topic", "{topic}-value"),
        ("record", "shop.OrderPlaced"),
        ("topic_record", "{topic}-shop.OrderPlaced"),
    ],
)
def test_subject_follows_the_strategy(
    strategy: str, expected: str, backend: Make, client: SchemaRegistryClient, topic: str
) -> None:
    """The three strategies of Confluent's clients name the subject."""
    assert sent(backend(subject=strategy), message()) == [None]
    assert expected.format(topic=topic) in client.get_subjects()


def test_schema_may_be_a_file(backend: Make, tmp_path: Path) -> None:
    """A path, text and a dictionary are the same schema."""
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    for schema in (path, str(path), json.dumps(ORDER), ORDER):
        assert sent(backend(schemas={TYPE: schema}), message()) == [None]


def test_registry_is_asked_once_for_a_schema(
    backend: Make, registry: Registry, servers: str, topic: str
) -> None:
    """Further events of the type need no registry, not even a running one."""
    with TcpProxy("127.0.0.1", registry.port) as proxy:
        sender = backend(url=through(proxy))
        assert sent(sender, message()) == [None]
        with proxy.away():
            assert sender.send_batch([message(), message()]) == [None, None]
    assert len(records(servers, topic)) == 3


def test_schema_that_is_not_registered_is_retried(
    backend: Make, client: SchemaRegistryClient, topic: str
) -> None:
    """Without `register`, the schema has to be there; it is asked for again with each batch."""
    sender = backend(register=False)
    (failure,) = sent(sender, message())
    assert type(failure) is TransientError
    assert f"subject '{topic}-value'" in str(failure)
    client.register_schema(f"{topic}-value", Schema(json.dumps(ORDER), "AVRO"))
    assert sender.send_batch([message()]) == [None]


def test_incompatible_schema_is_retried(
    backend: Make, client: SchemaRegistryClient, topic: str
) -> None:
    """The registry refuses it, other types of events are sent."""
    subject = f"{topic}-value"
    client.register_schema(subject, Schema(json.dumps(ORDER), "AVRO"))
    client.set_compatibility(subject, "BACKWARD")
    changed = {**ORDER, "fields": [*ORDER["fields"], {"name": "currency", "type": "string"}]}
    sender = backend(schemas={TYPE: ORDER, "order.changed": changed})
    data = {**DATA, "currency": "EUR"}
    failure, other = sent(sender, message(data, type="order.changed"), message())
    assert type(failure) is TransientError
    assert "409" in str(failure)
    assert other is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({**DATA, "order_id": "7"}, "data.order_id: must be an integer, not text"),
        ({**DATA, "order_id": 2**63}, "data.order_id: must be an integer of 64 bits"),
        ({**DATA, "total": "19.905"}, "data.total: must have at most 2 decimal places"),
        ({**DATA, "total": "12345678"}, "data.total: must have at most 7 digits before the point"),
        ({**DATA, "total": "NaN"}, "data.total: must be a finite number"),
        ({**DATA, "placed": "2026-11-30T12:00:00"}, "data.placed: must have an offset from UTC"),
        ({**DATA, "more": 1}, "data.more: is not a field of the schema shop.OrderPlaced"),
        ({"order_id": 7}, "data.total: is missing"),
        ([], "data: must be an object, not an array"),
        (b"\0", "data: must be JSON"),
    ],
)
def test_data_that_do_not_fit_are_rejected(data: Any, problem: str, backend: Make) -> None:
    """The error names the field; only this event and its key are held up."""
    kind = {"data_content_type": "application/x-binary"} if isinstance(data, bytes) else {}
    first, second, other = sent(
        backend(), message(data, key="7", **kind), message(key="7"), message(key="8")
    )
    assert type(first) is Rejected
    assert str(first).startswith(problem)
    assert isinstance(second, Held)
    assert other is None


def test_event_without_a_schema_is_rejected(backend: Make) -> None:
    """Its error names the option."""
    (failure,) = sent(backend(), message({}, type="order.lost"))
    assert type(failure) is Rejected
    assert "'order.lost' has no schema; add it to 'schemas'" in str(failure)


# --- The registry is unavailable -----------------------------------------------------------------


def test_unavailable_registry_is_an_unavailable_backend(
    backend: Make, registry: Registry, servers: str, topic: str
) -> None:
    """No event fails, nothing is sent, and all are sent once the registry is back."""
    with TcpProxy("127.0.0.1", registry.port) as proxy:
        sender = backend(url=through(proxy))
        with proxy.away():
            for failure in sent(sender, message(), message({"order_id": "wrong"})):
                assert type(failure) is BackendUnavailable
                assert f"schema registry at 127.0.0.1:{proxy.port}" in str(failure)
        assert records(servers, topic) == []
        assert sender.send_batch([message()]) == [None]


def test_event_that_needs_no_schema_does_not_hide_an_unavailable_registry(
    backend: Make, servers: str, topic: str
) -> None:
    """Tombstones are sent; as long as no schema is known, events with data make the backend wait.

    So do they after an event whose type has no schema.
    """
    sender = backend(url="http://127.0.0.1:1")
    tombstone = Message.of(CloudEvent(TYPE, "/shop"), partition_key="7")
    first, second, third = sent(sender, tombstone, message(), message(type="order.lost"))
    assert first is None
    assert (type(second), type(third)) == (TransientError, Rejected)
    assert [each.value() for each in records(servers, topic)] == [None]
    (failure,) = sender.send_batch([message()])
    assert type(failure) is BackendUnavailable


def test_url_of_another_server_is_an_unavailable_backend(backend: Make, registry: Registry) -> None:
    """No event is given up for a wrong path, and the error says what to check."""
    (failure,) = sent(backend(url=f"http://127.0.0.1:{registry.port}/"), message())
    assert type(failure) is BackendUnavailable
    assert str(failure).endswith("answered 404: check its 'url'")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nx-slow: " + 1000 * b"."])
def test_slow_registry_times_out(answer: bytes, backend: Make) -> None:
    """Neither silence nor an answer that comes byte by byte delays the relay any longer."""
    with slow_server(answer) as port:
        (failure,) = sent(backend(url=f"http://127.0.0.1:{port}", timeout=0.5), message())
    assert type(failure) is BackendUnavailable
    assert "schema registry" in str(failure)
    assert "no answer within 0.5 s" in str(failure) or "Timeout" in str(failure)


def test_password_is_not_in_errors(backend: Make) -> None:
    """The login is sent to the registry, and shown nowhere."""
    for options in (
        {"url": "http://127.0.0.1:1", "username": "shop", "password": "hush-hush"},
        {"url": "http://shop:hush-hush@127.0.0.1:1"},
    ):
        sender = backend(**options)
        (failure,) = sent(sender, message())
        assert type(failure) is BackendUnavailable
        assert "hush" not in f"{failure} {failure.__cause__!r} {sender!r}"


@pytest.mark.parametrize("case", [None, *CASES])
def test_connection_to_the_registry_is_encrypted(
    case: str | None, backend: Make, registry: Registry, certificates: Path
) -> None:
    """The option `tls` is that of every backend, and its faults are an unavailable backend."""
    with TlsProxy(certificates, registry.port) as proxy:
        scheme = "http" if case == "no TLS" else "https"
        url = f"{scheme}://{host_of(case)}:{proxy.port}{PATH}"
        (failure,) = sent(backend(url=url, **tls_options(certificates, case)), message())
    assert type(failure) is (NoneType if case is None else BackendUnavailable)


@pytest.mark.parametrize("transactional_id", [None, "registry-test"])
def test_relay_waits_for_the_registry_and_gives_up_single_events(
    transactional_id: str | None,
    database: str,
    settings: Settings,
    registry: Registry,
    servers: str,
    topic: str,
) -> None:
    """No attempt counts while the registry is away; then a wrong event is a dead letter.

    Its key waits until it is given up, and no event is sent twice or out of order.
    """
    with TcpProxy("127.0.0.1", registry.port) as proxy:
        options = {
            "bootstrap_servers": servers,
            "topic": topic,
            "transactional_id": transactional_id and f"{transactional_id}-{topic}",
            "schema_registry": {"url": through(proxy), "schemas": {TYPE: ORDER}},
        }
        path = "django_broadcaster.backends.KafkaBackend"
        settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": path, "OPTIONS": options}}
        data = {"a1": DATA, "a2": {**DATA, "total": "1.999"}, "a3": DATA, "b1": DATA}
        for name, each in data.items():
            publisher.publish_event(
                TYPE, "/shop", each, subject=name, partition_key=name[0], using=database
            )
        with DeliveryLoop(database, "default") as loop:
            with proxy.away():
                loop.turn(100)
            rows = [row(name, database) for name in data]
            assert {(each.status, each.retry_count) for each in rows} == {("pending", 0)}
            wait_until(lambda: drained(loop, database), WAIT, "all events have an outcome")
    assert statuses(database) == {
        "a1": "published",
        "a2": "failed",
        "a3": "published",
        "b1": "published",
    }
    refused = row("a2", database)
    assert refused.retry_count == 0
    assert "data.total: must have at most 2 decimal places" in refused.last_error
    arrived = [headers_of(each)["ce_subject"].decode() for each in committed(servers, topic)]
    assert sorted(arrived) == ["a1", "a3", "b1"]
    assert arrived.index("a1") < arrived.index("a3")


class Outage:
    """A relay to a registry that can be away, or refuse this login the schema of one type."""

    def __init__(
        self, database: str, loop: DeliveryLoop, proxy: RegistryProxy, path_to_it: TcpProxy
    ) -> None:
        self._database = database
        self.loop = loop
        self._proxy = proxy
        self._path_to_it = path_to_it
        self.now = 0.0
        """The time by which pauses end."""

    @contextmanager
    def begun(self, fault: str) -> Iterator[None]:
        """Cause the fault for the time of the block."""
        with ExitStack() as stack:
            if fault == "away":
                stack.enter_context(self._path_to_it.away())
            else:
                self._proxy.forbidden = "New"
            yield
        self._proxy.forbidden = ""

    def publish(self, event_type: str, *names: str) -> None:
        """Publish an event for each name."""
        for name in names:
            publisher.publish_event(event_type, "/shop", DATA, subject=name, using=self._database)

    def are_sent(self, *names: str) -> bool:
        """Take a turn; return True if these events are published."""
        turn(self.loop, 50)
        found = statuses(self._database)
        return all(found[name] == "published" for name in names)

    def has_failed(self, name: str) -> bool:
        """Take a turn; return True if the event has an error."""
        turn(self.loop, 50)
        return bool(row(name, self._database).last_error)

    def end_pauses(self) -> None:
        """Let time pass: pauses end, and events that were not put off for longer are due."""
        self.now += 60
        soon = timezone.now() + timedelta(seconds=100)
        waiting = OutboxEvent.objects.using(self._database).filter(status="retry")
        assert waiting.filter(scheduled_at__lt=soon).hasten()


@pytest.fixture
def outage(
    database: str,
    settings: Settings,
    registry: Registry,
    servers: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Outage]:
    """A relay that has sent an event of `TYPE`; `order.new` is not known yet."""
    with (
        registry_proxy(registry) as proxy,
        TcpProxy("127.0.0.1", proxy.port) as path_to_it,
    ):
        options = {
            "bootstrap_servers": servers,
            "topic": topic,
            "schema_registry": {
                "url": through(path_to_it),
                "schemas": {TYPE: ORDER, "order.new": {**ORDER, "name": "New"}},
                "subject": "record",
            },
        }
        path = "django_broadcaster.backends.KafkaBackend"
        settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": path, "OPTIONS": options}}
        with DeliveryLoop(database, "default") as loop:
            outage = Outage(database, loop, proxy, path_to_it)
            backend = loop.broker.backend
            assert isinstance(backend, KafkaBackend)
            assert backend._values is not None
            monkeypatch.setattr(backend._values._pauses, "_clock", lambda: outage.now)
            outage.publish(TYPE, "known")
            wait_until(lambda: outage.are_sent("known"), WAIT, "the schema is known")
            yield outage


FAULTS = pytest.mark.parametrize("fault", ["away", "forbidden"])


@FAULTS
def test_known_schemas_are_sent_while_another_one_can_not_be_asked_for(
    fault: str, outage: Outage, database: str
) -> None:
    """The events of one type wait, and spend no retry; those of the others are sent."""
    with outage.begun(fault):
        outage.publish("order.new", "b1")
        wait_until(lambda: outage.has_failed("b1"), WAIT, "b1 failed")
        outage.publish("order.new", "b2")
        outage.publish(TYPE, "a2")
        outage.publish("order.new", "b3")
        wait_until(lambda: outage.are_sent("a2"), WAIT, "the known type is sent")
        wait_until(lambda: outage.has_failed("b3"), WAIT, "b3 failed")
        waiting = [row(name, database) for name in ("b1", "b2", "b3")]
        assert {(each.status, each.retry_count) for each in waiting} == {("retry", 0)}
        text = "schema of 'order.new', subject 'shop.New': the schema registry at"
        assert text in waiting[2].last_error
    outage.end_pauses()
    wait_until(lambda: outage.are_sent("b1", "b2", "b3"), WAIT, "all events are sent")


@FAULTS
def test_many_events_that_wait_for_a_schema_delay_no_others_and_are_rarely_tried(
    fault: str, outage: Outage, database: str
) -> None:
    """Each pause has one attempt, of one event; all are sent at once when the schema is there."""
    names = [f"b{number}" for number in range(300)]
    attempts = OutboxAttempt.objects.using(database)
    with outage.begun(fault):
        outage.publish("order.new", *names)
        outage.publish(TYPE, "a2")
        for _ in range(len(names) // 50 + 1):
            turn(outage.loop, 50)
        assert statuses(database)["a2"] == "published"
        assert attempts.count() == 1
        for number in range(3):
            outage.end_pauses()
            outage.publish(TYPE, f"a{number + 3}")
            turn(outage.loop, 50)
            assert statuses(database)[f"a{number + 3}"] == "published"
            assert attempts.count() == number + 2
        later = timezone.now() + timedelta(seconds=100)
        waiting = OutboxEvent.objects.using(database).filter(status="retry")
        assert waiting.filter(scheduled_at__lt=later).count() < 10
        assert waiting.count() == len(names)
    outage.end_pauses()
    wait_until(lambda: outage.are_sent(*names), WAIT, "all events are sent")


@pytest.mark.parametrize(
    ("fault", "reason", "problem"),
    [
        ("away", "the schema registry is unavailable", "the schema registry at 127.0.0.1:"),
        ("forbidden", "the schema registry refuses the schema", "or set 'register' to False"),
    ],
)
def test_operator_sees_why_events_wait_for_a_schema(
    fault: str,
    reason: str,
    problem: str,
    outage: Outage,
    database: str,
    caplog: pytest.LogCaptureFixture,
    settings: Settings,
) -> None:
    """The log has the reason; the state of the backend and the event have the registry's text."""
    with outage.begun(fault):
        outage.publish("order.new", "b1")
        wait_until(lambda: outage.has_failed("b1"), WAIT, "b1 failed")
    assert f"failed at attempt 1: {reason}; retrying in" in caplog.text
    event = row("b1", database)
    assert event.status == "retry"
    assert event.last_error.startswith("TransientError: schema of 'order.new', subject 'shop.New'")
    assert problem in event.last_error
    (found,) = judgements(database, ["default"], ["default"], {})
    assert found.state == State.WAITING
    settings.OUTBOX_MAX_RETRY_AGE_SECONDS = 1e-6
    (found,) = judgements(database, ["default"], ["default"], {})
    assert found.state == State.LATE
    assert problem in found.verdict.error


def test_missing_permission_holds_up_one_type_alone(backend: Make, registry: Registry) -> None:
    """The registry is asked for the other types of the batch, though none is known yet."""
    types = {"order.a": {**ORDER, "name": "Closed"}, "order.b": ORDER}
    with registry_proxy(registry) as proxy:
        proxy.forbidden = "Closed"
        sender = backend(url=proxy.url, schemas=types, subject="topic_record")
        failure, other = sent(sender, *(message(type=each) for each in types))
        assert type(failure) is TransientError
        assert not failure.spends_retry
        assert str(failure).endswith(
            "answered 403: User is denied operation; allow it to write, or set 'register' to False"
        )
        assert failure.reason == "the schema registry refuses the schema"
        assert other is None


def test_missing_permission_that_is_met_first_does_not_stop_the_backend(
    backend: Make, registry: Registry
) -> None:
    """After a start no schema is known, but the registry answers: the events of one type wait."""
    types = {"order.a": {**ORDER, "name": "Closed"}, "order.b": ORDER}
    with registry_proxy(registry) as proxy:
        proxy.forbidden = "Closed"
        sender = backend(url=proxy.url, schemas=types, subject="record")
        failures = sent(sender, message(type="order.a"), message(type="order.a"))
        for failure in failures:
            assert type(failure) is TransientError
            assert not failure.spends_retry
        assert failures[0] is not failures[1]  # one error would collect the tracebacks of all
        assert sender.send_batch([message(type="order.b")]) == [None]


def test_slow_registry_is_waited_for_once_a_pause(
    backend: Make, registry: Registry, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a timeout no other schema is asked for; after the pause, the others come first."""
    now = [0.0]
    types = {f"order.{name}": {**ORDER, "name": name} for name in ("a", "b", "c")}
    with registry_proxy(registry) as proxy:
        sender = backend(
            url=proxy.url, timeout=2, schemas={TYPE: ORDER, **types}, subject="topic_record"
        )
        assert sender._values is not None
        monkeypatch.setattr(sender._values._pauses, "_clock", lambda: now[0])
        assert sent(sender, message()) == [None]
        proxy.asked.clear()
        proxy.silent = f"{topic}-shop.a"
        batch = [message(), *(message(type=f"order.{name}") for name in ("a", "b", "b"))]
        for has_tried in (True, False):
            first, *failures = sender.send_batch(batch)
            assert first is None
            assert [type(each) for each in failures] == [TransientError] * 3
            assert not any(each.spends_retry for each in failures if each)
            assert [each.sent for each in failures if each] == [has_tried, False, False]
            assert [each.retry_after for each in failures if each] == [1.0] * 3
            batch[-1] = message(type="order.c")
            assert len(proxy.asked) == 1
        assert sender.returned() == set()
        now[0] += 1.0
        first, second, *others = sender.send_batch(batch)
        assert type(second) is TransientError
        assert [first, *others] == [None] * 3
        assert sender.returned() == {f"order.{name} {topic}" for name in ("b", "c")}


def drained(loop: DeliveryLoop, database: str) -> bool:
    """Take a turn; return True if no event is pending."""
    turn(loop)
    return "pending" not in statuses(database).values()


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "ftp://host"}, "'url' must begin with http:// or https://"),
        ({"url": "http://a:1,http://b:1"}, "'url' must be the address of one registry"),
        ({"url": "http://a,b:1"}, "'url' must be the address of one registry; put a proxy"),
        ({"url": "http://a:1/?x=1"}, "'url' must not have a query or a fragment"),
        ({"format": "json"}, "'format' must be 'avro' or 'protobuf'"),
        ({"schemas": {}}, "'schemas' must be a schema for each event type"),
        ({"schemas": {TYPE: 5}}, "'schemas' 'order.placed' must be the path of a file"),
        ({"schemas": {TYPE: "/no/such.avsc"}}, "'schemas' 'order.placed' can't be read"),
        ({"schemas": {TYPE: "{}"}}, "'schemas' 'order.placed' is not a valid Avro schema"),
        ({"schemas": {TYPE: '"no.type"'}}, "'schemas' 'order.placed' is not a valid Avro schema"),
        ({"subject": "event"}, "'subject' must be 'topic', 'record' or 'topic_record'"),
        ({"register": 1}, "'register' must be True or False"),
        ({"timeout": 0}, "'timeout' must be a positive number of seconds"),
        ({"tls": True, "url": "http://host"}, "'tls' needs a 'url' that begins with https://"),
        ({"tls": {"check_hostname": False}, "url": "https://host"}, "'tls' 'check_hostname' can't"),
        ({"user": "x"}, "has the unknown key 'user'"),
    ],
)
def test_wrong_options_are_errors(options: Mapping[str, Any], problem: str) -> None:
    """Each error names the setting, the key, the rule and the value."""
    given = {"schemas": {TYPE: ORDER}, **options}
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaBackend(alias="default", schema_registry=given)
    beginning = "OUTBOX_PUBLISHERS['default']['OPTIONS']['schema_registry']: "
    assert str(caught.value).startswith(beginning + problem)


def union(*branches: Any) -> Any:
    """Return the schema of a record with a field that is a union."""
    return {"type": "record", "name": "R", "fields": [{"name": "x", "type": list(branches)}]}


def default(kind: Any, value: Any) -> Any:
    """Return the schema of a record with a field that has a default."""
    fields = [{"name": "x", "type": kind, "default": value}]
    return {"type": "record", "name": "R", "fields": fields}


def decimal(scale: int) -> Any:
    """Return the schema of a decimal."""
    return {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale}


INSTANT = {"type": "long", "logicalType": "timestamp-millis"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-millis"}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (union(INSTANT, LOCAL), "field 'x': the union of timestamp-millis, local-timestamp-millis"),
        (union("null", decimal(1), decimal(2)), "has two types that are bytes in Avro; put each"),
        (union(INSTANT, "long"), "has two types that are long in Avro"),
        (union({"type": "array", "items": "int"}, {"type": "array", "items": "string"}), "array"),
        (union("string", {"type": "string", "logicalType": "uuid"}), "that are string in Avro"),
        (union("int", ["null", "string"]), "the union of int, union has another union"),
        (union("float", "double"), "would never use double; put double before float"),
        ("bytes", "clients differ in how they read bytes alone; use a record"),
        (decimal(2), "clients differ in how they read bytes alone; use a record"),
        (default("int", 2**31), "field 'x': must be an integer of 32 bits"),
        (default("bytes", "\u20ac"), "field 'x': the default does not fit the type bytes"),
        (default({"type": "fixed", "name": "F", "size": 2}, "a"), "does not fit the type F"),
        (default({"type": "enum", "name": "E", "symbols": ["A"]}, "B"), "does not fit the type E"),
    ],
)
def test_schema_by_which_data_would_be_lost_is_an_error(schema: Any, problem: str) -> None:
    """The schema is refused when it is loaded, and not each event when it is sent."""
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaBackend(alias="default", schema_registry={"schemas": {TYPE: json.dumps(schema)}})
    assert "'schemas' 'order.placed' can't be used: " in str(caught.value)
    assert problem in str(caught.value)


def test_structured_mode_is_an_error() -> None:
    """A whole event in the value would have no schema."""
    with pytest.raises(BackendConfigurationError, match=r"'content_mode'.*must be 'binary'"):
        KafkaBackend(
            alias="default",
            content_mode="structured",
            schema_registry={"schemas": {TYPE: ORDER}},
        )


def test_login_and_certificates_reach_the_client(tmp_path: Path) -> None:
    """The client gets the options in its own words."""
    backend = KafkaBackend(
        alias="default",
        schema_registry={
            "url": "https://registry.example:8085/path",
            "username": "shop",
            "password": "hush-hush",
            "tls": {"ca_file": "/ca.pem", "cert_file": "/cert.pem", "key_file": "/key.pem"},
            "schemas": {TYPE: ORDER},
        },
    )
    assert backend._values is not None
    assert backend._values._registry._config == {
        "url": "https://registry.example:8085/path",
        "timeout": 5.0,
        "max.retries": 0,
        "basic.auth.user.info": "shop:hush-hush",
        "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/cert.pem",
        "ssl.key.location": "/key.pem",
    }


def test_shown_body_is_json() -> None:
    """The admin shows the data in a readable form, and the headers as they are sent."""
    backend = KafkaBackend(alias="default", schema_registry={"schemas": {TYPE: ORDER}})
    shown = backend.show(message())
    assert json.loads(shown.body or b"") == DATA
    assert shown.headers["content-type"] == "application/avro"


# --- Protobuf ------------------------------------------------------------------------------------


@pytest.fixture
def orders() -> Any:
    """The module of the generated classes."""
    return generated()


def test_value_is_protobuf_in_the_wire_format(
    orders: Any, backend: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """After the magic byte and the id stand the indexes of the message; 0 is the first one."""
    nested = orders.Order.Line
    sender = backend(
        format="protobuf", schemas={TYPE: orders.OrderPlaced, "line": nested}, subject="record"
    )
    assert (
        sent(sender, message(), message({"sku": "a", "amount": 2**60}, type="line")) == [None] * 2
    )
    order, line = records(servers, topic)
    value = value_of(order)
    number = client.get_latest_version("shop.OrderPlaced").schema_id
    assert value[:6] == b"\0" + number.to_bytes(4) + b"\0"
    found = orders.OrderPlaced.FromString(value[6:])
    assert (found.order_id, found.total, found.note) == (7, "19.90", "x")
    assert found.placed.ToDatetime(UTC) == datetime(2026, 11, 30, 12, 0, 0, 1, UTC)
    value = value_of(line)
    assert value[5:8] == b"\x04\x02\x00"  # two indexes, 1 and 0, in zigzag
    assert nested.FromString(value[8:]).amount == 2**60
    assert headers_of(order)["content-type"] == b"application/protobuf"


def test_confluents_deserializer_reads_protobuf(
    orders: Any, backend: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """Also of a file that imports another one, which is registered by its name."""
    data = {"price": {"amount": "1.50", "currency": "EUR"}, "size": "LARGE"}
    sender = backend(format="protobuf", schemas={TYPE: orders.Order})
    assert sent(sender, message(data)) == [None]
    (record,) = records(servers, topic)
    config = {"subject.name.strategy": lambda context, name: None}
    found: Any = ProtobufDeserializer(orders.Order, config, client)(value_of(record))
    assert (found.price.amount, found.size) == ("1.50", 1)
    assert "broadcaster_money.proto" in client.get_subjects()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"small": "secret"}, "data.small: does not fit the message shop.Order"),
        ({"small": 2**31}, "data.small: does not fit the message shop.Order"),
        ({"lines": [{"amount": 1.5}]}, "data.lines.amount: does not fit the message shop.Order"),
        (
            {"lines": [{"more": 1}]},
            "data.lines[0].more: is not a field of the message shop.Order.Line",
        ),
        ({"more": 1}, "data.more: is not a field of the message shop.Order"),
        ([], "data: must be an object, not an array"),
    ],
)
def test_data_that_do_not_fit_the_message_are_rejected(
    data: Any, problem: str, orders: Any, backend: Make
) -> None:
    """The error names the field; values are in its details alone, which are never logged."""
    sender = backend(format="protobuf", schemas={TYPE: orders.Order})
    first, second, other = sent(sender, message(data, key="7"), message({}, key="7"), message({}))
    assert type(first) is Rejected
    assert str(first) == problem
    assert isinstance(second, Held)
    assert other is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"a_long": None}, "data.a_long: must not be null, which the field does not have"),
        ({"text": None}, "leave it out, or declare it optional in the .proto file"),
        ({"parts": None}, "data.parts: must not be null"),
        ({"parts": [{}, None]}, "data.parts[1]: must not be null"),
        ({"by_name": {"x": None}}, "data.by_name.x: must not be null"),
        ({"aLong": 7, "a_long": 8}, "data.aLong: is not a field of the message shop.Values"),
        ({"raw": "AP8"}, "data.raw: must be text in base64"),
        ({"raw": "!"}, "data.raw: must be text in base64"),
        ({"raw": 5}, "data.raw: must be text in base64, not an integer"),
        ({"wrapped": "!"}, "data.wrapped: must be text in base64"),
        ({"part": []}, "data.part: must be an object, not an array"),
        ({"part": {"raw": "!"}}, "data.part.raw: must be text in base64"),
        ({"parts": [{"raw": "!"}]}, "data.parts[0].raw: must be text in base64"),
        ({"parts": {}}, "data.parts: must be an array, not an object"),
        ({"by_name": []}, "data.by_name: must be an object, not an array"),
        ({"by_name": {"x": {"raw": "!"}}}, "data.by_name.x.raw: must be text in base64"),
        ({"left": "x", "right": 5}, "data: does not fit the message shop.Values"),
    ],
)
def test_data_that_protobuf_would_change_are_rejected(
    data: Any, problem: str, orders: Any, backend: Make
) -> None:
    """Null, another name of a field, and broken base64 are no values; nothing is lost silently."""
    (failure,) = sent(backend(format="protobuf", schemas={TYPE: orders.Values}), message(data))
    assert type(failure) is Rejected
    assert problem in str(failure)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("no.such.Class", "'no.such.Class' can't be imported"),
        ("decimal.Decimal", "must be a generated class of Protobuf, or its dotted path"),
        (5, "must be a generated class of Protobuf, or its dotted path, not int"),
    ],
)
def test_class_that_is_no_message_is_an_error(given: Any, problem: str) -> None:
    """The error names the event type."""
    options = {"format": "protobuf", "schemas": {TYPE: given}}
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaBackend(alias="default", schema_registry=options)
    assert f"'schemas' 'order.placed' {problem}" in str(caught.value)
