"""What goes wrong with a Celery app's broker, on servers of our own: Redis and RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from ssl import CERT_REQUIRED
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from django_broadcaster.backends import CeleryBackend, MessageBackend
from django_broadcaster.backends.amqp import has_news
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault
from tests.support import celery_app
from tests.support.batches import assert_first_times, kinds, numbers
from tests.support.celery_queue import event_ids, remove, take
from tests.support.rabbitmq_server import (
    RabbitMQServer,
    channel,
    full_queue,
    rabbitmq_server,
    tls_config,
)
from tests.support.redis_server import RedisServer, free_port, redis_server, tls_arguments
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


# --- The contract ------------------------------------------------------------------------------


class TestOnRedisFaults(BackendFaultContract):
    """An app whose broker is Redis, through a proxy."""

    backend = CeleryBackend
    node: ClassVar[str] = "redis_node"
    excluded: ClassVar[Mapping[Fault, str]] = {
        Fault.TOO_LARGE: "Redis has no limit that concerns one task alone",
        Fault.MISSING: "a queue is made by its first task",
    }
    cases: ClassVar[Mapping[Fault, Sequence[str]]] = {
        Fault.CREDENTIALS: ("unknown user",),
        Fault.TLS: ("another CA", "another name", "no TLS"),
    }
    timeout_options = {"timeout": 1.0, "connect_timeout": 1.0}

    @pytest.fixture(autouse=True)
    def _server(
        self, queue: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> Iterator[None]:
        self.queue, self.monkeypatch, self.request = queue, monkeypatch, request
        self.server = request.getfixturevalue(self.node)
        self.scheme = self.server.url.partition(":")[0]
        self.arrived: list[str] = []
        self.declare()
        with TcpProxy("127.0.0.1", self.server.port) as self.proxy:
            yield
        remove(self.server.url, queue)

    def declare(self) -> None:
        """On Redis a queue is there without being made."""

    def make_backend(
        self, *, url: str = "", app: Mapping[str, Any] | None = None, **options: Any
    ) -> MessageBackend:
        url = url or f"{self.scheme}://127.0.0.1:{self.proxy.port}"
        settings = {"task_create_missing_queues": False, **(app or {})}
        made = celery_app.make_app(url, self.queue, **settings)
        self.monkeypatch.setattr(celery_app, "app", made)
        return CeleryBackend(**{"app": APP, "task": "any", "timeout": 5.0, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.arrived += event_ids(take(self.server.url, self.queue))
        return [{"id": each} for each in self.arrived]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"queue": "missing"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        login = "" if case is None else f"nobody:{self.secret}@"
        yield self.new_backend(url=f"{self.scheme}://{login}127.0.0.1:{self.server.port}")

    def tls_options(self, ca: Path, name: str) -> tuple[str, dict[str, Any]]:
        """Start a server that speaks TLS; return its address by that name, and the app's TLS."""
        port = free_port()
        words = tls_arguments(self.request.getfixturevalue("certificates"))
        folder = self.request.getfixturevalue("tmp_path")
        server = redis_server(folder, "--tls-port", str(port), "--tls-auth-clients", "no", *words)
        self.servers.enter_context(server)
        options = {"ssl_ca_certs": str(ca), "ssl_cert_reqs": CERT_REQUIRED}
        return f"redis://{name}:{port}", {**options, "ssl_check_hostname": True}

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        files: Path = self.request.getfixturevalue("certificates")
        name = "localhost" if case == "another name" else "127.0.0.1"
        with ExitStack() as self.servers:
            ca = files / ("other.pem" if case == "another CA" else "ca.pem")
            url, ssl = self.tls_options(ca, name)
            app = {"broker_use_ssl": False if case == "no TLS" else ssl}
            yield self.new_backend(url=url, app=app, timeout=2.0, connect_timeout=2.0)

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        used = self.server.command("INFO", "memory")["used_memory"]
        self.server.command("CONFIG", "SET", "maxmemory", used + 200_000)
        yield self.new_backend()
        self.server.command("CONFIG", "SET", "maxmemory", 0)


class TestOnRabbitMQFaults(TestOnRedisFaults):
    """The same on RabbitMQ, with every call confirmed."""

    node = "rabbit"
    excluded = {}
    cases = {**TestOnRedisFaults.cases, Fault.MISSING: ("queue deleted meanwhile",)}

    def declare(self) -> None:
        with channel(self.server.url) as setup:
            setup.queue_declare(self.queue, durable=True)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        yield LARGEST

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        backend = self.new_backend()
        backend.open()
        with channel(self.server.url) as other:
            other.queue_delete(self.queue)
        yield backend  # which declares it again with its next connection

    def tls_options(self, ca: Path, name: str) -> tuple[str, dict[str, Any]]:
        port = self.request.getfixturevalue("tls_port")
        # py-amqp checks the name that it is given here.
        name = "elsewhere" if name == "localhost" else name
        options = {"ca_certs": str(ca), "cert_reqs": CERT_REQUIRED, "server_hostname": name}
        return f"pyamqp://127.0.0.1:{port}", options

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        with full_queue(self.server, self.queue):
            yield self.new_backend()


# --- On both -----------------------------------------------------------------------------------


@pytest.mark.shows(Fault.MISSING)
def test_queue_that_is_not_configured(
    make: MakeBackend, server: RedisServer | RabbitMQServer
) -> None:
    """Where the app makes no queues, everything waits for one that is missing."""
    backend = make(server.url, {"task_create_missing_queues": False}, queue="missing")
    outcomes = backend.send_batch(numbers(3, "a"))
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert "missing" in str(outcomes[0])


# --- RabbitMQ ----------------------------------------------------------------------------------


def test_queue_of_another_kind_is_unavailable(
    make: MakeBackend, rabbit: RabbitMQServer, queue: str
) -> None:
    """A queue that is there with other arguments stops everything, and the error names it."""
    with channel(rabbit.url) as other:
        other.queue_declare(queue, durable=False)
    outcomes = make(rabbit.url).send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2
    assert "inequivalent arg 'durable'" in str(outcomes[0])


@pytest.mark.shows(Fault.FULL)
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


@pytest.mark.shows(Fault.FULL)
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


# --- Redis -------------------------------------------------------------------------------------


@pytest.mark.shows(Fault.MISSING)
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
