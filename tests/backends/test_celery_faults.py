"""What goes wrong with a Celery app's broker, on servers of our own: Redis and RabbitMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from ssl import CERT_REQUIRED
from typing import Any
from uuid import uuid4

import pytest

from django_broadcaster.backends import CeleryBackend, Message
from django_broadcaster.backends.amqp import has_news
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import make_message
from tests.support import celery_app
from tests.support.batches import assert_first_times, kinds, left_of, numbers
from tests.support.celery_queue import event_ids, take
from tests.support.rabbitmq_server import RabbitMQServer, channel, rabbitmq_server, tls_config
from tests.support.redis_server import RedisServer, free_port, redis_server
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

APP = "tests.support.celery_app.app"
LARGEST = 100_000  # bytes of one message that the RabbitMQ node takes
WAIT = 20.0  # seconds, at the most

MakeBackend = Callable[..., CeleryBackend]


@pytest.fixture(scope="module")
def tls_port() -> int:
    """The port where the RabbitMQ node speaks TLS."""
    return free_port()


@pytest.fixture(scope="module")
def rabbit(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path, tls_port: int
) -> Iterator[RabbitMQServer]:
    """The node that all of these tests share, one after the other: it takes seconds to start."""
    config = f"""
max_message_size = {LARGEST}
{tls_config(certificates, tls_port)}
"""
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq"), config) as running:
        yield running


@pytest.fixture(scope="module")
def redis_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that writes each command to disk before it answers."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path_factory.mktemp("redis"), *durable) as running:
        yield running


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> RedisServer | RabbitMQServer:
    """Each of the two."""
    name = {"redis": "redis_node", "rabbitmq": "rabbit"}[request.param]
    found: RedisServer | RabbitMQServer = request.getfixturevalue(name)
    return found


@pytest.fixture
def queue() -> str:
    """The name of a queue of one test."""
    return f"celery-{uuid4().hex}"


@pytest.fixture
def make(queue: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBackend]:
    """Make backends for an app with that broker, which are closed at the end."""
    with ExitStack() as made:

        def make(url: str, app: Mapping[str, Any] | None = None, **options: Any) -> CeleryBackend:
            new = celery_app.make_app(url, queue, **(app or {}))
            monkeypatch.setattr(celery_app, "app", new)
            defaults = {"app": APP, "task": "any", "timeout": 5.0}
            backend = CeleryBackend(alias="default", **{**defaults, **options})
            made.callback(backend.close)
            return backend

        yield make


@contextmanager
def hanging(server: RedisServer | RabbitMQServer) -> Iterator[None]:
    """Let the server accept connections and answer nothing."""
    if isinstance(server, RabbitMQServer):
        with server.hanging():
            yield
        return
    server.stop()
    try:
        yield
    finally:
        server.resume()


# --- On both -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_connection_cut_in_the_middle_of_a_batch(
    make: MakeBackend, server: RedisServer | RabbitMQServer, queue: str, part: float
) -> None:
    """What was acknowledged is there, the rest is unavailable, and a second try keeps the order."""
    messages = [make_message(data=n, partition_key=f"key-{n % 5}") for n in range(100)]
    scheme = server.url.partition(":")[0]
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(f"{scheme}://127.0.0.1:{proxy.port}")
        assert backend.send_batch(numbers(1)) == [None]
        proxy.cut_request_after = int(part * 100 * 900)
        outcomes = backend.send_batch(messages)
        proxy.cut_request_after = None
        assert set(kinds(outcomes)) == {None, BackendUnavailable}
        acknowledged = {m.event_id for m, o in zip(messages, outcomes, strict=True) if o is None}
        stored = event_ids(take(server.url, queue))[1:]
        assert acknowledged <= set(stored)
        left = left_of(messages, outcomes)
        assert backend.send_batch(left) == [None] * len(left)
    assert_first_times(stored + event_ids(take(server.url, queue)), messages)


def test_slow_server_is_unavailable_after_the_timeout(
    make: MakeBackend, server: RedisServer | RabbitMQServer, queue: str
) -> None:
    """The timeout ends the wait, and a late answer is not taken for the next call's."""
    backend = make(server.url, timeout=0.5, connect_timeout=0.5)
    assert backend.send_batch(numbers(1)) == [None]
    with hanging(server):
        started = time.monotonic()
        for _ in range(2):
            assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
        assert backend.health_check() is False
        backend.close()
        assert time.monotonic() - started < 8
    messages = numbers(5, "key")
    left = messages
    while left:  # it may need a moment
        left = left_of(left, backend.send_batch(left))
        assert time.monotonic() - started < WAIT
    sent = {message.event_id for message in messages}
    stored = [each for each in event_ids(take(server.url, queue)) if each in sent]
    assert_first_times(stored, messages)


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(
    make: MakeBackend, server: RedisServer | RabbitMQServer, queue: str
) -> None:
    """SIGKILL and start: all acknowledged events are there, each key in order."""
    backend = make(server.url, timeout=5.0)
    messages: list[Message] = []
    backend.open()
    killer = threading.Thread(target=_kill_and_start, args=(server, messages))
    killer.start()
    while killer.is_alive() or len(messages) < 500:
        batch = [make_message(data=n, partition_key=f"key-{n % 5}") for n in range(50)]
        _insist(backend, batch)
        messages += batch
    killer.join()
    assert_first_times(event_ids(take(server.url, queue)), messages)


def _kill_and_start(server: RedisServer | RabbitMQServer, sent: list[Message]) -> None:
    wait_until(lambda: len(sent) >= 100, WAIT, "the server is under load")
    server.kill()
    server.start()


def _insist(backend: CeleryBackend, batch: list[Message]) -> None:
    """Publish until all is acknowledged, as a relay does; only the server may fail."""
    deadline = time.monotonic() + 60
    while batch:
        outcomes = backend.send_batch(batch)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        batch = left_of(batch, outcomes)
        assert time.monotonic() < deadline


def test_wrong_login_is_unavailable(
    make: MakeBackend, server: RedisServer | RabbitMQServer
) -> None:
    """Credentials that are wrong cost no event, and are in no error."""
    scheme = server.url.partition(":")[0]
    backend = make(f"{scheme}://nobody:secret@127.0.0.1:{server.port}")
    outcomes = backend.send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert backend.health_check() is False
    assert "secret" not in f"{outcomes[0]}{outcomes[0].__cause__}"  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", ["config", "none"])
def test_queue_that_is_not_configured(
    make: MakeBackend, server: RedisServer | RabbitMQServer, queue: str, choice: str
) -> None:
    """Where the app makes no queues, one that is missing stops its event, or all if all want it."""
    backend = make(
        server.url,
        {"task_create_missing_queues": False},
        queue=None if choice == "config" else "missing",
    )
    config = {"queue": "missing"} if choice == "config" else {}
    messages = [*numbers(1, "a", config=config), *numbers(1, "a"), *numbers(1, "b")]
    expected = {
        "config": [TransientError, Held, None],
        "none": [BackendUnavailable] * 3,
    }
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == expected[choice]
    assert "missing" in str(outcomes[0])


# --- RabbitMQ ----------------------------------------------------------------------------------


def test_message_over_the_servers_limit_is_rejected_alone(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A server that takes less than `max_message_bytes` gets all other events."""
    messages = [
        *numbers(2, "a"),
        make_message(data="x" * LARGEST, partition_key="a"),
        *numbers(1, "a"),
        *numbers(2, "b"),
    ]
    outcomes = make(rabbit.url).send_batch(messages)
    assert kinds(outcomes) == [None, None, Rejected, Held, None, None]
    assert "larger than configured max size" in str(outcomes[2])
    stored = [messages[index].event_id for index in (0, 1, 4, 5)]
    assert event_ids(take(rabbit.url, queue)) == stored


def test_queue_that_goes_away_is_declared_again(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A queue that is deleted under a backend's feet swallows no event: it is made anew."""
    backend = make(rabbit.url)
    assert backend.send_batch(numbers(1)) == [None]
    with channel(rabbit.url) as other:
        other.queue_delete(queue)
    messages = numbers(5, "key")
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 5
    assert "no queue takes it" in str(outcomes[0])
    assert backend.send_batch(messages) == [None] * 5
    assert event_ids(take(rabbit.url, queue)) == [message.event_id for message in messages]


def test_queue_of_another_kind_is_unavailable(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A queue that is there with other arguments stops everything, and the error names it."""
    with channel(rabbit.url) as other:
        other.queue_declare(queue, durable=False)
    outcomes = make(rabbit.url).send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "inequivalent arg 'durable'" in str(outcomes[0])


@pytest.mark.parametrize("whose", ["everybody's", "the event's", "the route's"])
def test_full_queue(make: MakeBackend, rabbit: RabbitMQServer, queue: str, whose: str) -> None:
    """A full queue makes all wait where all go there, else the events that chose it."""
    from kombu import Queue

    arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
    full = Queue(queue, durable=True, queue_arguments=arguments)
    routes = {"test.*": {"queue": queue}} if whose == "the route's" else None
    queues = {"task_queues": [full, Queue(f"{queue}-2")], "task_routes": routes}
    backend = make(rabbit.url, queues, task="{type}")
    config = {"queue": queue} if whose == "the event's" else {}
    messages = numbers(10, "key", config=config)
    outcomes = backend.send_batch(messages)
    stored = take(rabbit.url, queue)
    taken = len(stored)
    assert 3 <= taken < 10
    assert event_ids(stored) == [message.event_id for message in messages[:taken]]
    refused = [BackendUnavailable] * (10 - taken)
    if whose != "everybody's":
        refused = [TransientError] + [Held] * (9 - taken)
    assert kinds(outcomes) == [None] * taken + refused
    other = numbers(1, config={"queue": f"{queue}-2"})
    assert backend.send_batch([*messages[taken:][:3], *other]) == [None] * 4


def test_alarm_is_unavailable_within_the_timeout(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A server that is short of memory costs no event, and keeps one call in its buffers."""
    backend = make(rabbit.url, timeout=1.0)
    assert backend.send_batch(numbers(1)) == [None]
    messages = numbers(20, "key")
    with rabbit.alarmed():
        for _ in range(3):
            started = time.monotonic()
            outcomes = backend.send_batch(messages)
            assert kinds(outcomes) == [BackendUnavailable] * 20
            assert "alarm" in str(outcomes[0])
            assert time.monotonic() - started < 5
        assert backend.health_check() is False
    wait_until(lambda: backend.send_batch(numbers(1)) == [None], WAIT, "the alarm is over")
    assert backend.send_batch(messages) == [None] * 20
    stored = event_ids(take(rabbit.url, queue))
    assert stored.count(messages[0].event_id) == 2
    assert_first_times(
        [each for each in stored if each in {m.event_id for m in messages}], messages
    )


def test_idle_connection_that_the_server_closed_costs_nothing(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A relay that was disconnected while it idled delivers with its next batch."""
    backend = make(rabbit.url)
    assert backend.send_batch(numbers(1)) == [None]
    connection = backend._connection
    assert connection is not None
    rabbit.node.control("close_all_connections", "a test")
    wait_until(
        partial(has_news, connection._connection.connection), WAIT, "the server has said goodbye"
    )
    assert backend.send_batch(numbers(3)) == [None] * 3
    assert len(take(rabbit.url, queue)) == 4


@pytest.fixture(params=["redis", "rabbitmq"])
def tls_url(request: pytest.FixtureRequest, tmp_path: Path, certificates: Path) -> Iterator[str]:
    """Where a server of each of the two speaks TLS."""
    if request.param == "rabbitmq":
        request.getfixturevalue("rabbit")
        yield f"pyamqp://127.0.0.1:{request.getfixturevalue('tls_port')}"
        return
    port = free_port()
    files = [
        f"--tls-cert-file {certificates}/server.pem",
        f"--tls-key-file {certificates}/server.key",
    ]
    words = f"--tls-port {port} --tls-auth-clients no {' '.join(files)}".split()
    with redis_server(tmp_path, *words):
        yield f"redis://127.0.0.1:{port}"


@pytest.mark.parametrize("problem", ["none", "another CA", "another name", "no TLS"])
def test_tls_of_the_app(make: MakeBackend, tls_url: str, certificates: Path, problem: str) -> None:
    """The app's `broker_use_ssl` is obeyed; TLS that fails costs no event."""
    ca = certificates / ("other.pem" if problem == "another CA" else "ca.pem")
    ssl: Any = {"ca_certs": str(ca), "cert_reqs": CERT_REQUIRED}
    if tls_url.startswith("redis"):  # each in the words of its client
        ssl = {f"ssl_{name}": value for name, value in ssl.items()}
        ssl["ssl_check_hostname"] = True
        tls_url = (
            tls_url.replace("127.0.0.1", "localhost") if problem == "another name" else tls_url
        )
    else:
        ssl["server_hostname"] = "elsewhere" if problem == "another name" else "127.0.0.1"
    app = {"broker_use_ssl": False if problem == "no TLS" else ssl}
    backend = make(tls_url, app, timeout=2, connect_timeout=2)
    works = problem == "none"
    expected = [None] * 2 if works else [BackendUnavailable] * 2
    assert kinds(backend.send_batch(numbers(2))) == expected
    assert backend.health_check() is works


# --- Redis -------------------------------------------------------------------------------------


def test_full_redis_is_unavailable(make: MakeBackend, tmp_path: Path, queue: str) -> None:
    """A Redis without memory left takes nothing more, and goes on where it stopped."""
    with redis_server(tmp_path) as full:
        backend = make(full.url)
        messages = numbers(5, "key")
        assert backend.send_batch(messages[:2]) == [None] * 2
        full.command("CONFIG", "SET", "maxmemory", "1")
        outcomes = backend.send_batch(messages[2:])
        assert kinds(outcomes) == [BackendUnavailable] * 3
        full.command("CONFIG", "SET", "maxmemory", "0")
        assert backend.send_batch(messages[2:]) == [None] * 3
        assert event_ids(take(full.url, queue)) == [message.event_id for message in messages]


@pytest.mark.parametrize("whose", ["everybody's", "the event's"])
def test_queue_that_is_no_list(
    make: MakeBackend, redis_node: RedisServer, queue: str, whose: str
) -> None:
    """A key of Redis that is something else stops all who go there, and nobody else."""
    redis_node.command("SET", f"{queue}-2", "something else")
    config = {"queue": f"{queue}-2"}
    if whose == "everybody's":
        outcomes = make(redis_node.url, **config).send_batch(numbers(2))
        assert kinds(outcomes) == [BackendUnavailable] * 2
    else:
        messages = [*numbers(2, "a", config=config), *numbers(1, "b")]
        outcomes = make(redis_node.url).send_batch(messages)
        assert kinds(outcomes) == [TransientError, Held, None]
    assert "WRONGTYPE" in str(outcomes[0])


def test_second_address_of_the_app_is_tried(
    make: MakeBackend, redis_node: RedisServer, queue: str
) -> None:
    """Where the app names several brokers, one that is away is passed over without a pause."""
    started = time.monotonic()
    backend = make(f"redis://127.0.0.1:{free_port()}/0;{redis_node.url}")
    assert backend.send_batch(numbers(2)) == [None] * 2
    assert time.monotonic() - started < 3
    assert len(take(redis_node.url, queue)) == 2


def test_client_without_confirmations_is_refused(
    make: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AMQP client of kombu that can't wait for confirmations is an error of the settings."""
    from kombu.transport import pyamqp

    monkeypatch.setattr(pyamqp.Transport, "driver_name", "librabbitmq")
    with pytest.raises(BackendConfigurationError, match="pyamqp://"):
        make("pyamqp://127.0.0.1").open()
