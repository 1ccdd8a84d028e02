"""The relay's log: few lines, with what programs look for, without payloads and passwords."""

from __future__ import annotations

import ast
import logging
import os
import re
import socket
import traceback
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from cryptography.fernet import Fernet
from django.db import DataError, IntegrityError, OperationalError
from django.utils import timezone

from django_broadcaster import __version__, relay
from django_broadcaster.archives import Archive, Leaving
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    CannotUnseal,
    DeliveryError,
    InvalidEvent,
    MissingClient,
    Rejected,
    TransientError,
)
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.relay.failure_log import MAX_LINES, TRACEBACK_SECONDS
from django_broadcaster.relay.log_safety import class_names, loggable
from django_broadcaster.relay.outage import DatabaseOutage
from django_broadcaster.relay.summary import SUMMARY_SECONDS
from django_broadcaster.relay.verdicts import Report
from tests.support.backends import Script, forget_scripts, script
from tests.support.clock import Clock
from tests.support.docs_runner import ROOT
from tests.support.events import publish, row
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import SCRIPTED, Join, drain, turn, working

if TYPE_CHECKING:
    from pytest_django import Settings

LOGGING_PAGE = ROOT / "docs" / "reference" / "logging.md"
PAYLOAD = "4111-1111"
PASSWORD = "hunter2-please"
URL = f"amqp://app:{PASSWORD}@broker/orders"
ECHO = f"no good: {PAYLOAD} at {URL}"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that the package logs, but for the texts of errors."""
    caplog.set_level(logging.INFO, logger="django_broadcaster.relay.errors")
    caplog.set_level(logging.DEBUG, logger="django_broadcaster")
    return caplog


def everything(log: pytest.LogCaptureFixture) -> str:
    """Return what a handler could make of the records: texts, extras and tracebacks."""
    parts: list[str] = []
    for record in log.records:
        parts.append(record.getMessage())
        parts += [f"{name}={value!r}" for name, value in vars(record).items()]
        if record.exc_info:
            parts += traceback.format_exception(*record.exc_info)
    return "\n".join(parts)


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record has for programs."""
    names = ("event_id", "row", "backend", "partition", "relay", "attempt", "event_type")
    names += ("error_class", "handler", "place")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def failures(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the lines about single events."""
    return [record for record in log.records if hasattr(record, "event_id")]


def test_a_batch_is_one_line_for_people_and_programs(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """However many events it has; its figures are extras as well."""
    publish(*(f"a{n}" for n in range(50)), using=database)
    loop = join()
    drain(loop)
    (record,) = [each for each in log.records if each.levelno == logging.DEBUG]
    assert extras(record) == {"backend": "default", "relay": loop.lease.id}
    assert (vars(record)["published"], vars(record)["failed"]) == (50, 0)


def test_an_event_that_fails_has_a_line_with_all_that_finds_it(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """Which event, which attempt, where, and what becomes of it."""
    scripted.fail("a1", TransientError("busy"), times=1)
    scripted.fail("b1", Rejected("never"))
    publish("a1", "b1", using=database)
    loop = join()
    turn(loop)
    told_of = {record.getMessage(): extras(record) for record in failures(log)}
    for name, words in (("a1", "TransientError; retrying in 1.0 s"), ("b1", "Rejected; dead")):
        kind = words.partition(";")[0]
        event = row(name, database)
        ((message, extra),) = [each for each in told_of.items() if event.event_id in each[0]]
        assert words in message
        assert (extra["event_type"], extra["error_class"]) == (event.event_type, kind)
        assert (
            extra.items()
            >= {
                "event_id": event.event_id,
                "row": event.pk,
                "backend": "default",
                "partition": event.partition,
                "relay": loop.lease.id,
                "attempt": 1,
            }.items()
        )


def test_an_event_that_no_handler_takes_is_told_of_once(
    database: str, settings: Settings, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """It counts as delivered; a handler that is not found is a line for each type, not silence."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    name = f"order.of-{database}"  # which no test before has published
    for _ in range(2):
        publisher.publish_event(name, "/shop", using=database)
    turn(join())
    told_of = [record for record in log.records if name in record.getMessage()]
    assert [record.levelname for record in told_of] == ["WARNING"]
    assert "event_handlers" in told_of[0].getMessage()


def test_a_key_that_is_missing_is_named(
    database: str, settings: Settings, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """Why an event can't be decrypted is our own text, about settings, and holds no payload."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key()]
    publish("a1", using=database)
    settings.OUTBOX_ENCRYPTION_KEYS = []
    turn(join())
    (record,) = failures(log)
    assert "OUTBOX_ENCRYPTION_KEYS is empty" in record.getMessage()


@pytest.mark.parametrize("arguments", [[], ["--wait"]], ids=["refuses", "waits"])
def test_a_client_that_is_missing_is_one_line(
    database: str,
    settings: Settings,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    """The package to install is named without a traceback; with `--wait` the relay retries."""
    monkeypatch.setenv("BROADCASTER_TEST_WITHOUT", "redis")
    publish("a1", using=database)
    options = {"url": "redis://127.0.0.1:1/0", "stream_name": "s"}
    backend = {"BACKEND": "django_broadcaster.backends.RedisStreamBackend", "OPTIONS": options}
    worker = workers.start(database, *arguments, OUTBOX_PUBLISHERS={"default": backend})
    wait_until(lambda: "Install it with: pip install" in worker.output, 30, "the line")
    if arguments:
        worker.stop()
    assert worker.end() == (0 if arguments else 1)
    assert "Traceback" not in worker.output
    assert worker.output.count("Install it with: pip install") == 1


def test_a_batch_that_fails_is_a_few_lines(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """A broker that refuses everything must not fill the disk with its refusals."""
    scripted.fail("*", Rejected("never"))
    publish(*(f"-{n}" for n in range(60)), using=database)
    turn(join())
    assert len(failures(log)) == MAX_LINES
    warned = [record for record in log.records if record.levelno >= logging.WARNING]
    assert len(warned) == MAX_LINES + 1
    assert "50 more events of backend 'default' failed" in warned[-1].getMessage()


def fail_whole_batch(messages: Sequence[Any]) -> list[None]:
    """Break on a batch with an error of nobody's."""
    raise RuntimeError(ECHO)


def raised_from(error: Exception, cause: Exception) -> Exception:
    """Return an error with its cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        Rejected(ECHO),
        TransientError(ECHO),
        ValueError(ECHO),
        IntegrityError(f"duplicate key\nDETAIL:  Key (card)=({PAYLOAD}) already exists."),
        SystemExit(ECHO),
        CannotUnseal(ECHO),
        InvalidEvent("data", ECHO),
        raised_from(TransientError(ECHO), CannotUnseal(ECHO)),
        raised_from(TransientError(ECHO), BackendConfigurationError(ECHO)),
        raised_from(Rejected(ECHO), MissingClient(PAYLOAD, ECHO)),
    ],
    ids=class_names,
)
def test_no_payload_is_logged(
    database: str,
    scripted: Script,
    join: Join,
    log: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """Whatever a backend's error echoes stands in the outbox, and not in the log."""
    scripted.fail("a1", error)
    publish("a1", "b1", using=database)
    turn(join())
    text = everything(log)
    assert failures(log)
    assert PAYLOAD not in text
    assert PASSWORD not in text
    kept = row("a1", database).last_error
    assert PAYLOAD in kept
    assert PASSWORD not in kept
    attempt = OutboxAttempt.objects.using(database).get()
    assert PAYLOAD in attempt.error
    assert PASSWORD not in attempt.error


def test_no_payload_is_logged_of_a_batch_that_broke(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """The traceback shows where, with the kind of the error in place of its text."""
    scripted.answer = fail_whole_batch
    publish("a1", "b1", using=database)
    turn(join())
    text = everything(log)
    assert "in fail_whole_batch" in text
    assert "RuntimeError: text withheld, as it may contain the payload; outbox_inspect" in text
    assert PAYLOAD not in text


@pytest.mark.parametrize(
    "error",
    [
        KeyError(PAYLOAD),
        BackendUnavailable(PAYLOAD),
        CannotUnseal(PAYLOAD),
        BackendConfigurationError(PAYLOAD),
        MissingClient(PAYLOAD, PAYLOAD),
    ],
    ids=class_names,
)
def test_no_payload_is_logged_of_a_handler(
    routed: str, join: Join, log: pytest.LogCaptureFixture, settings: Settings, error: Exception
) -> None:
    """A handler's trouble has its kind in the log, and its traceback, without what it says."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }

    @event_registry.register("order.placed", name="charge")
    def charge(event: Any) -> None:
        raise error

    try:
        publish("a1", using=routed)
        turn(join())
    finally:
        event_registry.unregister("charge")
    text = everything(log)
    assert ("in charge" in text) is not isinstance(error, DeliveryError)  # that is foreseen
    # Which folder the path begins with depends on where Python finds the tests.
    place = rf"handler charge: {class_names(error)} at (tests/)?relay/test_logging\.py:\d"
    assert re.search(place, text)
    assert PAYLOAD not in text
    assert PAYLOAD in row("a1", routed).last_error


class FailingArchive(Archive):
    """Fails as it is told to."""

    error: ClassVar[Exception]

    def __init__(self, *, token: str, **options: Any) -> None:
        super().__init__(**options)

    def store(self, leaving: Leaving) -> None:
        """Take nothing."""
        raise self.error


@pytest.mark.parametrize("in_transaction", [False, True], ids=["a file", "a table"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError(ECHO), "ArchiveError from ValueError"),
        (InvalidEvent("data", ECHO), "ArchiveError from InvalidEvent"),
        (
            OSError(28, f"No space left on device {PASSWORD}"),
            "[Errno 28] No space left on device ***",
        ),
    ],
    ids=["of the event", "of ours", "of the disk"],
)
def test_no_payload_is_logged_of_an_archive(
    database: str,
    scripted: Script,
    join: Join,
    log: pytest.LogCaptureFixture,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
    in_transaction: bool,
) -> None:
    """What keeps old events in the outbox is told, unless it may quote them; the relay goes on."""
    monkeypatch.setattr(FailingArchive, "error", error, raising=False)
    monkeypatch.setattr(FailingArchive, "in_transaction", in_transaction)
    options = {"token": PASSWORD}
    settings.OUTBOX_ARCHIVE = {"BACKEND": f"{__name__}.FailingArchive", "OPTIONS": options}
    settings.OUTBOX_RETENTION = 60
    (event,) = publish("a1", using=database)
    ago = timezone.now() - timedelta(hours=1)
    rows = OutboxEvent.objects.using(database).filter(pk=event.pk)
    rows.update(status="published", published_at=ago, created_at=ago)
    turn(join())
    text = everything(log)
    assert f"Could not archive old events: {words}" in text.replace("FailingArchive: ", "")
    assert PAYLOAD not in text
    assert PASSWORD not in text
    assert rows.exists()


@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailable(f"{URL} does not answer"),
        ConnectionError(f"{URL} does not answer"),
        BackendConfigurationError(f"OUTBOX_PUBLISHERS: no such vhost at {URL}"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_password_is_logged(
    database: str, scripted: Script, log: pytest.LogCaptureFixture, error: Exception
) -> None:
    """What a client says of an address goes into the log without its user and password."""

    def fail() -> None:
        raise error

    scripted.on_open = fail
    publish("a1", using=database)
    with working(database):
        wait_until(lambda: "broker/orders" in everything(log), 20, "the error to be logged")
    assert PASSWORD not in everything(log)


def test_what_a_database_says_is_told_without_the_row() -> None:
    """PostgreSQL shows the row behind DETAIL; the rest is what an operator needs."""
    error = DataError(f"value too long\nfor the column\nDETAIL:  Failing row contains ({PAYLOAD}).")
    assert loggable(error) == "value too long for the column"
    assert loggable(ValueError(PAYLOAD)) == "ValueError"
    assert loggable(OSError("no route to host")) == "no route to host"


def test_a_dead_letter_is_an_error_of_its_real_class(
    routed: str, join: Join, log: pytest.LogCaptureFixture, settings: Settings, clock: Clock
) -> None:
    """Error trackers group by class and traceback; a failure has a traceback once a minute."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }

    @event_registry.register("order.placed", name="charge")
    def charge(event: Any) -> None:
        raise KeyError(PAYLOAD)

    def dead_letters() -> list[logging.LogRecord]:
        log.clear()
        for _ in range(2):
            publisher.publish_event("order.placed", "/shop", max_retries=0, using=routed)
        turn(loop)
        return [record for record in failures(log) if record.levelno == logging.ERROR]

    try:
        loop = join()
        first, second = dead_letters()
        clock.advance(TRACEBACK_SECONDS + 1)
        third, _ = dead_letters()
    finally:
        event_registry.unregister("charge")
    for record in (first, second, third):
        assert record.exc_info is not None
        assert record.exc_info[0] is KeyError
        text = logging.Formatter().format(record)
        assert "\nKeyError: text withheld" in text
        assert PAYLOAD not in text
        assert ("Traceback" in text) is (record is not second)
    assert vars(first)["handler"] == "charge"
    assert vars(first)["error_class"] == "KeyError"
    assert "relay/test_logging.py:" in vars(first)["place"]
    assert vars(first)["event_type"] == "order.placed"


def test_the_text_of_an_error_is_logged_with_debug_on(
    database: str, scripted: Script, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever debugs sees what was raised, without passwords, in a logger that can be left out."""
    caplog.set_level(logging.DEBUG, logger="django_broadcaster")
    scripted.fail("a1", TransientError(ECHO), times=1)
    publish("a1", using=database)
    turn(join())
    told = [each for each in caplog.records if PAYLOAD in each.getMessage()]
    assert [(each.name, each.levelname) for each in told] == [
        ("django_broadcaster.relay.errors", "DEBUG")
    ]
    assert PASSWORD not in everything(caplog)


def test_each_minute_has_one_line_at_info(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture, clock: Clock
) -> None:
    """What was delivered, retried and given up, and what waits; nothing when nothing happened."""

    def lines() -> list[str]:
        clock.advance(SUMMARY_SECONDS)
        turn(loop)
        found = [each.getMessage() for each in log.records if each.levelno == logging.INFO]
        log.clear()
        return [re.sub(r"in \d+ s", "in 60 s", each) for each in found if "delivered" in each]

    scripted.fail("a0", TransientError("busy"), times=1)
    scripted.fail("b1", Rejected("never"))
    publish(*(f"a{n}" for n in range(5)), "b1", "c1", using=database)
    loop = join()
    drain(loop)
    assert lines() == ["Backend 'default': 1 delivered, 1 retried, 1 dead in 60 s, backlog 5."]
    assert lines() == ["Backend 'default': 0 delivered, 0 retried, 0 dead in 60 s, backlog 5."]
    OutboxEvent.objects.using(database).all().delete()
    assert lines() == []


def test_the_log_tells_the_life_of_a_relay(
    database: str, scripted: Script, log: pytest.LogCaptureFixture
) -> None:
    """Its start with version, host, process and database, its partitions, and its end."""
    publish("a1", using=database)
    with working(database, drain=True) as worker:
        worker.end()
    told = [each.getMessage() for each in log.records if each.levelno == logging.INFO]
    lines = [each for each in told if not each.startswith("Relay stopping")]
    started, joined, delivered, stopped = lines
    for word in (__version__, socket.gethostname(), str(os.getpid()), database, "'default'"):
        assert word in started
    assert joined == "Backend 'default': joined with 64 of 64 partitions."
    assert "1 delivered" in delivered
    assert stopped.startswith("Relay stopped after")
    name = f"{socket.gethostname()}:{os.getpid()}"
    assert {vars(each).get("relay_process") for each in log.records} == {name}


def test_a_relay_says_for_which_lease_it_waits(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture
) -> None:
    """One that starts after a kill names the lease that still has the partitions, and its time."""
    turn(join())
    log.clear()
    turn(join())
    (line,) = [each.getMessage() for each in log.records if "joined" in each.getMessage()]
    name = f"{socket.gethostname()}:{os.getpid()}"
    pattern = rf"joined with 0 of 64 partitions; waiting for relay {name} \(lease expires in \d+"
    assert re.search(pattern, line)


def test_a_backend_that_is_back_says_how_long_it_was_away(
    database: str, scripted: Script, join: Join, log: pytest.LogCaptureFixture, clock: Clock
) -> None:
    """The line at the end of an outage has its length."""
    scripted.fail("a1", BackendUnavailable("closed"), times=1)
    publish("a1", using=database)
    loop = join()
    turn(loop)
    clock.advance(42)
    drain(loop)
    lines = [each.getMessage() for each in log.records]
    assert any(
        re.match("Backend 'default' is available again after 4[2-9]", each) for each in lines
    )


def test_a_database_outage_is_one_line_for_all_threads(log: pytest.LogCaptureFixture) -> None:
    """Then one a minute, and one at its end; a new error has a line as well."""
    clock = Clock()
    outage = DatabaseOutage("default", clock)
    refused = OperationalError("connection refused")
    outage.note("one", OperationalError("server closed the connection"), 0.2)
    for _ in range(100):
        for thread in ("one", "two", "heartbeat"):
            outage.note(thread, refused, 10.0)
        clock.advance(1)
    for thread in ("one", "two", "heartbeat", "one"):
        outage.end(thread)
    assert [each.getMessage() for each in log.records] == [
        "Database 'default' is failing: server closed the connection; retrying in 0.2 s.",
        "Database 'default' is failing: connection refused; retrying in 10.0 s.",
        "Database 'default' is failing for 60 s: connection refused; retrying in 10.0 s.",
        "Database 'default' is available again after 100 s.",
    ]


@pytest.mark.parametrize("arguments", [[], ["--wait"]], ids=["refuses", "waits"])
def test_a_relay_without_tables_is_refused_in_one_sentence(
    workers: Workers, tmp_path: Path, arguments: list[str]
) -> None:
    """Before `migrate` it exits with 1; with `--wait` it retries until the tables exist."""
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}}
    backend = {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
    worker = workers.start(
        "default", *arguments, DATABASES=databases, OUTBOX_PUBLISHERS={"default": backend}
    )
    wait_until(lambda: "migrate" in worker.output, 30, "the line")
    if arguments:
        worker.stop()
    assert worker.end() == (0 if arguments else 1)
    assert "Traceback" not in worker.output
    assert worker.output.count("migrate") == 1


def test_the_command_ends_with_the_error_of_the_relay(database: str, workers: Workers) -> None:
    """Cron mails the last line: it says why, and not where to look."""
    publish("a1", using=database)
    away = {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"port": 1, "stream_name": "s"},
    }
    worker = workers.start(database, "--drain", OUTBOX_PUBLISHERS={"default": away})
    assert worker.end() == 1
    assert "The relay exited with an error: backend 'default' is unavailable (" in worker.output


def test_a_scene_of_failures_is_a_bounded_log(
    routed: str, join: Join, log: pytest.LogCaptureFixture, settings: Settings, clock: Clock
) -> None:
    """1,000 events of a failing handler and endpoint and of a broker that is away, ten rounds."""
    log.handler.setLevel(logging.INFO)
    reports: list[Report] = []
    forget_scripts()
    settings.OUTBOX_PUBLISHERS = {
        "handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
        "endpoint": {"BACKEND": SCRIPTED},
        "away": {"BACKEND": SCRIPTED},
    }
    settings.OUTBOX_RETRY = {"jitter": 0.0}
    script("endpoint").fail("*", TransientError("answered 500"))
    script("away").fail("*", BackendUnavailable("refused"))

    @event_registry.register("order.placed", name="charge")
    def charge(event: Any) -> None:
        raise ValueError(PAYLOAD)

    try:
        for alias in settings.OUTBOX_PUBLISHERS:
            count = 334 if alias == "handlers" else 333
            publish(*(f"{n}-" for n in range(count)), backend=alias, using=routed)
        loops = [join(alias) for alias in settings.OUTBOX_PUBLISHERS]
        for _ in range(10):
            reports += [turn(loop) for loop in loops]
            clock.advance(30)
    finally:
        event_registry.unregister("charge")
        forget_scripts()
    lines = sum(len(logging.Formatter().format(each).splitlines()) for each in log.records)
    batches = sum(report.retried > 0 for report in reports)
    assert batches >= 8  # of 100 events each, of the two backends that answer
    assert len(failures(log)) <= MAX_LINES * batches
    assert len(log.records) <= (MAX_LINES + 1) * batches + 50
    tracebacks = sum(bool(each.exc_info) for each in log.records)
    assert tracebacks <= 6  # one a minute
    assert lines <= len(log.records) + 6 * tracebacks  # those of the handler alone


def log_lines() -> Iterator[str]:
    """Yield the texts of all lines that the relay logs, but for those at DEBUG."""
    methods = {"log", "info", "warning", "error", "critical", "_log"}
    for path in sorted(Path(relay.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in methods:
                strings = [each for each in node.args if isinstance(each, ast.Constant)]
                yield from (each.value for each in strings if isinstance(each.value, str))


def test_every_line_of_the_relay_is_on_the_page_about_logging() -> None:
    """Whoever filters or searches the log finds each line there."""
    page = LOGGING_PAGE.read_text()
    found = list(log_lines())
    assert len(found) > 25
    for text in found:
        literal = max(re.split(r"%[.\d]*[a-z]", text), key=len).strip(" :;,.(")
        assert literal in page, text
