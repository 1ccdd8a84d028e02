"""What goes wrong with Kafka: on a real broker, and on mock brokers that fail on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Message as KafkaRecord

from django_broadcaster.backends import KafkaBackend, Message, MessageBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.kafka_mock import MockCluster, mock_cluster
from tests.support.kafka_server import (
    SASL,
    KafkaServer,
    add_user,
    changed,
    forbid,
    make_topic,
    proxied_kafka,
    records,
    tls_config,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options
from tests.support.waiting import wait_until

MakeBackend = Callable[..., KafkaBackend]

PASSWORD = "s3cret"

TOO_LARGE, INVALID_RECORD, POLICY_VIOLATION = 10, 87, 44
NOT_ENOUGH_REPLICAS, STORAGE_ERROR, OUT_OF_ORDER = 19, 56, 45
UNKNOWN_TOPIC, TOPIC_EXCEPTION, TOPIC_FORBIDDEN, CLUSTER_FORBIDDEN = 3, 17, 29, 31
OK = 0


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(servers: str, **options: Any) -> KafkaBackend:
            backend = KafkaBackend(alias="default", bootstrap_servers=servers, **options)
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    """One broker that fails as it is told to, with the topic `events` of one partition."""
    with mock_cluster() as running:
        running.make_topic("events")
        yield running


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker behind a proxy; its other ports are for users who log in, and for TLS."""
    folder = tmp_path_factory.mktemp("kafka")
    config = SASL + tls_config(folder, certificates)
    with proxied_kafka(folder, config, ["SASL_PLAINTEXT", "SSL"]) as pair:
        yield pair


@pytest.fixture
def server(running: tuple[KafkaServer, TcpProxy]) -> KafkaServer:
    """The broker, whose clients come through the proxy."""
    return running[0]


@pytest.fixture
def proxied(running: tuple[KafkaServer, TcpProxy]) -> tuple[str, TcpProxy]:
    """The address of the proxy, and the proxy."""
    return f"127.0.0.1:{running[1].port}", running[1]


def ids(found: Sequence[KafkaRecord] | Sequence[Message]) -> list[str]:
    """The event ids of records in structured mode, or of messages."""
    return [
        each.event_id if isinstance(each, Message) else json.loads(each.value() or b"{}")["id"]
        for each in found
    ]


# --- The contract ------------------------------------------------------------------------------


class TestFaults(BackendFaultContract):
    """Apache Kafka behind a proxy, and a mock broker that is full."""

    backend = KafkaBackend
    cases = {
        Fault.MISSING: ("unknown topic", "topic not permitted"),
        Fault.CREDENTIALS: ("wrong password", "unknown user", "another mechanism", "no login"),
        # A file that is missing is an error of the settings.
        Fault.TLS: tuple(case for case in CASES if case != "no CA file"),
        Fault.FULL: ("too few replicas", "disk full"),
    }

    @pytest.fixture(autouse=True)
    def _server(
        self,
        running: tuple[KafkaServer, TcpProxy],
        request: pytest.FixtureRequest,
    ) -> None:
        self.server, self.proxy = running
        self.request = request
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self.topic = make_topic(self.servers)

    def make_backend(self, **options: Any) -> MessageBackend:
        config = {"allow.auto.create.topics": False, **options.pop("config", {})}
        defaults = {"bootstrap_servers": self.servers, "topic": self.topic, "timeout": 3.0}
        return KafkaBackend(config=config, **{**defaults, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": each} for each in ids(records(self.servers, self.topic))]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        with changed(self.servers, self.topic, "max.message.bytes", "20000"):
            yield 30_000

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        if case == "unknown topic":
            self.topic = f"later-{uuid4()}"
            yield self.new_backend()
            make_topic(self.servers, name=self.topic)
        else:
            with forbid(self.server, "app", self.topic):
                yield self.new_backend(**self._login())

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"topic": "no-such-topic"}

    def _login(self, password: str = PASSWORD, mechanism: str = "SCRAM-SHA-256") -> dict[str, Any]:
        add_user(self.server, "app", PASSWORD)
        return {
            "bootstrap_servers": f"127.0.0.1:{self.server.ports['SASL_PLAINTEXT']}",
            "username": "app",
            "password": password,
            "config": {"sasl.mechanisms": mechanism},
        }

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        options = {
            None: self._login(),
            "wrong password": self._login(self.secret),
            "unknown user": {**self._login(self.secret), "username": "nobody"},
            "another mechanism": self._login(self.secret, "PLAIN"),
            "no login": {"bootstrap_servers": self._login()["bootstrap_servers"]},
        }[case]
        yield self.new_backend(timeout=1.5 if case else 10.0, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        yield self.new_backend(
            bootstrap_servers=f"{host_of(case)}:{self.server.ports['SSL']}",
            timeout=0.8 if case else 10.0,
            **tls_options(self.request.getfixturevalue("certificates"), case),
        )

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        """One broker alone has replicas enough, and a disk that others need too."""
        cluster: MockCluster = self.request.getfixturevalue("cluster")
        self.servers, self.topic = cluster.servers, "events"
        backend = self.new_backend(timeout=1.0)
        backend.open()
        code = {"too few replicas": NOT_ENOUGH_REPLICAS, "disk full": STORAGE_ERROR}[case]
        cluster.fail(*[code] * 200)
        yield backend
        cluster.heal()


# --- One event is to blame ---------------------------------------------------------------------


@pytest.mark.shows(Fault.TOO_LARGE)
@pytest.mark.parametrize(
    ("code", "kind"),
    [(TOO_LARGE, Rejected), (INVALID_RECORD, Rejected), (POLICY_VIOLATION, TransientError)],
)
def test_event_to_blame_for_a_refused_batch_is_found(
    cluster: MockCluster, make: MakeBackend, code: int, kind: type[DeliveryError]
) -> None:
    """A record batch that a broker refuses is sent again in halves, until one event is left."""
    messages = [*numbers(3, "a"), *numbers(1, "b")]
    # All four; the first half; the second half; its first event, and then its last one.
    cluster.fail(code, OK, code, code, OK)
    outcomes = make(cluster.servers).send_batch(messages)
    assert kinds(outcomes) == [None, None, kind, None]
    assert cluster.requests() == 5
    assert ids(records(cluster.servers, "events")) == ids([*messages[:2], messages[3]])


@pytest.mark.shows("order after a failure in a batch")
def test_nothing_of_its_key_is_sent_after_the_one_to_blame(
    cluster: MockCluster, make: MakeBackend
) -> None:
    """Events behind a refused one of their key are held, and others go on."""
    messages = [*numbers(1, "a"), *numbers(1, "b"), *numbers(2, "a"), *numbers(1, "b")]
    # All five; the first two; the first of them alone: refused. The other one; the rest, of `b`.
    cluster.fail(TOO_LARGE, TOO_LARGE, TOO_LARGE, OK, OK)
    outcomes = make(cluster.servers).send_batch(messages)
    assert kinds(outcomes) == [Rejected, None, Held, Held, None]
    assert ids(records(cluster.servers, "events")) == ids([messages[1], messages[4]])


@pytest.mark.shows("order after a failure in a batch")
def test_a_refused_partition_does_not_hold_up_the_others(make: MakeBackend) -> None:
    """What was refused is sent again, and what was stored meanwhile is acknowledged."""
    with mock_cluster() as cluster:
        cluster.make_topic("events", 8)
        messages = [make_message(partition_key=f"key-{number % 16}") for number in range(64)]
        cluster.fail(TOO_LARGE)
        assert make(cluster.servers).send_batch(messages) == [None] * 64
        found = records(cluster.servers, "events")
    assert sorted(ids(found)) == sorted(ids(messages))
    for number in range(16):
        key = f"key-{number}"
        mine = [record for record in found if record.key() == key.encode()]
        assert ids(mine) == ids([each for each in messages if each.partition_key == key])


def test_outage_while_the_one_to_blame_is_looked_for(
    cluster: MockCluster, make: MakeBackend
) -> None:
    """What is left of a refused batch is not sent any more, and everything of it waits."""
    messages = numbers(4, "a")
    cluster.fail(TOO_LARGE, OK, CLUSTER_FORBIDDEN)
    outcomes = make(cluster.servers).send_batch([*messages, *numbers(1, "b")])
    assert kinds(outcomes) == [None, None, *[BackendUnavailable] * 3]
    assert ids(records(cluster.servers, "events")) == ids(messages[:2])


# --- A topic is to blame -----------------------------------------------------------------------


@pytest.mark.shows(Fault.MISSING)
@pytest.mark.parametrize("code", [UNKNOWN_TOPIC, TOPIC_FORBIDDEN])
def test_the_topic_of_all_events_is_missing(
    cluster: MockCluster, make: MakeBackend, code: int
) -> None:
    """No event is to blame for a topic that nobody may write to: all wait until it is put right."""
    cluster.break_topic("events", code)
    backend = make(cluster.servers)
    with pytest.raises(BackendUnavailable, match="'events'"):
        backend.open()
    messages = numbers(2)
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert backend.health_check() is True
    cluster.break_topic("events", OK)
    assert backend.send_batch(messages) == [None] * 2


@pytest.mark.shows(Fault.MISSING)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (UNKNOWN_TOPIC, TransientError),
        (TOPIC_FORBIDDEN, TransientError),
        (TOPIC_EXCEPTION, Rejected),
    ],
)
@pytest.mark.parametrize("template", ["events", "{subject}"])
def test_the_topic_of_one_event_is_missing(
    cluster: MockCluster, make: MakeBackend, code: int, kind: type[DeliveryError], template: str
) -> None:
    """A topic that only some events have blames them alone, and holds their keys."""
    cluster.break_topic("missing", code)
    lost = make_message(subject="missing", partition_key="a", config={"topic": "missing"})
    good = [make_message(subject="events", partition_key=key) for key in "aab"]
    outcomes = make(cluster.servers, topic=template).send_batch([good[0], lost, *good[1:]])
    assert kinds(outcomes) == [None, kind, Held, None]
    assert "'missing'" in str(outcomes[1])
    assert ids(records(cluster.servers, "events")) == ids([good[0], good[2]])


def test_missing_topics_do_not_add_up(cluster: MockCluster, make: MakeBackend) -> None:
    """A batch waits once for topics that may be just being made, not for each of them."""
    names = [f"missing-{number}" for number in range(8)]
    for name in names:
        cluster.break_topic(name, UNKNOWN_TOPIC)
    started = time.monotonic()
    messages = [make_message(config={"topic": name}) for name in names]
    outcomes = make(cluster.servers).send_batch(messages)
    assert kinds(outcomes) == [TransientError] * 8
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("code", [TOPIC_FORBIDDEN, TOPIC_EXCEPTION])
def test_topic_that_stops_taking_events(cluster: MockCluster, make: MakeBackend, code: int) -> None:
    """A topic that was fine, and that a broker then refuses, is judged in the same way."""
    cluster.make_topic("other")
    backend = make(cluster.servers)
    assert backend.send_batch([*numbers(1), *numbers(1, config={"topic": "other"})]) == [None] * 2
    cluster.fail(code)
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
    backend.send(make_message(config={"topic": "other"}))
    cluster.fail(code)
    others = numbers(2, "a", config={"topic": "other"})
    kind = TransientError if code == TOPIC_FORBIDDEN else Rejected
    assert kinds(backend.send_batch(others)) == [kind, Held]
    assert backend.send_batch([*numbers(1), *others]) == [None] * 3


# --- The brokers are to blame ------------------------------------------------------------------


@pytest.mark.shows(Fault.FULL)
@pytest.mark.parametrize("code", [NOT_ENOUGH_REPLICAS, STORAGE_ERROR])
def test_full_or_degraded_brokers_are_waited_for(
    cluster: MockCluster, make: MakeBackend, code: int
) -> None:
    """A disk or replica that comes back in time costs nothing, and nothing is stored twice."""
    messages = numbers(10, "a")
    cluster.fail(code, code)
    assert make(cluster.servers).send_batch(messages) == [None] * 10
    assert ids(records(cluster.servers, "events")) == ids(messages)


def test_producer_that_has_come_out_of_step_is_replaced(
    cluster: MockCluster, make: MakeBackend
) -> None:
    """An error after which librdkafka takes nothing more costs no event and no restart."""
    messages = numbers(10, "a")
    backend = make(cluster.servers)
    assert backend.send_batch(messages[:5]) == [None] * 5
    cluster.fail(OUT_OF_ORDER)
    assert kinds(backend.send_batch(messages[5:])) == [BackendUnavailable] * 5
    assert backend.send_batch(messages[5:]) == [None] * 5
    assert ids(records(cluster.servers, "events")) == ids(messages)


@pytest.mark.chaos
@pytest.mark.parametrize(("direction", "after"), [("request", 5000), ("reply", 10)])
def test_what_librdkafka_sends_again_is_stored_once(
    proxied: tuple[str, TcpProxy], make: MakeBackend, direction: str, after: int
) -> None:
    """Where the connection is cut once, librdkafka connects again, and nothing is doubled."""
    servers, proxy = proxied
    topic = make_topic(servers)
    backend = make(servers, topic=topic)
    messages = numbers(100, "a")
    assert backend.send_batch(messages[:50]) == [None] * 50
    setattr(proxy, f"cut_{direction}_after", after)
    with _restored(proxy):
        assert backend.send_batch(messages[50:]) == [None] * 50
    assert ids(records(servers, topic)) == ids(messages)


class _restored:  # noqa: N801  # reads as a word in a with statement
    """Let connections through again once the proxy has cut the one that it was told to cut."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self._thread = threading.Thread(target=self._restore)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(20)

    def _restore(self) -> None:
        wait_until(self._has_cut, 20, "the connection is cut")
        self._proxy.cut_request_after = self._proxy.cut_reply_after = None

    def _has_cut(self) -> bool:
        return 0 in (self._proxy.cut_request_after, self._proxy.cut_reply_after)


@pytest.mark.chaos
def test_wave_that_fails_stops_those_behind_it(server: KafkaServer, make: MakeBackend) -> None:
    """Nothing of a batch is sent after a wave that was not acknowledged."""
    topic = make_topic(server.servers)
    backend = make(server.servers, topic=topic, config={"batch.num.messages": 10})
    messages = numbers(50, "a")
    connection = backend.connection()
    send, sent = connection.send, []

    def stop_at_the_third(wave: Any) -> Any:
        sent.append(len(wave))
        if len(sent) == 3:
            connection.timeout = 0.3
            server.stop()
        return send(wave)

    connection.send = stop_at_the_third  # type: ignore[method-assign]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None] * 20 + [BackendUnavailable] * 30
    assert sent == [10, 10, 10]
    server.resume()
    assert set(ids(records(server.servers, topic))) <= set(ids(messages[:30]))


@pytest.mark.chaos
def test_interrupted_batch_leaves_nothing_behind(
    server: KafkaServer, make: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the middle of a batch ends its producer: nothing of it is sent later."""
    topic = make_topic(server.servers)
    backend = make(server.servers, topic=topic)
    messages = numbers(10, "a")
    backend.open()
    server.stop()

    class Interrupting:
        def __init__(self, producer: Any) -> None:
            self.producer = producer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.producer, name)

        def flush(self, timeout: float) -> int:
            self.producer.flush(0.1)
            raise KeyboardInterrupt

    connection = backend.connection()
    connection.producer = Interrupting(connection.producer)
    with pytest.raises(KeyboardInterrupt):
        backend.send_batch(messages)
    assert backend._connection is None
    server.resume()
    assert backend.send_batch(messages) == [None] * 10
    assert list(dict.fromkeys(ids(records(server.servers, topic)))) == ids(messages)
