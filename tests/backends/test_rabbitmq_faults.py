"""What goes wrong with RabbitMQ, on a node of our own: each fault is of the right kind of error."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from django_broadcaster.backends import Message, RabbitMQBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import make_message
from tests.support.batches import assert_first_times, kinds, left_of, numbers
from tests.support.rabbitmq_server import (
    RabbitMQServer,
    channel,
    depth,
    rabbitmq_server,
    remove,
    take,
    tls_config,
)
from tests.support.redis_server import free_port
from tests.support.tcp_proxy import TcpProxy
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


# --- The server refuses ------------------------------------------------------------------------


def test_message_over_the_servers_limit_is_rejected_alone(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A server that takes less than `max_message_bytes` gets all other events, and those once."""
    messages = [
        *numbers(2, "a"),
        make_message(data="x" * LARGEST, partition_key="a"),
        *numbers(1, "a"),
        make_message(data="x" * (LARGEST - 1000), partition_key="b"),
        make_message(data="x" * LARGEST, partition_key="b"),
        *numbers(2, "c"),
    ]
    outcomes = make().send_batch(messages)
    assert kinds(outcomes) == [None, None, Rejected, Held, None, Rejected, None, None]
    assert "larger than configured max size" in str(outcomes[2])
    stored = [messages[index].event_id for index in (0, 1, 4, 6, 7)]
    assert sorted(ids(server, name)) == sorted(stored)


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


@pytest.mark.parametrize("what", ["exchange", "queue"])
def test_missing_topology_is_unavailable(
    make: MakeBackend, server: RabbitMQServer, name: str, what: str
) -> None:
    """Without the configured exchange or queue everything waits, until it is there."""
    with channel(server.url) as other:
        other.exchange_declare(name, "topic", durable=True)
    backend = make(declare=False, **{"queue": None, what: f"{name}-2"})
    with pytest.raises(BackendUnavailable, match=f"NOT_FOUND - no {what} '{name}-2'"):
        backend.open()
    assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
    make(**{what: f"{name}-2"}).open()
    assert BackendUnavailable not in kinds(backend.send_batch(numbers(3)))


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


@pytest.mark.parametrize("exchange", ["{name}", "topic-{name}"])
def test_exchange_that_is_missing_is_unavailable(
    make: MakeBackend, server: RabbitMQServer, name: str, exchange: str
) -> None:
    """The first event that meets it is not to blame, and everything waits until it is there."""
    exchange = exchange.format(name=name)
    make(exchange=exchange).open()
    backend = make(exchange=exchange, declare=False)
    backend.open()
    with channel(server.url) as other:
        other.exchange_delete(exchange)
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
    make(exchange=exchange).open()
    assert backend.send_batch(numbers(2)) == [None] * 2


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


@pytest.mark.parametrize(
    "login",
    ["guest:secret@127.0.0.1:{port}", "nobody:secret@127.0.0.1:{port}", "127.0.0.1:{port}/none"],
    ids=["password", "user", "virtual host"],
)
def test_wrong_login_is_unavailable(make: MakeBackend, server: RabbitMQServer, login: str) -> None:
    """Credentials that are wrong cost no event, and are in no error."""
    backend = make(url="amqp://" + login.format(port=server.port))
    outcomes = backend.send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert backend.health_check() is False
    assert "secret" not in f"{outcomes[0]}{outcomes[0].__cause__}"  # type: ignore[union-attr]


# --- The server is full ------------------------------------------------------------------------


FULL = {"x-max-length": 3, "x-overflow": "reject-publish"}


def test_full_queue_is_unavailable(make: MakeBackend, server: RabbitMQServer, name: str) -> None:
    """Where all events go to one queue, they wait until it has room; what it took is known."""
    backend = make(routing_key="all", queue_arguments=FULL)
    messages = numbers(10, "key")
    outcomes = backend.send_batch(messages)
    stored = ids(server, name)
    assert kinds(outcomes) == [None] * len(stored) + [BackendUnavailable] * (10 - len(stored))
    assert 3 <= len(stored) < 10
    assert stored == [message.event_id for message in messages[: len(stored)]]
    assert backend.send_batch(messages[len(stored) :][:3]) == [None] * 3


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


# --- Cut off, slow, killed ---------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("key", ["", "key"])
def test_connection_cut_in_the_middle_of_a_batch(
    make: MakeBackend, server: RabbitMQServer, name: str, part: float, key: str
) -> None:
    """Nothing is acknowledged that is not there; sent again, all is, in order."""
    messages = numbers(100, key)
    size = sum(len(message.to_json()) + 150 for message in messages)
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(url=f"amqp://127.0.0.1:{proxy.port}")
        assert backend.send_batch(numbers(1)) == [None]
        proxy.cut_request_after = int(part * size)
        outcomes = backend.send_batch(messages)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        acknowledged = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is None]
        stored = ids(server, name)[1:]
        assert {message.event_id for message in acknowledged} <= set(stored)
        proxy.cut_request_after = None
        left = [m for m in messages if m not in acknowledged]
        assert backend.send_batch(left) == [None] * len(left)
        assert_first_times(stored + ids(server, name), messages)


# One confirmation has 21 bytes. It may be for all that is on its way, which is one event of a key.
@pytest.mark.parametrize(("received", "key"), [(0, ""), (5, ""), (30, "key")])
def test_connection_cut_before_the_confirmation(
    make: MakeBackend, server: RabbitMQServer, name: str, received: int, key: str
) -> None:
    """What was not confirmed in time is unavailable, may be there, and is sent again."""
    messages = numbers(100, key)
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(url=f"amqp://127.0.0.1:{proxy.port}")
        assert backend.send_batch(numbers(1)) == [None]
        proxy.cut_reply_after = received
        outcomes = backend.send_batch(messages)
        assert BackendUnavailable in kinds(outcomes)
        proxy.cut_reply_after = None
        left = left_of(messages, outcomes)
        assert backend.send_batch(left) == [None] * len(left)
    assert_first_times(ids(server, name)[1:], messages)


def test_slow_server_is_unavailable_after_the_timeout(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """The timeout ends the wait, and a late confirmation is not taken for the next batch's."""
    backend = make(timeout=0.5, connect_timeout=0.5)
    assert backend.send_batch(numbers(1)) == [None]
    with server.hanging():
        started = time.monotonic()
        for _ in range(2):
            assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
        assert backend.health_check() is False
        backend.close()
        assert time.monotonic() - started < 8
    messages = numbers(5, "key")
    left = messages
    while left:  # it may need a moment
        outcomes = backend.send_batch(left)
        left = [m for m, outcome in zip(left, outcomes, strict=True) if outcome is not None]
        assert time.monotonic() - started < WAIT
    sent = {message.event_id for message in messages}
    assert_first_times([each for each in ids(server, name) if each in sent], messages)


def test_interrupted_batch_leaves_no_answers_behind(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """A signal in the middle of a batch does not mix up its confirmations with the next one's."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    backend = make()
    assert backend.send_batch(numbers(1)) == [None]
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with server.hanging():
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted):
                backend.send_batch(numbers(3))
    finally:
        signal.signal(signal.SIGALRM, previous)
    lost = {"exchange": "", "routing_key": "no-such-queue"}
    outcomes = backend.send_batch([*numbers(1), *numbers(1, config=lost), *numbers(1)])
    assert kinds(outcomes) == [None, Rejected, None]


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


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(
    make: MakeBackend, server: RabbitMQServer, name: str
) -> None:
    """SIGKILL and start: all acknowledged events are there, each key in order."""
    backend = make(timeout=5.0)
    messages: list[Message] = []
    backend.open()
    killer = threading.Thread(target=_kill_and_start, args=(server, name))
    killer.start()
    while killer.is_alive() or len(messages) < 1000:
        batch = [make_message(data=n, partition_key=f"key-{n % 5}") for n in range(50)]
        _insist(backend, batch)
        messages += batch
    killer.join()
    assert_first_times(ids(server, name), messages)


def _kill_and_start(server: RabbitMQServer, name: str) -> None:
    wait_until(lambda: depth(server.url, name) >= 200, WAIT, "the server is under load")
    server.kill()
    server.start()


def _insist(backend: RabbitMQBackend, batch: list[Message]) -> None:
    """Publish until all is acknowledged, as a relay does; only the server may fail."""
    deadline = time.monotonic() + 60
    while batch:
        outcomes = backend.send_batch(batch)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        batch = [m for m, outcome in zip(batch, outcomes, strict=True) if outcome is not None]
        assert time.monotonic() < deadline


# --- TLS ---------------------------------------------------------------------------------------


def test_tls(make: MakeBackend, tls_port: int, certificates: Path) -> None:
    """With the CA and a certificate of its own the backend delivers over TLS, be it megabytes."""
    files = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
    tls = {option: str(certificates / file) for option, file in files.items()}
    backend = make(url=f"amqps://127.0.0.1:{tls_port}", tls=tls)
    assert backend.send_batch(numbers(3)) == [None] * 3
    many = [make_message(data="x" * 50_000) for _ in range(100)]
    assert backend.send_batch(many) == [None] * 100
    assert backend.health_check() is True


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("amqps://127.0.0.1", {"ca_file": "other.pem", "cert_file": "client.pem"}),
        ("amqps://127.0.0.1", {"ca_file": "missing.pem", "cert_file": "client.pem"}),
        ("amqps://127.0.0.1", {"cert_file": "client.pem"}),
        ("amqps://127.0.0.1", {"ca_file": "ca.pem"}),
        ("amqps://localhost", {"ca_file": "ca.pem", "cert_file": "client.pem"}),
        ("amqp://127.0.0.1", None),
    ],
    ids=["another CA", "no CA file", "the system's CAs", "no certificate", "another name", "none"],
)
def test_wrong_tls_is_unavailable(
    make: MakeBackend, tls_port: int, certificates: Path, url: str, options: dict[str, str] | None
) -> None:
    """TLS that fails costs no event, and is never replaced by a connection without it."""
    tls = options and {option: str(certificates / file) for option, file in options.items()}
    if tls and "cert_file" in tls:
        tls["key_file"] = str(certificates / "client.key")
    backend = make(url=f"{url}:{tls_port}", tls=tls, timeout=2, connect_timeout=2)
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
    assert backend.health_check() is False


def test_tls_without_verification(make: MakeBackend, tls_port: int, certificates: Path) -> None:
    """`verify` of False lets any server pass, whatever its name."""
    tls = {
        "verify": False,
        "cert_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
    }
    backend = make(url=f"amqps://localhost:{tls_port}", tls=tls)
    assert backend.send_batch(numbers(2)) == [None] * 2
