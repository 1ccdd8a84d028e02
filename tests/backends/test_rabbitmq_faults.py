"""What goes wrong with RabbitMQ, on a node of our own: each fault is of the right kind of error."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from django_broadcaster.backends import MessageBackend, RabbitMQBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import assert_first_times, kinds, numbers
from tests.support.rabbitmq_server import (
    RabbitMQServer,
    channel,
    full_queue,
    rabbitmq_server,
    remove,
    take,
    tls_config,
)
from tests.support.redis_server import free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

WAIT = 20.0  # seconds, at the most
LARGEST = 100_000  # bytes of one message that the node takes

MakeBackend = Callable[..., RabbitMQBackend]


@pytest.fixture(scope="module")
def tls_port() -> int:
    """The port where the node speaks TLS, and wants a client's certificate."""
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path, tls_port: int
) -> Iterator[RabbitMQServer]:
    """The node that all of these tests share, one after the other: it takes seconds to start."""
    config = f"""
max_message_size = {LARGEST}
{tls_config(certificates, tls_port)}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq"), config) as running:
        with channel(running.url):
            pass
        yield running


@pytest.fixture
def name(server: RabbitMQServer) -> Iterator[str]:
    """A name for an exchange and a queue of one test."""
    name = f"test-{uuid4().hex}"
    yield name
    remove(server.url, name, f"{name}-2")


@pytest.fixture
def make(server: RabbitMQServer, name: str) -> Iterator[MakeBackend]:
    """Make backends for the exchange and the queue, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RabbitMQBackend:
            defaults = {"url": server.url, "exchange": name, "queue": name, "timeout": 5.0}
            backend = RabbitMQBackend(alias="default", **{**defaults, **options})
            made.callback(backend.close)
            return backend

        yield make


def ids(server: RabbitMQServer, queue: str) -> list[str]:
    """The event ids in a queue, which is empty then."""
    return [str(each.properties.message_id) for each in take(server.url, queue)]


# --- The contract ------------------------------------------------------------------------------


class TestFaults(BackendFaultContract):
    """Through a proxy, with an exchange and a queue for each test."""

    backend = RabbitMQBackend
    cases = {
        Fault.MISSING: ("exchange", "queue", "exchange deleted meanwhile"),
        Fault.CREDENTIALS: ("wrong password", "unknown user", "no such virtual host"),
        Fault.TLS: CASES,
    }
    timeout_options = {"timeout": 1.0, "connect_timeout": 1.0}

    @pytest.fixture(autouse=True)
    def _server(
        self, server: RabbitMQServer, name: str, tls_port: int, certificates: Path
    ) -> Iterator[None]:
        self.server, self.name = server, name
        self.tls_port, self.certificates = tls_port, certificates
        self.arrived: list[str] = []
        self.declare(name)
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def declare(self, exchange: str, queue: str = "") -> None:
        """Let the exchange lead to the test's queue, and make another one if it is given."""
        with channel(self.server.url) as setup:
            setup.exchange_declare(exchange, "topic", durable=True)
            setup.queue_declare(self.name, durable=True)
            setup.queue_bind(self.name, exchange, "#")
            if queue:
                setup.queue_declare(queue, durable=True)

    def make_backend(self, **options: Any) -> MessageBackend:
        names = {"exchange": self.name, "queue": self.name}
        url = f"amqp://127.0.0.1:{self.proxy.port}"
        return RabbitMQBackend(**{"url": url, "timeout": 5.0, **names, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.arrived += ids(self.server, self.name)
        return [{"id": each} for each in self.arrived]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        yield LARGEST

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"exchange": "no-such-exchange"}

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        # An exchange may have a name like what the server says of a topic that is not permitted.
        exchange = self.name if case == "queue" else f"topic-{self.name}"
        queue = f"{self.name}-2" if case == "queue" else ""
        backend = self.new_backend(declare=False, exchange=exchange, queue=queue or None)
        if case == "exchange deleted meanwhile":
            self.declare(exchange)
            backend.open()
            with channel(self.server.url) as other:
                other.exchange_delete(exchange)
        yield backend
        self.declare(exchange, queue)

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        login, place = {
            None: ("guest:guest", ""),
            "wrong password": (f"guest:{self.secret}", ""),
            "unknown user": (f"nobody:{self.secret}", ""),
            "no such virtual host": ("guest:guest", "/none"),
        }[case]
        yield self.new_backend(url=f"amqp://{login}@127.0.0.1:{self.server.port}{place}")

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        scheme = "amqp" if case == "no TLS" else "amqps"
        yield self.new_backend(
            url=f"{scheme}://{host_of(case)}:{self.tls_port}",
            **tls_options(self.certificates, case),
            **(self.timeout_options if case else {}),
        )

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        backend = self.new_backend(routing_key="all", **self.timeout_options)
        backend.open()
        with full_queue(self.server, self.name):
            yield backend


# --- The server refuses ------------------------------------------------------------------------


@pytest.mark.shows("order after a failure in a batch")
def test_refusal_in_the_middle_of_many_is_found(
    make: MakeBackend, server: RabbitMQServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing hints at the event to blame, the next try finds it; no key overtakes itself."""
    from django_broadcaster.backends.rabbitmq import sender

    monkeypatch.setattr(sender, "UNPROVEN_BYTES", 10 * LARGEST)
    backend = make()
    backend._experience.proven = 10 * LARGEST
    messages = numbers(50, "a") + numbers(50) + numbers(10, "b")
    messages.insert(55, make_message(data="x" * LARGEST, partition_key="b"))
    outcomes = backend.send_batch(messages)
    assert set(kinds(outcomes)) <= {None, BackendUnavailable}
    assert outcomes[55] is not None
    left = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is not None]
    again = backend.send_batch(left)
    assert set(kinds(again)) == {None, Rejected, Held}
    refused = [m for m, outcome in zip(left, again, strict=True) if outcome is not None]
    assert refused == [m for m in messages[55:] if m.partition_key == "b"]
    assert_first_times(ids(server, name), [m for m in messages if m not in refused])


def test_exchange_that_goes_away_is_declared_again(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """An exchange that is deleted under a backend's feet costs no event."""
    backend = make()
    assert backend.send_batch(numbers(1)) == [None]
    with channel(server.url) as other:
        other.exchange_delete(name)
    messages = numbers(20, "key")
    assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 20
    assert backend.send_batch(messages) == [None] * 20
    assert ids(server, name)[1:] == [message.event_id for message in messages]


def test_topology_of_another_kind_is_unavailable(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """An exchange that is there as another type stops everything, and the error names it."""
    with channel(server.url) as other:
        other.exchange_declare(name, "fanout", durable=True)
    outcomes = make().send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "PRECONDITION_FAILED - inequivalent arg 'type'" in str(outcomes[0])


@contextmanager
def reader(server: RabbitMQServer, writes: str) -> Iterator[dict[str, Any]]:
    """A user who may write to exchanges of that pattern; the value is its login, as options."""
    server.node.control("add_user", "reader", "secret")
    server.node.control("set_permissions", "reader", ".*", writes, ".*")
    try:
        yield {
            "url": f"amqp://127.0.0.1:{server.port}",
            "username": "reader",
            "password": "secret",
            "declare": False,
        }
    finally:
        server.node.control("delete_user", "reader")


# An exchange may be named as what the server says of a topic that is not permitted.
@pytest.mark.shows(Fault.CREDENTIALS)
@pytest.mark.parametrize("exchange", ["{name}", "topic-{name}"])
def test_exchange_without_permission_is_unavailable(
    make: MakeBackend, server: RabbitMQServer, name: str, exchange: str
) -> None:
    """Who may not write to the configured exchange loses no event."""
    exchange = exchange.format(name=name)
    make(exchange=exchange).open()
    with reader(server, "^$") as login:
        outcomes = make(exchange=exchange, **login).send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "ACCESS_REFUSED" in str(outcomes[0])
    assert "secret" not in str(outcomes[0])


@pytest.mark.shows(Fault.CREDENTIALS)
def test_topic_without_permission_stops_its_own_events_only(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A routing key that is not permitted costs its events a retry; its keys keep their order."""
    make().open()
    messages = [
        *numbers(20, "a", event_type="open.a"),
        make_message(event_type="closed.b", partition_key="a"),
        *numbers(5, "a", event_type="open.a"),
        *numbers(30, "b", event_type="open.a"),
    ]
    with reader(server, ".*") as login:
        server.node.control("set_topic_permissions", "reader", name, "^open", ".*")
        backend = make(**login)
        first = backend.send_batch(messages)
        assert set(kinds(first)) <= {None, BackendUnavailable}  # nothing hinted at the one to blame
        left = [m for m, outcome in zip(messages, first, strict=True) if outcome is not None]
        again = backend.send_batch(left)
    refused = {m.event_id: o for m, o in zip(left, again, strict=True) if o is not None}
    assert list(refused) == [message.event_id for message in messages[20:26]]
    assert kinds(list(refused.values())) == [TransientError] + [Held] * 5
    assert "access to topic 'closed.b'" in str(refused[messages[20].event_id])
    assert_first_times(ids(server, name), [m for m in messages if m.event_id not in refused])


# --- The server is full ------------------------------------------------------------------------


FULL = {"x-max-length": 3, "x-overflow": "reject-publish"}


@pytest.mark.shows(Fault.FULL)
def test_full_queue_holds_up_the_events_that_go_to_it_only(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """Where events go to several queues, those for a full one are retried, each key in order."""
    backend = make(queue_arguments=FULL, binding_key="full")
    with channel(server.url) as other:
        backend.open()
        other.queue_declare(f"{name}-2")
        other.queue_bind(f"{name}-2", name, "free")
    assert backend.send_batch(numbers(3, "first", event_type="full")) == [None] * 3
    messages = [
        *numbers(2, "a", event_type="full"),
        *numbers(1, "a", event_type="free"),
        *numbers(2, "b", event_type="free"),
    ]
    # The queue says that it is full a moment after it is.
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [TransientError, Held, Held, None, None]
    assert ids(server, f"{name}-2") == [message.event_id for message in messages[3:]]


@pytest.mark.shows("order after a failure in a batch")
def test_key_does_not_overtake_itself_while_a_full_queue_is_emptied(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A queue that is now full and now not refuses events here and there: keys stay in order."""
    backend = make(routing_key="all", queue_arguments=FULL)
    messages = [make_message(data=n, partition_key=f"key-{n % 10}") for n in range(200)]
    backend.open()
    stored: list[str] = []
    done = threading.Event()

    def consume() -> None:
        while not done.is_set():
            stored.extend(ids(server, name))

    consumer = threading.Thread(target=consume)
    consumer.start()
    left = messages
    refused = 0
    deadline = time.monotonic() + WAIT
    try:
        while left:
            outcomes = backend.send_batch(left)
            assert set(kinds(outcomes)) <= {None, BackendUnavailable}
            left = [m for m, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            refused += bool(left)
            assert time.monotonic() < deadline
    finally:
        done.set()
        consumer.join()
    stored += ids(server, name)
    assert refused
    assert len(stored) == 200
    assert_first_times(stored, messages)


@pytest.mark.shows(Fault.FULL)
def test_alarm_is_unavailable_within_the_timeout(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A server that is short of memory costs no event, and keeps only one batch in its buffers."""
    backend = make(timeout=1.0)
    first, messages = numbers(1), numbers(20, "key")
    assert backend.send_batch(first) == [None]
    with server.alarmed():
        for _ in range(3):
            started = time.monotonic()
            outcomes = backend.send_batch(messages)
            assert kinds(outcomes) == [BackendUnavailable] * 20
            assert "alarm" in str(outcomes[0])
            assert time.monotonic() - started < 5
        assert backend.health_check() is False
    wait_until(lambda: backend.send_batch(numbers(1)) == [None], WAIT, "the alarm is over")
    assert backend.send_batch(messages) == [None] * 20
    stored = ids(server, name)
    assert stored.count(messages[0].event_id) == 2
    assert_first_times(
        [each for each in stored if each in {m.event_id for m in messages}], messages
    )


def test_idle_connection_that_the_server_closed_costs_nothing(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A relay that idled past its heartbeat, or was disconnected, delivers with its next batch."""
    backend = make(heartbeat=1)
    idle = make()
    for each in (backend, idle):
        assert each.send_batch(numbers(1)) == [None]
    connection = backend._connection
    assert connection is not None
    wait_until(
        partial(_is_hung_up, connection.connection.sock), WAIT, "the server misses the heartbeat"
    )
    server.node.control("close_all_connections", "a test")
    for each in (backend, idle):
        assert each.send_batch(numbers(3)) == [None] * 3
    assert len(ids(server, name)) == 8


def _is_hung_up(connected: socket.socket) -> bool:
    """Whether the other side has disconnected, whatever there is still to be read."""
    poll = select.poll()
    poll.register(connected, select.POLLRDHUP)
    return bool(poll.poll(0))


# --- TLS ---------------------------------------------------------------------------------------


def test_tls_without_verification(make: MakeBackend, tls_port: int, certificates: Path) -> None:
    """`verify` of False lets any server pass, whatever its name."""
    tls = {
        "verify": False,
        "cert_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
    }
    backend = make(url=f"amqps://localhost:{tls_port}", tls=tls)
    assert backend.send_batch(numbers(2)) == [None] * 2
