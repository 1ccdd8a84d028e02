"""What goes wrong with Kafka: on a real broker, and where that cannot be had, on a mock broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Message as KafkaRecord
from confluent_kafka.admin import AclOperation, AdminClient

from django_broadcaster.backends import KafkaBackend, Message, MessageBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import kinds, left_of, numbers
from tests.support.kafka_mock import mock_cluster
from tests.support.kafka_server import (
    READ_SECONDS,
    SASL,
    KafkaServer,
    add_partitions,
    add_user,
    changed,
    delete_topic,
    disposable,
    forbid,
    make_topic,
    proxied_kafka,
    records,
    tls_config,
)
from tests.support.kafka_waves import freeze_at, waves
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options
from tests.support.waiting import wait_until

MakeBackend = Callable[..., KafkaBackend]

PASSWORD = "s3cret"

SMALL_LIMIT = {"max.message.bytes": "5000"}
"""The configuration of a topic for small events."""


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(servers: str = "", **options: Any) -> KafkaBackend:
            where = {"bootstrap_servers": servers, **options}
            backend = KafkaBackend(alias="default", **where)
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker behind a proxy; its other ports are for users who log in, for TLS, and for both."""
    folder = tmp_path_factory.mktemp("kafka")
    config = SASL + tls_config(folder, certificates) + tls_config(folder, certificates, "SASL_SSL")
    with proxied_kafka(folder, config, ["SASL_PLAINTEXT", "SSL", "SASL_SSL"]) as pair:
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


def login(
    server: KafkaServer, password: str = PASSWORD, mechanism: str = "SCRAM-SHA-256"
) -> dict[str, Any]:
    """Return the options to log in as the user `app`."""
    add_user(server, "app", PASSWORD)
    return {
        "bootstrap_servers": f"127.0.0.1:{server.ports['SASL_PLAINTEXT']}",
        "username": "app",
        "password": password,
        "config": {"sasl.mechanisms": mechanism},
    }


NOT_CREATED = {"allow.auto.create.topics": False}
"""The `config` of a backend for whose topics the broker does not create any."""

MISSING = ("unknown topic", "topic not permitted")


@contextmanager
def missing_topic(server: KafkaServer, topic: str, case: str) -> Iterator[dict[str, Any]]:
    """Have no topic, or one that is forbidden, for the time of the block; give a backend's options.

    After the block, the topic is there.
    """
    if case == "unknown topic":
        yield {"bootstrap_servers": server.servers, "config": NOT_CREATED}
        make_topic(server.servers, name=topic)
    else:
        make_topic(server.servers, name=topic)
        with forbid(server, "app", topic):
            yield login(server)


# --- The contract ------------------------------------------------------------------------------


class TestFaults(BackendFaultContract):
    """Apache Kafka behind a proxy."""

    backend = KafkaBackend
    cases = {
        Fault.MISSING: MISSING,
        Fault.CREDENTIALS: ("wrong password", "unknown user", "another mechanism", "no login"),
        # A file that is missing is an error of the settings.
        Fault.TLS: tuple(case for case in CASES if case != "no CA file"),
        Fault.FULL: ("disk full",),
    }
    stopping = frozenset({Fault.FULL})

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
        config = {**NOT_CREATED, **options.pop("config", {})}
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
        self.topic = f"later-{uuid4()}"
        with missing_topic(self.server, self.topic, case) as options:
            yield self.new_backend(**options)

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"topic": "no-such-topic"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        options = {
            None: login(self.server),
            "wrong password": login(self.server, self.secret),
            "unknown user": {**login(self.server, self.secret), "username": "nobody"},
            "another mechanism": login(self.server, self.secret, "PLAIN"),
            "no login": {"bootstrap_servers": login(self.server)["bootstrap_servers"]},
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
        """Kafka ends when its disk is full, and starts again when there is room."""
        with self.server.disk_full(400_000):
            yield self.new_backend(timeout=1.0)


# --- Password and certificate together ----------------------------------------------------------


@pytest.mark.shows("SCRAM over TLS with certificates of clients")
@pytest.mark.parametrize("wrong", [None, "password", "certificate"])
def test_password_and_certificate(
    server: KafkaServer, make: MakeBackend, certificates: Path, wrong: str | None
) -> None:
    """A broker may want a password and a certificate; either of them wrong costs no event."""
    options = {
        **login(server, "hush-hush" if wrong == "password" else PASSWORD),
        **tls_options(certificates, "no certificate" if wrong == "certificate" else None),
        "bootstrap_servers": f"127.0.0.1:{server.ports['SASL_SSL']}",
    }
    topic, messages = make_topic(server.servers), numbers(3, "a")
    backend = make(topic=topic, timeout=1.5 if wrong else 10.0, **options)
    if wrong:
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == [BackendUnavailable] * 3
        assert "hush-hush" not in str(outcomes[0])
        assert backend.health_check() is False
    else:
        assert backend.send_batch(messages) == [None] * 3
        wait_until(backend.health_check, 30, "the backend is healthy")
        assert ids(records(server.servers, topic)) == ids(messages)


# --- One event is the cause --------------------------------------------------------------------


@pytest.mark.shows(Fault.TOO_LARGE)
@pytest.mark.parametrize(
    ("config", "refused"),
    [
        (SMALL_LIMIT, make_message(data="x" * 6000, partition_key="b")),
        ({"cleanup.policy": "compact"}, make_message(data="no key")),
    ],
    ids=["too large", "compacted topic"],
)
def test_cause_of_a_refused_batch_is_found(
    server: KafkaServer, make: MakeBackend, config: Mapping[str, str], refused: Message
) -> None:
    """A record batch that a broker refuses is sent again in halves, until one event is left."""
    topic = make_topic(server.servers, config=config)
    messages = [*numbers(2, "a"), refused, *numbers(1, "a")]
    backend = make(server.servers, topic=topic)
    sent = waves(backend)
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None, None, Rejected, None]
    # All four; the first half; the second half; its first event, and then its last one.
    assert sent == [4, 2, 2, 1, 1]
    assert ids(records(server.servers, topic)) == ids([*messages[:2], messages[3]])


def test_event_refused_for_another_reason_is_retried(make: MakeBackend) -> None:
    """A refusal that Kafka itself never gives, but a compatible broker may, costs one event."""
    policy_violation, ok = 44, 0
    with mock_cluster() as cluster:
        cluster.make_topic("events")
        cluster.fail(policy_violation, policy_violation, ok)
        outcomes = make(cluster.servers).send_batch(numbers(2))
    assert kinds(outcomes) == [TransientError, None]


@pytest.mark.shows("order after a failure in a batch")
def test_nothing_of_its_key_is_sent_after_the_cause(server: KafkaServer, make: MakeBackend) -> None:
    """Events after a refused one of their key are held, and others go on."""
    topic = make_topic(server.servers, config=SMALL_LIMIT)
    refused = make_message(data="x" * 6000, partition_key="a")
    messages = [refused, *numbers(1, "b"), *numbers(2, "a"), *numbers(1, "b")]
    outcomes = make(server.servers, topic=topic).send_batch(messages)
    assert kinds(outcomes) == [Rejected, None, Held, Held, None]
    assert ids(records(server.servers, topic)) == ids([messages[1], messages[4]])


@pytest.mark.shows("order after a failure in a batch")
def test_a_refused_partition_does_not_hold_up_the_others(
    server: KafkaServer, make: MakeBackend
) -> None:
    """What was refused is sent again, and what was stored meanwhile is acknowledged."""
    topic = make_topic(server.servers, 8, config=SMALL_LIMIT)
    keys = [f"key-{number % 16}" if number % 2 else "key-0" for number in range(64)]
    messages = [make_message(partition_key=key) for key in keys]
    backend = make(server.servers, topic=topic)
    sent = waves(backend)
    assert backend.send_batch(messages) == [None] * 64
    first, *again = sent
    assert first == 64
    assert again
    assert max(again) < 32
    found = records(server.servers, topic)
    assert sorted(ids(found)) == sorted(ids(messages))
    for key in set(keys):
        mine = [record for record in found if record.key() == key.encode()]
        assert ids(mine) == ids([each for each in messages if each.partition_key == key])


@pytest.mark.chaos
def test_outage_while_the_cause_is_looked_for(server: KafkaServer, make: MakeBackend) -> None:
    """What is left of a refused batch is not sent any more, and everything of it waits."""
    topic = make_topic(server.servers, config=SMALL_LIMIT)
    messages = [*numbers(3, "a"), make_message(data="x" * 6000, partition_key="b")]
    backend = make(server.servers, topic=topic)
    # All four are refused; the first half is stored; the second half gets no answer.
    sent = freeze_at(backend, server, 3)
    outcomes = backend.send_batch(messages)
    server.resume()
    assert kinds(outcomes) == [None, None, *[BackendUnavailable] * 2]
    assert "no answer within 0.3 s" in str(outcomes[2])
    assert sent == [4, 2, 2]
    assert ids(records(server.servers, topic)) == ids(messages[:2])


# --- A topic is the cause ----------------------------------------------------------------------


@pytest.mark.shows(Fault.MISSING)
@pytest.mark.parametrize("case", MISSING)
def test_the_topic_of_all_events_is_missing(
    server: KafkaServer, make: MakeBackend, case: str
) -> None:
    """If no event can be written to its topic, all wait, and the error names the topic."""
    topic, messages = f"later-{uuid4()}", numbers(2)
    with missing_topic(server, topic, case) as options:
        backend = make(topic=topic, **options)
        with pytest.raises(BackendUnavailable, match=f"'{topic}'"):
            backend.open()
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == [BackendUnavailable] * 2
        assert f"'{topic}'" in str(outcomes[0])
        wait_until(backend.health_check, 30, "the backend is healthy")
    deliver(backend, messages)
    assert ids(records(server.servers, topic)) == ids(messages)


def deliver(backend: KafkaBackend, messages: Sequence[Message]) -> None:
    """Send until everything is acknowledged, as a relay does."""
    waiting = list(messages)

    def is_delivered() -> bool:
        outcomes = backend.send_batch(waiting)
        assert {*kinds(outcomes)} <= {None, BackendUnavailable}
        waiting[:] = left_of(waiting, outcomes)
        return not waiting

    wait_until(is_delivered, 30, "everything is delivered")


@pytest.mark.shows(Fault.MISSING_FOR_ONE)
@pytest.mark.parametrize(
    ("case", "kind"), [*((case, TransientError) for case in MISSING), ("internal topic", Rejected)]
)
@pytest.mark.parametrize("is_template", [False, True])
def test_the_topic_of_one_event_is_missing(
    server: KafkaServer, make: MakeBackend, case: str, kind: type[DeliveryError], is_template: bool
) -> None:
    """A topic that only some events have fails them alone, and holds their keys."""
    topic, other = make_topic(server.servers), f"later-{uuid4()}"
    with ExitStack() as stack:
        if case == "internal topic":
            other = internal_topic(server)
            options: dict[str, Any] = {"bootstrap_servers": server.servers}
        else:
            options = stack.enter_context(missing_topic(server, other, case))
        lost = make_message(subject=other, partition_key="a", config={"topic": other})
        good = [make_message(subject=topic, partition_key=key) for key in "aab"]
        backend = make(topic="{subject}" if is_template else topic, **options)
        outcomes = backend.send_batch([good[0], lost, *good[1:]])
        assert kinds(outcomes) == [None, kind, Held, None]
        assert f"'{other}'" in str(outcomes[1])
    assert ids(records(server.servers, topic)) == ids([good[0], good[2]])


@disposable
def internal_topic(server: KafkaServer) -> str:
    """Return a topic of the broker's own, to which no client may write."""
    name = "__consumer_offsets"
    admin = AdminClient({"bootstrap.servers": server.servers})
    if name not in admin.list_topics(timeout=READ_SECONDS).topics:
        make_topic(server.servers, name=name)
    return name


def test_missing_topics_do_not_add_up(server: KafkaServer, make: MakeBackend) -> None:
    """A batch waits once for topics that may be just being made, not for each of them."""
    messages = [make_message(config={"topic": f"later-{uuid4()}"}) for _ in range(20)]
    backend = make(server.servers, config=NOT_CREATED)
    questions: list[str] = []

    class Counting(Replaced):
        def list_topics(self, name: str, timeout: float) -> Any:
            questions.append(name)
            return self.producer.list_topics(name, timeout=timeout)

    connection = backend.connection()
    connection.producer = Counting(connection.producer)
    assert kinds(backend.send_batch(messages)) == [TransientError] * 20
    assert questions.count(messages[0].config["topic"]) > 1
    assert len({*questions}) == 20
    assert len(questions) < 20 + 0.5 / 0.05 + 2  # the wait is half a second, with a pause of 0.05


class Replaced:
    """A producer of librdkafka's, of which a subclass replaces a method."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.producer, name)


@pytest.mark.shows("permission denied, then granted")
def test_topic_that_may_not_be_written_any_more(server: KafkaServer, make: MakeBackend) -> None:
    """A topic that was fine, and that a broker then refuses, is judged in the same way."""
    topic, other = make_topic(server.servers), make_topic(server.servers)
    backend = make(topic=topic, **login(server))
    messages = [*numbers(2), *numbers(2, "a", config={"topic": other})]
    assert backend.send_batch(messages) == [None] * 4
    with forbid(server, "app", topic, AclOperation.WRITE):
        wait_until(lambda: kinds(backend.send_batch(messages[:1])) != [None], 10, "a refusal")
        assert kinds(backend.send_batch(messages[:2])) == [BackendUnavailable] * 2
    deliver(backend, messages)
    with forbid(server, "app", other, AclOperation.WRITE):
        wait_until(lambda: kinds(backend.send_batch(messages[2:3])) != [None], 10, "a refusal")
        assert kinds(backend.send_batch(messages)) == [None, None, TransientError, Held]
    wait_until(lambda: kinds(backend.send_batch(messages)) == [None] * 4, 30, "permission")


@pytest.mark.shows("topic deleted and made again")
def test_topic_deleted_and_made_again(server: KafkaServer, make: MakeBackend) -> None:
    """Without the topic all events wait; with a new one of its name, they are delivered."""
    topic = make_topic(server.servers)
    backend = make(server.servers, topic=topic, timeout=0.5, config=NOT_CREATED)
    backend.send_batch(numbers(5, "a"))
    delete_topic(server.servers, topic)
    messages = numbers(5, "a")
    for _ in range(2):  # the producer knows the topic still, and a new one does not
        assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 5
    make_topic(server.servers, 3, name=topic)
    deliver(backend, messages)
    assert ids(records(server.servers, topic)) == ids(messages)
    # Deleted and made again, without a batch meanwhile.
    delete_topic(server.servers, topic)
    make_topic(server.servers, name=topic)
    messages = numbers(5, "a")
    deliver(backend, messages)
    assert list(dict.fromkeys(ids(records(server.servers, topic)))) == ids(messages)


@pytest.mark.shows("partitions added")
def test_partitions_added(server: KafkaServer, make: MakeBackend) -> None:
    """A producer that does not know of new partitions loses nothing, and a new one uses them."""
    topic, keys = make_topic(server.servers), [f"key-{number}" for number in range(20)]
    messages = [make_message(partition_key=key) for _ in range(3) for key in keys]
    former = make(server.servers, topic=topic)
    assert former.send_batch(messages[:20]) == [None] * 20
    add_partitions(server.servers, topic, 4)
    assert former.send_batch(messages[20:40]) == [None] * 20
    assert make(server.servers, topic=topic).send_batch(messages[40:]) == [None] * 20
    found = records(server.servers, topic)
    assert sorted(ids(found)) == sorted(ids(messages))
    assert {record.partition() for record in found} == {0, 1, 2, 3}
    for partition in range(4):
        mine = ids([record for record in found if record.partition() == partition])
        assert mine == [each for each in ids(messages) if each in {*mine}]


# --- The brokers are the cause -----------------------------------------------------------------


def test_producer_that_has_come_out_of_step_is_replaced(make: MakeBackend) -> None:
    """An error after which librdkafka takes nothing more costs no event and no restart."""
    out_of_order, messages = 45, numbers(10, "a")
    with mock_cluster() as cluster:
        cluster.make_topic("events")
        backend = make(cluster.servers)
        assert backend.send_batch(messages[:5]) == [None] * 5
        cluster.fail(out_of_order)
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
    sent = freeze_at(backend, server, 3)
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

    class Interrupting(Replaced):
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
