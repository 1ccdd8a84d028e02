"""The Celery backend on shared brokers: what it calls, with what, and that a worker runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from cloudevents.core.formats.json import JSONFormat
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import CeleryBackend, MessageBackend
from django_broadcaster.backends.celery import task_id
from django_broadcaster.backends.names import escape_words
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    InvalidPublisherConfig,
    Rejected,
)
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.testing import BackendContract, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support import celery_app, rabbitmq_server, redis_server
from tests.support.batches import kinds
from tests.support.celery_queue import Sent, event_ids, remove, take
from tests.support.conformance import assert_same_event
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

APP = "tests.support.celery_app.app"
ROOT = Path(__file__).resolve().parent.parent.parent
BROKERS: Mapping[str, Callable[[], str]] = {
    "redis": redis_server.shared_url,
    "rabbitmq": rabbitmq_server.shared_url,
}

MakeBackend = Callable[..., CeleryBackend]


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of each shared broker."""
    return BROKERS[request.param]()


@pytest.fixture
def queue(broker: str) -> Iterator[str]:
    """The name of a queue that nobody else uses on the broker."""
    name = f"celery-{uuid4().hex}"
    yield name
    remove(broker, name, f"{name}-2")


@pytest.fixture
def make(broker: str, queue: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBackend]:
    """Make backends for an app with that broker and queue; `app` are settings of the app."""
    with ExitStack() as made:

        def make(app: Mapping[str, Any] | None = None, **options: Any) -> CeleryBackend:
            new = celery_app.make_app(broker, queue, **(app or {}))
            monkeypatch.setattr(celery_app, "app", new)
            backend = CeleryBackend(**{"alias": "default", "app": APP, **options})
            made.callback(backend.close)
            return backend

        yield make


# --- The contract ------------------------------------------------------------------------------


class TestOnRedis(BackendContract):
    """Through a proxy, so that the shared server can be away."""

    config = {"task": "shop.tasks.other", "queue": "other", "priority": 3}
    broker: ClassVar[str] = "redis"

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.url = BROKERS[self.broker]()
        self.queue = f"celery-{uuid4().hex}"
        self.calls: list[Sent] = []
        parts = urlsplit(self.url)
        with TcpProxy(parts.hostname or "localhost", parts.port or 0) as self.proxy:
            netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.proxy.port}".lstrip("@")
            url = parts._replace(netloc=netloc).geturl()
            monkeypatch.setattr(celery_app, "app", celery_app.make_app(url, self.queue))
            yield
        remove(self.url, self.queue)

    def make_backend(self, **options: Any) -> MessageBackend:
        return CeleryBackend(app=APP, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self._declare()
        self.calls += take(self.url, self.queue)
        return [call.args[0] for call in self.calls]

    def _declare(self) -> None:
        """On Redis a queue is there without being made."""

    def break_broker(self) -> AbstractContextManager[object]:
        return self.proxy.away()


class TestOnRabbitMQ(TestOnRedis):
    """The same, with every call confirmed."""

    broker = "rabbitmq"

    def _declare(self) -> None:
        with rabbitmq_server.channel(self.url) as setup:
            setup.queue_declare(self.queue, durable=True)


# --- What is called ----------------------------------------------------------------------------


def test_event_is_the_argument_of_the_task_of_its_type(make: MakeBackend, broker: str) -> None:
    """The task of the event's name is called with the event, persistently, results as it likes."""
    backend = make(app={"result_backend": "redis://127.0.0.1:1/0"})
    message = make_message(
        id="1", source="/shop", event_type="shop.tasks.receipt", time=None, data="ä"
    )
    backend.send(message)
    (call,) = take(broker, celery_app.app.conf.task_default_queue)
    assert (call.task, call.keywords) == ("shop.tasks.receipt", {})
    assert call.args == [
        {
            "specversion": "1.0",
            "id": "1",
            "source": "/shop",
            "type": "shop.tasks.receipt",
            "datacontenttype": "application/json",
            "data": "ä",
        }
    ]
    assert call.properties["delivery_mode"] == 2
    assert call.headers["ignore_result"] is None
    assert call.headers["retries"] == 0


def test_task_expires_with_its_event(make: MakeBackend, broker: str, queue: str) -> None:
    """A worker runs no task whose event's `expirytime` has passed; one that is far away is none."""
    soon = timezone.now() + timedelta(hours=1)
    messages = [
        make_message(id=str(number), data={}, extensions=extensions)
        for number, extensions in enumerate(
            [{"expirytime": soon}, {"expirytime": "2999-12-31T23:59:59Z"}, {}]
        )
    ]
    assert make().send_batch(messages) == [None] * 3
    expiring, *others = take(broker, queue)
    moment = datetime.fromisoformat(expiring.headers["expires"])
    assert timedelta(0) <= moment - soon < timedelta(seconds=60)
    assert [each.headers["expires"] for each in others] == [None, None]


def test_data_are_the_keywords_of_a_task_if_wanted(
    make: MakeBackend, broker: str, queue: str
) -> None:
    """With `arguments` "data" a task gets its usual keywords; data of another kind is rejected."""
    backend = make(task="shop.tasks.receipt", arguments="data")
    messages = [
        make_message(data={"order": 1, "mail": True}),
        make_message(data=[1]),
        make_message(),
        make_message(data=b"{}", data_content_type="application/octet-stream"),
        make_message(data={}),
    ]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, Rejected, Rejected, None]
    calls = take(broker, queue)
    assert [(call.task, call.args, call.keywords) for call in calls] == [
        ("shop.tasks.receipt", [], {"order": 1, "mail": True}),
        ("shop.tasks.receipt", [], {}),
    ]


def test_event_that_is_sent_again_has_the_same_task_id(
    make: MakeBackend, broker: str, queue: str
) -> None:
    """The id is a UUID that depends on source, event id and alias, and on nothing else."""
    backend = make()
    message = make_message(id="1", source="/shop", data=1)
    for _ in range(2):
        backend.send(message)
    first, again = take(broker, queue)
    assert first.id == again.id == task_id("/shop", "1", "default")
    assert UUID(first.id)
    others = [("/shop", "2", "default"), ("/other", "1", "default"), ("/shop", "1", "other")]
    assert len({first.id, *(task_id(*each) for each in others)}) == 4


@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("field", "value", "escaped"),
    [
        ("type", "shop.tasks.send_receipt", "shop.tasks.send_receipt"),
        ("type", "order/placed", "order%2Fplaced"),
        ("key", "a.b", "a%2Eb"),
        ("subject", "a b\r\n\0", "a%20b%0D%0A%00"),
        ("source", "https://shop/ü", "https%3A%2F%2Fshop%2F%C3%BC"),
    ],
)
def test_task_name_cannot_be_broken_out_of(field: str, value: str, escaped: str) -> None:
    """No field adds a word to the name of a task, but the type, whose words they are."""
    assert escape_words(field, value) == escaped


@pytest.mark.shows("names are escaped")
def test_celerys_own_tasks_cannot_be_called(make: MakeBackend, broker: str, queue: str) -> None:
    """An event named as one of Celery's built-in tasks is rejected, and the others are sent."""
    messages = [
        make_message(event_type="celery.map", data=["x"]),
        make_message(event_type="celery2.x", data=1),
    ]
    assert kinds(make().send_batch(messages)) == [Rejected, None]
    assert [call.task for call in take(broker, queue)] == ["celery2.x"]


def test_config_of_an_event_names_its_task_and_queue(
    make: MakeBackend, broker: str, queue: str
) -> None:
    """`publisher_config` chooses the task and the queue, which is declared."""
    config = {"task": "shop.tasks.ünique", "queue": f"{queue}-2"}
    make().send(make_message(data=1, config=config))
    (call,) = take(broker, f"{queue}-2")
    assert call.task == "shop.tasks.ünique"


def test_options_and_routes_name_the_queue(make: MakeBackend, broker: str, queue: str) -> None:
    """The option `queue` goes before the app's `task_routes`, and these before its default."""
    routes = {"task_routes": {"test.*": {"queue": f"{queue}-2"}}}
    make(app=routes).send(make_message(data=1))
    assert len(take(broker, f"{queue}-2")) == 1
    make(app=routes, queue=queue).send(make_message(data=2))
    assert len(take(broker, queue)) == 1


def test_priority_is_the_events_or_the_options(make: MakeBackend, broker: str, queue: str) -> None:
    """The message has the priority of its event, else that of the backend."""
    make(priority=0).send(make_message(data=1))
    (call,) = take(broker, queue)
    assert call.properties["priority"] == 0
    if not broker.startswith("redis"):  # there, each priority is a list of its own
        make(priority=2).send_batch([make_message(data=1, config={"priority": 7})])
        (call,) = take(broker, queue)
        assert call.properties["priority"] == 7


def test_routing_key_is_for_amqp(make: MakeBackend, broker: str, queue: str) -> None:
    """On AMQP it goes to the queue's topic exchange; elsewhere kombu would drop it in silence."""
    topic = {"task_default_exchange_type": "topic", "task_default_exchange": f"{queue}-2"}
    backend = make(app={**topic, "task_default_routing_key": "order.*"})
    taken, lost = ({"routing_key": key} for key in ("order.placed", "lost"))
    messages = [make_message(data=1, config=taken), make_message(data=2, config=lost)]
    outcomes = backend.send_batch(messages)
    if broker.startswith("redis"):
        assert kinds(outcomes) == [Rejected, Rejected]
    else:
        assert outcomes[0] is None
        assert "no queue takes it: NO_ROUTE, routing key 'lost'" in str(outcomes[1])
        assert event_ids(take(broker, queue)) == [messages[0].event_id]


@pytest.mark.shows("read by the official SDK")
def test_official_sdk_reads_every_event(make: MakeBackend, broker: str, queue: str) -> None:
    """Whatever an event is, the CloudEvents SDK finds the same in the task's argument."""
    backend = make(task="any")
    backend.open()

    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(ANY_EVENT, min_size=20, max_size=30))
    def check(events: list[CloudEvent]) -> None:
        messages = [make_message(event) for event in events]
        assert backend.send_batch(messages) == [None] * len(messages)
        for event, call in zip(events, take(broker, queue), strict=True):
            assert_same_event(JSONFormat().read(None, json.dumps(call.args[0])), event)

    check()


@pytest.mark.shows("order after a failure in a batch")
def test_key_is_held_behind_a_call_that_failed(make: MakeBackend, broker: str, queue: str) -> None:
    """A call that can't be made holds its key only, and nothing of the key is in the queue."""
    messages = [
        make_message(event_type="celery.x", data=1, partition_key="a"),
        make_message(data=2, partition_key="a"),
        make_message(data=3, partition_key="b"),
    ]
    assert kinds(make().send_batch(messages)) == [Rejected, Held, None]
    assert event_ids(take(broker, queue)) == [messages[2].event_id]


def test_arguments_that_the_serializer_refuses_are_rejected(make: MakeBackend) -> None:
    """An app whose serializer can't write an event makes it a dead letter."""
    from kombu.serialization import register, unregister

    def refuse(_: object) -> bytes:
        raise TypeError("not with me")

    register("refusing", refuse, refuse, "application/x-refusing", "utf-8")
    try:
        with pytest.raises(Rejected, match="not with me"):
            make(app={"task_serializer": "refusing"}).send(make_message(data=1))
    finally:
        unregister("refusing")


# --- End to end --------------------------------------------------------------------------------


@pytest.mark.shows("a transactional task")
@pytest.mark.slow
def test_real_worker_runs_what_a_transaction_published(
    committing: None, broker: str, queue: str, make: MakeBackend, tmp_path: Path
) -> None:
    """What was committed is run by a Celery worker, in another process; what was not, is not."""
    make()
    setting = {
        "BACKEND": "django_broadcaster.backends.CeleryBackend",
        "OPTIONS": {"app": APP},
    }
    with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
        with transaction.atomic():
            for number in range(5):
                publisher.publish_event(
                    "order.placed", "/shop", {"n": number}, partition_key="order"
                )
        with transaction.atomic():
            publisher.publish_event("order.placed", "/shop", {"n": 99}, partition_key="order")
            transaction.set_rollback(True)
        options = WorkerOptions(
            database="default", backends=["default"], batch_size=100, interval=0.1, drain=True
        )
        assert Worker(options).run()
    events = list(OutboxEvent.objects.order_by("id"))
    assert {event.status for event in events} == {OutboxEventStatus.PUBLISHED}
    ran = _run_worker(broker, queue, tmp_path, len(events))
    assert [each["event"]["data"]["n"] for each in ran] == [0, 1, 2, 3, 4]
    assert [each["task"] for each in ran] == [
        task_id(event.source, event.event_id, "default") for event in events
    ]


def _run_worker(broker: str, queue: str, folder: Path, count: int) -> list[dict[str, Any]]:
    """Run a worker until `count` tasks have run; return what they wrote down."""
    record, log = folder / "record", folder / "worker.log"
    told = {
        "BROADCASTER_CELERY_BROKER": broker,
        "BROADCASTER_CELERY_QUEUE": queue,
        "BROADCASTER_CELERY_RECORD": str(record),
    }
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = [sys.executable, "-m", "celery", "--app", APP.rpartition(".")[0], "worker"]
    command += ["--pool", "solo", "--loglevel", "INFO", *quiet]

    def lines() -> list[str]:
        return record.read_text().splitlines() if record.exists() else []

    def is_done() -> bool:
        if worker.poll() is not None:
            pytest.fail(f"the Celery worker has ended: {log.read_text()}")
        return len(lines()) >= count

    with log.open("wb") as output:
        worker = subprocess.Popen(
            command, env={**os.environ, **told}, stdout=output, stderr=output, cwd=ROOT
        )
    try:
        wait_until(is_done, 60, f"the worker has run {count} tasks")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    return [json.loads(line) for line in lines()]


# --- Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("app", "celery"),
        ("app", None),
        ("task", ""),
        ("task", "{no}"),
        ("arguments", "both"),
        ("queue", ""),
        ("queue", "a\nb"),
        ("queue", "x" * 256),
        ("priority", -1),
        ("priority", True),
    ],
)
def test_wrong_option_is_named(option: str, value: Any) -> None:
    """An option with a wrong value is an error that names the setting, the alias and the option."""
    with pytest.raises(BackendConfigurationError) as caught:
        CeleryBackend(**{"alias": "jobs", "app": APP, option: value})
    assert f"OUTBOX_PUBLISHERS['jobs']['OPTIONS'][{option!r}]" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("tests.support.celery_app.none", "can't be imported"),
        ("no_such_module.app", "can't be imported"),
        ("tests.support.celery_app.make_app", "is not a Celery app"),
    ],
)
def test_app_that_is_none_is_named(path: str, problem: str) -> None:
    """An app that can't be found is an error of the settings, when it is first needed."""
    with pytest.raises(BackendConfigurationError, match=problem):
        CeleryBackend(alias="jobs", app=path).open()


def test_app_may_be_written_with_a_colon(make: MakeBackend) -> None:
    """The path of an app may be written as Celery's command line wants it."""
    backend = CeleryBackend(alias="default", app="tests.support.celery_app:app")
    backend.open()
    backend.close()


@pytest.mark.parametrize(
    "url", ["redis://:se/cret@localhost:6379/0", "amqp://u:se#cret@host", "nothing://u:secret@host"]
)
def test_broker_url_that_is_malformed_shows_no_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app whose broker can't be understood stops everything, without a piece of its password."""
    monkeypatch.setattr(celery_app, "app", celery_app.make_app(url, "queue"))
    with pytest.raises((BackendConfigurationError, BackendUnavailable)) as caught:
        CeleryBackend(alias="jobs", app=APP, connect_timeout=0.5).open()
    assert "cret" not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("task", ""), ("queue", 1), ("routing_key", "a\0"), ("priority", 300), ("priority", "high")],
)
def test_wrong_config_is_named(key: str, value: Any) -> None:
    """A value of `publisher_config` that can't be used is refused in the publish call."""
    with pytest.raises(InvalidPublisherConfig, match=f"'{key}'"):
        CeleryBackend(alias="jobs", app=APP).validate_config({key: value})
