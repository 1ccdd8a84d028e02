"""A real Celery worker whose own app is an `OutboxCelery`, with a relay, on real brokers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
from celery import chain, chord, group
from django.utils import timezone

from django_broadcaster.celery_app import OutboxCelery
from django_broadcaster.models import OutboxEvent
from tests.app.models import Order
from tests.relay.conftest import working
from tests.support import outbox_celery_app, rabbitmq_server, redis_server
from tests.support.celery_queue import remove
from tests.support.registered import only_handlers
from tests.support.waiting import wait_until
from tests.support.workers import environment

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

BROKERS = {"redis": redis_server.shared_url, "rabbitmq": rabbitmq_server.shared_url}
WORKERS = [("redis", "redis"), ("rabbitmq", "redis"), ("redis", "files")]
"""The broker and the result backend of each worker; that of files has no chords of its own."""
ROOT = Path(__file__).resolve().parent.parent.parent
APP = "tests.support.outbox_celery_app.app"
PUBLISHERS = {
    "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"},
    "celery": {"BACKEND": "django_broadcaster.backends.CeleryBackend", "OPTIONS": {"app": APP}},
}
SETTINGS = {"OUTBOX_REQUIRE_TRANSACTION": True}
"""Settings of the worker, whose own calls must not need a transaction."""

SECONDS = 30


class Running(NamedTuple):
    """A worker process, and where it takes its calls from."""

    broker: str
    queue: str
    results: str
    log: Path


@pytest.fixture(scope="module", params=WORKERS, ids="-".join)
def worker(
    request: pytest.FixtureRequest,
    django_db_setup: None,
    django_db_blocker: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """A worker on each broker, which keeps running for all tests."""
    name, place = request.param
    broker, results = BROKERS[name](), redis_server.shared_url()
    if place == "files":
        results = tmp_path_factory.mktemp("results").as_uri()
    queue = f"celery-{uuid4().hex}"
    log = tmp_path_factory.mktemp("celery") / "worker.log"
    with django_db_blocker.unblock():
        told = environment("default", {**SETTINGS, "OUTBOX_PUBLISHERS": PUBLISHERS})
    told |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "BROADCASTER_CELERY_BROKER": broker,
        "BROADCASTER_CELERY_QUEUE": queue,
        "BROADCASTER_CELERY_RESULTS": results,
    }
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = [sys.executable, "-m", "celery", "--app", APP.rpartition(".")[0], "worker"]
    command += ["--pool", "solo", "--loglevel", "INFO", *quiet]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=told, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield Running(broker, queue, results, log)
    finally:
        process.kill()
        process.wait()
        remove(broker, queue)


@pytest.fixture
def app(
    worker: Running, committing: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OutboxCelery]:
    """The same app in this process, whose calls a relay sends to the worker."""
    made = outbox_celery_app.make_app(worker.broker, worker.queue, worker.results)
    monkeypatch.setattr(outbox_celery_app, "app", made)
    settings.OUTBOX_PUBLISHERS = PUBLISHERS
    with only_handlers(), working("default", "default", "celery"):
        yield made
    made.close()


def result_of(worker: Running, result: Any) -> Any:
    """Return the value of a result, as soon as it is there; an error shows the worker's log."""
    try:
        return result.get(timeout=SECONDS)
    except Exception:
        sys.stderr.write(worker.log.read_text())
        raise


def orders() -> list[str]:
    """The numbers of the orders."""
    return list(Order.objects.order_by("pk").values_list("number", flat=True))


def test_worker_publishes_and_calls_in_its_transaction(app: OutboxCelery, worker: Running) -> None:
    """What a task publishes and calls exists if and only if its transaction commits."""
    failed = app.tasks["shop.place"].delay("1", fails=True)
    with pytest.raises(ValueError, match="1"):
        failed.get(timeout=SECONDS)
    assert result_of(worker, app.tasks["shop.place"].delay("2")) == "2"
    wait_until(lambda: "2 confirmed" in orders(), SECONDS, "the call of the task")
    assert orders() == ["2", "2 confirmed"]
    events = OutboxEvent.objects.filter(event_type="order.placed")
    assert [event.data for event in events] == [{"number": "2"}]
    called = OutboxEvent.objects.filter(event_type="shop.confirm").count()
    assert called == 1


def test_chain_hands_over_results(app: OutboxCelery, worker: Running) -> None:
    """Each task of a chain gets the result of the one before."""
    add = app.tasks["shop.add"]
    assert result_of(worker, chain(add.s(1, 2), add.s(3), add.s(4), app=app).apply_async()) == 10


def test_group_has_all_results(app: OutboxCelery, worker: Running) -> None:
    """The tasks of a group are separate calls; their results come in order."""
    add = app.tasks["shop.add"]
    parts = group([add.s(number, 1) for number in range(3)], app=app)
    assert result_of(worker, parts.apply_async()) == [1, 2, 3]


def test_chord_calls_its_body(app: OutboxCelery, worker: Running) -> None:
    """The body of a chord gets the results of the group."""
    add = app.tasks["shop.add"]
    body = chord([add.s(number, 1) for number in range(3)], add.s(), app=app)
    assert result_of(worker, body.apply_async()) == 6


def test_callbacks_are_called(app: OutboxCelery, worker: Running) -> None:
    """A worker calls what is linked to the success of a task."""
    app.tasks["shop.add"].apply_async((1, 2), link=app.signature("shop.confirm"))
    wait_until(lambda: orders() == ["3 confirmed"], SECONDS, "the callback")


def test_call_for_later_runs_later(app: OutboxCelery, worker: Running) -> None:
    """A call with a countdown waits in the outbox, and then runs."""
    begun = timezone.now()
    result = app.tasks["shop.add"].apply_async((1, 2), countdown=1)
    assert OutboxEvent.objects.get().scheduled_at >= begun + timedelta(seconds=1)
    assert result_of(worker, result) == 3
    assert timezone.now() >= begun + timedelta(seconds=1)


@pytest.mark.parametrize("countdown", [0, 0.5])
def test_retry_survives_the_transaction_that_it_ends(
    app: OutboxCelery, worker: Running, countdown: float
) -> None:
    """`raise self.retry()` rolls back the task's transaction, and the task runs again."""
    result = app.tasks["shop.retry_in_transaction"].delay("1", countdown=countdown)
    assert result_of(worker, result) == 2
    assert orders() == ["1 attempt 0", "1 attempt 1", "1 attempt 2", "1 rolled back"]


def test_retry_needs_no_working_transaction(app: OutboxCelery, worker: Running) -> None:
    """A task is retried although its transaction refuses every statement after an error."""
    result = app.tasks["shop.retry_after_error"].delay("1")
    assert result_of(worker, result) == 1


def test_replacement_survives_the_transaction_that_it_ends(
    app: OutboxCelery, worker: Running
) -> None:
    """`self.replace()` raises an error, too, which rolls back a transaction around it."""
    assert result_of(worker, app.tasks["shop.replace"].delay(1, 2)) == 3


def test_replacement_by_a_group_is_not_lost(app: OutboxCelery, worker: Running) -> None:
    """Nor is the call that waits for its results; the one after them goes to the outbox."""
    assert result_of(worker, app.tasks["shop.replace_by_group"].delay(1, 2)) == [2, 3]
    assert OutboxEvent.objects.filter(event_type="celery.accumulate").count() == 1


def test_replacement_by_a_chord_is_not_lost(app: OutboxCelery, worker: Running) -> None:
    """Nor is the call that waits for its group; that of its body goes to the outbox."""
    assert result_of(worker, app.tasks["shop.replace_by_chord"].delay(1, 2)) == 5
    assert OutboxEvent.objects.filter(event_type="shop.add").count() == 1
