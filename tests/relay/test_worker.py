"""The command `outbox_worker`: its arguments, how it ends, and what it lives through."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable, LeaseLost, MissingClient
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.registry import event_registry
from django_broadcaster.relay import backend_thread
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script, recorded, script
from tests.support.databases import ANY
from tests.support.events import count, first_arrivals, publish, publish_many, row, statuses
from tests.support.redis_server import free_port
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import SCRIPTED, Stream, turn, working

if TYPE_CHECKING:
    from pytest_django import Settings

REDIS = "django_broadcaster.backends.RedisStreamBackend"
RECORDING = "tests.support.backends.RecordingBackend"


def owned(database: str) -> int:
    """Return how many partitions have an owner."""
    return OutboxPartition.objects.using(database).filter(relay__isnull=False).count()


def all_published(database: str) -> bool:
    """Tell whether every event is."""
    events = OutboxEvent.objects.using(database)
    return events.exists() and not events.exclude(status="published").exists()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file in which a `RecordingBackend` writes."""
    return tmp_path / "record"


def recording(path: Path) -> dict[str, Any]:
    """Return OUTBOX_PUBLISHERS with one backend that records."""
    return {"default": {"BACKEND": RECORDING, "OPTIONS": {"path": str(path)}}}


def names(path: Path) -> list[str]:
    """Return the names of the events in the record, in order."""
    return [line["name"] for line in recorded(path)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-size", "0"], "must be a whole number from 1 to 10000, not 0"),
        (["--batch-size", "10001"], "must be a whole number from 1 to 10000"),
        (["--interval", "soon"], "must be a number of seconds, 0 or more, not 'soon'"),
        (["--interval", "nan"], "must be a number of seconds, 0 or more, not 'nan'"),
        (["--interval", "inf"], "must be a number of seconds from 0.001 to 3600, not inf"),
        (["--interval", "0"], "must be a number of seconds from 0.001 to 3600, not 0"),
        (["--max-iterations", "-1"], "a whole number from 0 to"),
        (["--processes", "0"], "a whole number from 1 to 1024"),
        (
            ["--backend", "nope"],
            "--backend nope is not configured; OUTBOX_PUBLISHERS has 'default'",
        ),
        (
            ["--exclude-backend", "nope"],
            "--exclude-backend nope is not configured; OUTBOX_PUBLISHERS has 'default'",
        ),
        (["--exclude-backend", "default"], "must leave at least one backend"),
        (["--database", "nope"], "--database nope is not configured; DATABASES has"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], words: str) -> None:
    """The error says which argument is wrong, and what there is instead."""
    with pytest.raises(CommandError, match=words):
        call_command("outbox_worker", *arguments)


def test_a_relay_that_could_not_commit_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AUTOCOMMIT off it would deliver the same events for ever."""
    monkeypatch.setitem(settings.DATABASES["default"], "AUTOCOMMIT", False)
    with pytest.raises(CommandError, match=r"'AUTOCOMMIT'\] must be True"):
        call_command("outbox_worker")


def test_a_drain_succeeds_when_nothing_is_left(
    database: str, stream: Stream, workers: Workers
) -> None:
    """`--drain` delivers all that is due, leaves what is due later, and exits with 0."""
    names = publish_many(300, database, keys=10)
    publish("z1", using=database, scheduled_at=timezone.now() + timedelta(hours=1))
    worker = workers.start(
        database,
        "--drain",
        "--database",
        database,
        OUTBOX_PUBLISHERS=stream.publishers(REDIS),
    )
    assert worker.end() == 0
    assert first_arrivals(stream.names()) == first_arrivals(names)
    assert count("scheduled", database) == 1


def test_a_drain_fails_when_the_broker_is_away(database: str, workers: Workers) -> None:
    """`--drain` exits with 1 for a broker that can't be reached, and spends no retry."""
    publish_many(5, database, keys=1)
    away = {"BACKEND": REDIS, "OPTIONS": {"port": 1, "connect_timeout": 0.5}}
    worker = workers.start(
        database, "--drain", "--database", database, OUTBOX_PUBLISHERS={"default": away}
    )
    assert worker.end() == 1
    assert "unavailable" in worker.output
    assert count("pending", database) == 5


def test_a_drain_ends_when_it_gets_nowhere(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain that can't even begin fails after some attempts, or cron would pile them up."""
    monkeypatch.setattr(backend_thread, "DRAIN_FAILURES", 2)

    def fail() -> None:
        raise MissingClient("pigeon", "pigeon")

    scripted.on_open = fail
    publish("a1", using=database)
    with working(database, drain=True) as worker:
        worker.end()
    assert worker.succeeded is False
    assert row("a1", database).status == "pending"
    assert owned(database) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_relay_says_what_it_does_and_that_it_stops(
    committing: None, workers: Workers, record: Path, processes: str
) -> None:
    """One line at its start and one at the first signal, however many processes there are."""
    arguments = ("--database", ANY[0], "--processes", processes)
    loud = workers.start(ANY[0], *arguments, OUTBOX_PUBLISHERS=recording(record))
    quiet = workers.start(ANY[0], *arguments, "-v", "0", OUTBOX_PUBLISHERS=recording(record))
    to = "default (RecordingBackend)"
    start = f"Delivering from database '{ANY[0]}' to {to}. Press Ctrl-C to stop.\n"
    wait_until(lambda: loud.output == start, 20, "its first words")
    wait_until(lambda: owned(ANY[0]) == 64, 20, "the relay at work")
    loud.stop()
    assert loud.end() == 0
    assert loud.output == start + "Stopping; waiting up to 30 s for running batches.\n"
    quiet.stop()
    assert quiet.end() in (0, -signal.SIGTERM)
    assert quiet.output == ""


class Impatient(StringIO):
    """An output whose reader presses Ctrl-C as soon as a line says so."""

    def write(self, text: str) -> int:
        """Take the text, and answer with a signal."""
        written = super().write(text)
        if "Press Ctrl-C" in text:
            signal.raise_signal(signal.SIGINT)
        return written


@pytest.mark.parametrize("database", ANY, indirect=True)
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_right_after_the_greeting_stops_a_relay(
    database: str, settings: Settings, record: Path, processes: int
) -> None:
    """From the moment at which the relay says so, it stops in order."""
    settings.OUTBOX_PUBLISHERS = recording(record)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    output = Impatient()
    try:
        call_command("outbox_worker", database=database, processes=processes, stdout=output)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert output.getvalue().splitlines()[-1].startswith("Stopping;")
    assert owned(database) == 0


@pytest.mark.parametrize("option", ["--processes", "--proc"])
def test_several_processes_share_one_command(
    committing: None, stream: Stream, workers: Workers, option: str
) -> None:
    """`--processes 2 --drain`, also abbreviated, delivers everything once, in order, and ends."""
    names = publish_many(2000, "default", keys=40)
    worker = workers.start(
        "default",
        option,
        "2",
        "--drain",
        "--batch-size",
        "50",
        OUTBOX_PUBLISHERS=stream.publishers(REDIS),
    )
    assert worker.end(60) == 0
    arrived = stream.names()
    assert len(arrived) == len(names)
    assert first_arrivals(arrived) == first_arrivals(names)


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_worker_stops_after_its_iterations(database: str, workers: Workers, record: Path) -> None:
    """With --max-iterations it looks so many times, and leaves in order."""
    publish("a1", "a2", "a3", using=database)
    arguments = ("--database", database, "--max-iterations", "2", "--batch-size", "1")
    worker = workers.start(database, *arguments, OUTBOX_PUBLISHERS=recording(record))
    assert worker.end() == 0, worker.output
    assert names(record) == ["a1", "a2"]
    assert owned(database) == 0


def test_zero_iterations_have_no_end(database: str, workers: Workers, record: Path) -> None:
    """With --max-iterations 0 a worker goes on until it is told to stop, as without the option."""
    publish("a1", "a2", "a3", using=database)
    worker = workers.start(
        database,
        *("--database", database, "--max-iterations", "0"),
        *("--batch-size", "1", "--interval", "1"),
        OUTBOX_PUBLISHERS=recording(record),
    )
    wait_until(lambda: all_published(database), 30, "the events")
    publish("a4", using=database)
    wait_until(lambda: names(record) == ["a1", "a2", "a3", "a4"], 30, "a later event")
    worker.stop()
    assert worker.end() == 0, worker.output


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_the_settings_of_version_0_1_run_a_worker(
    database: str, workers: Workers, record: Path
) -> None:
    """OUTBOX_WORKER and OUTBOX_RETENTION as they were documented, with a sleep over the lease."""
    publish("a1", using=database)
    worker = workers.start(
        database,
        *("--database", database),
        OUTBOX_PUBLISHERS=recording(record),
        OUTBOX_WORKER={
            "BATCH_SIZE": 100,
            "SLEEP_TIME": 60,
            "MAX_RETRIES": 3,
            "RETRY_BACKOFF": True,
        },
        OUTBOX_RETENTION={
            "CLEANUP_PUBLISHED": True,
            "PUBLISHED_RETENTION_DAYS": 7,
            "FAILED_RETENTION_DAYS": 30,
        },
        OUTBOX_LEASE_SECONDS=2,
    )
    wait_until(lambda: names(record) == ["a1"], 30, "the first event")
    publish("a2", using=database)
    wait_until(lambda: names(record) == ["a1", "a2"], 30, "the second event")
    worker.stop()
    assert worker.end() == 0, worker.output
    assert "lease" not in worker.output
    assert statuses(database) == {"a1": "published", "a2": "published"}


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_only_the_named_backends_are_served(database: str, workers: Workers, record: Path) -> None:
    """With --backend the others are left to another worker."""
    one, other = recording(record)["default"], recording(record.with_name("other"))["default"]
    publish("a1", using=database)
    OutboxEvent.objects.using(database).update(publisher_backend="other")
    publish("a2", using=database)
    worker = workers.start(
        database,
        *("--drain", "--backend", "other"),
        OUTBOX_PUBLISHERS={"default": one, "other": other},
    )
    assert worker.end() == 0, worker.output
    assert statuses(database) == {"a1": "published", "a2": "pending"}
    assert names(record.with_name("other")) == ["a1"]


# What it lives through


def test_a_lease_lasts_as_long_as_its_relay(
    database: str, scripted: Script, settings: Settings
) -> None:
    """A delivery that takes longer than a lease is not taken over: the heart goes on beating."""
    settings.OUTBOX_LEASE_SECONDS = 0.4
    arrived, go_on = threading.Event(), threading.Event()

    def hang(messages: Any) -> list[None]:
        arrived.set()
        assert go_on.wait(30)
        return [None] * len(messages)

    scripted.answer = hang
    publish("a1", using=database)
    with working(database) as worker:
        assert arrived.wait(10)
        relay = OutboxRelay.objects.using(database).get()
        late = timezone.now() + timedelta(seconds=1)
        with DeliveryLoop(database, "default", takes_share=False) as other:

            def outlasted() -> bool:
                turn(other)
                assert not other.lease.partitions, "it was taken over"
                other.lease.renew()
                relay.refresh_from_db()
                return relay.heartbeat_at > late

            wait_until(outlasted, 10, "heartbeats for longer than a lease")
        go_on.set()
        wait_until(lambda: all_published(database), 10, "the delivery")
        worker.stop()
    assert worker.succeeded
    assert len(scripted.batches) == 1


@pytest.mark.parametrize(
    "trouble", ["hangs", "is away", "can't be opened", "lacks its client", "breaks", "dies"]
)
def test_a_dead_backend_touches_no_other(
    database: str, scripted: Script, settings: Settings, trouble: str
) -> None:
    """Whatever is wrong with one backend, the others deliver, and the worker can be stopped."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": SCRIPTED},
        "sick": {"BACKEND": SCRIPTED},
    }
    sick, go_on = script("sick"), threading.Event()

    def hang(messages: Any) -> list[None]:
        go_on.wait(30)
        return [None] * len(messages)

    def fail(error: BaseException) -> Callable[..., None]:
        def raise_error(*_: Any) -> None:
            raise error

        return raise_error

    if trouble == "hangs":
        sick.answer = hang
    elif trouble == "is away":
        sick.answer = fail(BackendUnavailable("away"))
    elif trouble == "can't be opened":
        sick.on_open = fail(OSError("no route"))
    elif trouble == "lacks its client":
        sick.on_open = fail(MissingClient("pigeon", "pigeon"))
    elif trouble == "breaks":
        sick.answer = fail(RuntimeError("a bug"))
    else:
        sick.answer = fail(Death("of its thread"))
    publish("s1", using=database, backend="sick")
    with working(database, "sick", "default"):
        wait_until(lambda: sick.batches or sick.opened, 10, "the sick backend at work")
        for number in range(1, 6):
            publish(f"a{number}", using=database, backend="default")
            wait_until(
                lambda number=number: row(f"a{number}", database).status == "published",
                10,
                "the healthy backend's delivery",
            )
        go_on.set()
    assert scripted.arrived == [f"a{number}" for number in range(1, 6)]
    assert owned(database) == 0
    assert not OutboxRelay.objects.using(database).exists()


class Death(BaseException):
    """It is no Exception, as what ends threads is not."""


def test_an_event_that_would_end_its_thread_is_put_aside(database: str, scripted: Script) -> None:
    """It is found as one that kills its relay is; the others are delivered, by the same thread."""

    def answer(messages: Any) -> list[None]:
        for message in messages:
            if message.subject == "p1":
                raise Death
            scripted.accept(message)
        return [None] * len(messages)

    scripted.answer = answer
    publish("a1", "p1", "p2", "b1", using=database)
    others = {"a1": "published", "p2": "published", "b1": "published"}
    with working(database) as worker:
        wait_until(lambda: statuses(database) == {**others, "p1": "failed"}, 20, "the others")
        worker.stop()
    assert worker.succeeded
    assert OutboxRelay.objects.using(database).count() == 0


def test_a_relay_that_loses_lease_after_lease_pauses(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it joins again at once, then less and less often."""
    losses: list[float] = []

    def lose(*_: Any, **__: Any) -> None:
        losses.append(worker.worker._threads[0]._backoff.seconds)
        raise LeaseLost("it was taken away")

    with working(database) as worker:
        wait_until(lambda: owned(database) == 64, 20, "the relay at work")
        monkeypatch.setattr(DeliveryLoop, "turn", lose)
        wait_until(lambda: len(losses) >= 4, 20, "some losses")
    assert losses[:2] == [0.0, 0.0]
    assert 0.0 < losses[2] < losses[3]


@pytest.mark.parametrize("dying", ["backend", "pacemaker"])
def test_a_thread_that_dies_ends_its_relay(
    database: str, scripted: Script, settings: Settings, monkeypatch: pytest.MonkeyPatch, dying: str
) -> None:
    """A relay without one of its threads would go on in part and in silence; so all of it ends,
    with a failure, for its service manager to start it anew, and others may take its partitions."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": SCRIPTED},
        "sick": {"BACKEND": SCRIPTED},
    }

    def die(*_: Any) -> None:
        raise Death

    with working(database, "sick", "default") as worker:
        wait_until(lambda: owned(database) == 128, 20, "the relay at work")
        thread = worker.worker._threads[0] if dying == "backend" else worker.worker._pacemaker
        monkeypatch.setattr(thread._backoff, "reset", die)
        monkeypatch.setattr(thread, "_recover", die)
        worker.end()
    assert worker.succeeded is False
    assert owned(database) == 0


@pytest.mark.chaos
def test_processes_whose_thread_died_are_started_again(
    database: str, record: Path, workers: Workers
) -> None:
    """What ended by a thread's death is begun anew by `--processes`, and delivers."""
    publish("a1", using=database)
    worker = workers.start(
        database,
        "--processes",
        "2",
        "--database",
        database,
        OUTBOX_PUBLISHERS={
            "default": {
                "BACKEND": "tests.support.backends.DyingOnceBackend",
                "OPTIONS": {"path": str(record)},
            }
        },
    )
    wait_until(lambda: all_published(database), 60, "the delivery")
    # The other process may have delivered before the dying one has ended with its failure.
    wait_until(lambda: "restarting it in" in worker.output, 60, "the end of the one that died")
    told = "A relay thread crashed; shutting down so that the process can be restarted."
    assert told in worker.output
    worker.stop()
    assert worker.end() == 0


@pytest.mark.chaos
def test_processes_whose_supervisor_was_killed_end(database: str, workers: Workers) -> None:
    """Nobody would ever stop them; they leave in order, so that others may take over at once."""
    worker = workers.start(database, "--processes", "2", "--database", database)
    wait_until(lambda: owned(database) == 64, 60, "the processes at work")
    worker.kill()
    wait_until(
        lambda: not OutboxRelay.objects.using(database).exists(), 10, "the end of the processes"
    )
    assert "The supervisor of this relay process ended; shutting down." in worker.output


def test_a_backend_that_fails_to_close_frees_its_partitions(
    database: str, scripted: Script
) -> None:
    """An error at the very end keeps no partition from the other relays."""

    def fail() -> None:
        raise OSError("broken pipe")

    scripted.on_close = fail
    publish("a1", using=database)
    with working(database) as worker:
        wait_until(lambda: all_published(database), 10, "the delivery")
        worker.stop()
    assert owned(database) == 0
    loop = DeliveryLoop(database, "default")
    loop.join()
    turn(loop)
    assert owned(database) == 64
    with pytest.raises(OSError, match="broken pipe"):
        loop.__exit__(None, None, None)
    assert owned(database) == 0
    scripted.heal()


@contextmanager
def registered(name: str, function: Callable[[CloudEvent], object]) -> Iterator[None]:
    """Register a handler of orders for the time of the block."""
    event_registry.register("order.*", name=name)(function)
    try:
        yield
    finally:
        event_registry.unregister(name)


def test_a_handlers_lost_connection_is_opened_again(
    committing: None, scripted: Script, settings: Settings
) -> None:
    """A connection of the handlers' own that broke costs one attempt, not all that follow."""
    if connections["default"].vendor != "postgresql" or "sqlite" not in connections:
        pytest.skip("needs PostgreSQL and SQLite")
    settings.DATABASE_ROUTERS = [OneDatabase("sqlite")]
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    settings.OUTBOX_RETRY = {"initial": 0.05, "factor": 2.0}
    pids: list[int] = []

    def handle(event: CloudEvent) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])

    with registered("keeper", handle), working("sqlite"):
        publish("a1", using="sqlite")
        wait_until(lambda: all_published("sqlite"), 10, "the first event")
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pids[0]])
        publish("a2", using="sqlite")
        wait_until(lambda: all_published("sqlite"), 10, "the event after the loss")
    assert row("a2", "sqlite").retry_count == 1
    assert len(pids) == 2


# A database that goes away


@pytest.fixture(params=["default", "mariadb"])
def server(request: pytest.FixtureRequest, committing: None) -> str:
    """Run a test on each database that is a server of its own; the value is its alias."""
    alias = str(request.param)
    if alias not in connections or connections[alias].vendor == "sqlite":
        pytest.skip(f"needs the database server {alias}")
    return alias


def test_a_worker_waits_for_its_database(
    server: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts while the database is away delivers once it is there."""
    publish("a1", using=server)
    in_trouble = threading.Event()
    watcher = _Watcher(in_trouble)
    logging.getLogger("django_broadcaster.relay").addHandler(watcher)
    with ExitStack() as running:
        with monkeypatch.context() as patch:
            patch.setitem(connections[server].settings_dict, "PORT", free_port())
            worker = running.enter_context(working(server))
            assert in_trouble.wait(10), "the database is not away"
        wait_until(lambda: all_published(server), 10, "the delivery")
    logging.getLogger("django_broadcaster.relay").removeHandler(watcher)
    assert worker.succeeded


class _Watcher(logging.Handler):
    """Sets an event when a relay logs an error of its database."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        """Notice the error."""
        if "is failing" in record.getMessage():
            self._event.set()


def test_what_was_loaded_before_is_not_collected_again_and_again(
    database: str, scripted: Script
) -> None:
    """While a relay runs, Python's collector leaves alone what was there before; and not after."""
    before = gc.get_threshold()
    publish_many(1, database, keys=1)
    with working(database):
        wait_until(lambda: all_published(database), 20, "the event to be delivered")
        assert gc.get_freeze_count() > 100_000
        assert gc.get_threshold()[0] > before[0]
        assert gc.isenabled(), "cycles would never be freed"
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before
