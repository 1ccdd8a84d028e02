"""Rows of 0.1.1's table become events of the outbox, and none is lost, doubled or changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from django.apps import apps
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from django_broadcaster.backends import locmem
from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxEvent, OutboxRelay
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.store import identity_of
from django_broadcaster.upgrade import OldTable, ReferencedError, move_back, move_events
from tests.relay.test_time_partitions import parted, plain
from tests.support.databases import SERVERS
from tests.support.routing import OneDatabase
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until
from tests.support.workers import MANAGE, environment

from .conftest import old_table

if TYPE_CHECKING:
    from pytest_django import Settings

__all__ = ["parted", "plain"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOUR = timedelta(hours=1)
DUMMY = "django_broadcaster.backends.DummyBackend"
LOCAL = "django_broadcaster.backends.LocalBackend"
REDIS = "django_broadcaster.backends.RedisStreamBackend"


@pytest.fixture(autouse=True)
def publishers(settings: Settings) -> None:
    """As a project of 0.1.1 has them: no alias is named `default`."""
    settings.OUTBOX_PUBLISHERS = {"redis": {"BACKEND": REDIS}, "audit": {"BACKEND": REDIS}}


def make(old_events: Any, subject: str, **columns: Any) -> Any:
    """Write a row as 0.1.1 does; `created_at` and `updated_at` can be told, too."""
    moments = {n: columns.pop(n) for n in ("created_at", "updated_at") if n in columns}
    values = {"event_type": "order.placed", "source": "order-service", "data": {"n": 1}, **columns}
    row = old_events.create(subject=subject, **values)
    if moments:
        old_events.filter(pk=row.pk).update(**moments)
    return old_events.get(pk=row.pk)


def outbox(database: str) -> dict[str, OutboxEvent]:
    """Return the events of the outbox by subject, in order."""
    rows = OutboxEvent.objects.using(database).order_by("id")
    return {row.subject: row for row in rows}


def states(database: str) -> dict[str, str]:
    """Return the status of each event by subject."""
    return {subject: row.status for subject, row in outbox(database).items()}


def test_a_row_keeps_all_that_0_1_1_knew_of_it(database: str, old_events: Any) -> None:
    """The id in the text that was sent, time, retries, error, configuration, schema: all of it."""
    due = timezone.now() - HOUR
    old = make(
        old_events,
        "a",
        data={"text": 'é \\ "', "list": [1, 2.5, None, {}]},
        data_schema="https://example.com/order.json",
        status="retry",
        created_at=due - HOUR,
        updated_at=due,
        scheduled_at=due,
        retry_count=2,
        max_retries=7,
        last_error="no connection",
        publisher_backend="audit",
        publisher_config={"tenant": "x"},
    )
    move_events(database)
    row = outbox(database)["a"]
    assert row.event_id == str(old.pk)
    assert row.time == row.created_at == old.created_at
    assert (row.status, row.scheduled_at, row.updated_at) == ("pending", due, due)
    same = (
        *("spec_version", "event_type", "source", "data_content_type", "data_schema", "data"),
        *("retry_count", "max_retries", "last_error", "publisher_backend", "publisher_config"),
    )
    assert [getattr(row, name) for name in same] == [getattr(old, name) for name in same]
    assert row.identity == identity_of(old.source, str(old.pk), "audit")
    assert (row.published_at, row.ended_at, row.partition_key) == (None, None, "")
    assert not old_events.exists()


def test_each_state_becomes_the_one_that_it_is_here(database: str, old_events: Any) -> None:
    """Undelivered events are pending or scheduled; the others keep their state and its moment."""
    now = timezone.now()
    for status in ("pending", "processing", "retry"):
        make(old_events, status, status=status, scheduled_at=now - HOUR)
        make(old_events, f"later {status}", status=status, scheduled_at=now + HOUR)
    make(old_events, "published", status="published", published_at=now - HOUR)
    make(old_events, "failed", status="failed", updated_at=now - HOUR, last_error="gone")
    move_events(database)
    assert states(database) == {
        **dict.fromkeys(("pending", "processing", "retry"), "pending"),
        **{f"later {status}": "scheduled" for status in ("pending", "processing", "retry")},
        "published": "published",
        "failed": "failed",
    }
    rows = outbox(database)
    assert rows["later retry"].scheduled_at == now + HOUR
    assert rows["published"].published_at == now - HOUR
    assert (rows["failed"].ended_at, rows["failed"].last_error) == (now - HOUR, "gone")


def test_undelivered_events_come_first_in_their_old_order(database: str, old_events: Any) -> None:
    """That order is the one of `created_at`; of one moment, the lower id comes first."""
    now = timezone.now()
    make(old_events, "done", status="published", created_at=now - 9 * HOUR)
    for number in (3, 1, 2):
        make(old_events, f"at {number}", created_at=now + number * HOUR)
    for number in (2, 1):
        make(old_events, f"same {number}", id=UUID(int=number), created_at=now)
    move_events(database)
    assert list(outbox(database)) == ["same 1", "same 2", "at 1", "at 2", "at 3", "done"]


def test_a_second_run_moves_nothing_twice(database: str, old_events: Any) -> None:
    """What has moved is gone from the old table; what is written later moves with the next run."""
    make(old_events, "a")
    assert move_events(database).moved == {"pending": 1}
    assert move_events(database).moved == {}
    make(old_events, "b")
    assert move_events(database).moved == {"pending": 1}
    assert list(outbox(database)) == ["a", "b"]


def test_an_event_that_is_there_already_is_not_written_again(
    database: str, old_events: Any
) -> None:
    """A row that somebody restored from a backup after the move does not double the event."""
    old = make(old_events, "a")
    move_events(database)
    make(old_events, "a", id=old.pk)
    move_events(database)
    assert OutboxEvent.objects.using(database).count() == 1
    assert not old_events.exists()


def test_events_without_a_backend_go_to_the_default(
    database: str, old_events: Any, settings: Settings
) -> None:
    """It is 0.1.1's: the first of Redis. An alias that is not configured is kept and reported."""
    make(old_events, "none")
    make(old_events, "gone", publisher_backend="gone")
    report = move_events(database)
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": DUMMY},
        "redis": {"BACKEND": REDIS},
        "audit": {"BACKEND": REDIS},
    }
    make(old_events, "later")
    assert move_events(database).default_alias == "redis"
    settings.OUTBOX_PUBLISHERS = {"dummy": {"BACKEND": DUMMY}, "default": {"BACKEND": DUMMY}}
    make(old_events, "no Redis")
    assert move_events(database).default_alias == "default"
    aliases = {subject: row.publisher_backend for subject, row in outbox(database).items()}
    assert aliases == {"none": "redis", "gone": "gone", "later": "redis", "no Redis": "default"}
    lines = "\n".join(report.lines())
    assert "Events without a backend: 1. These are delivered to 'redis'." in lines
    assert "Events for backend 'gone', which is not in OUTBOX_PUBLISHERS: 1." in lines


def test_a_backend_that_was_put_in_is_the_default_without_a_configured_one(
    database: str, old_events: Any, settings: Settings
) -> None:
    """0.1.1 sent everything to it, so that is where an event without a backend still has to go."""
    del settings.OUTBOX_PUBLISHERS
    backends.put("mine", locmem.LocMemBackend(alias="mine"))
    try:
        make(old_events, "a")
        move_events(database)
    finally:
        backends.remove("mine")
    row = outbox(database)["a"]
    assert (row.publisher_backend, row.status) == ("mine", "pending")


@pytest.mark.parametrize(
    ("publishers_now", "alias"),
    [
        (None, "default"),
        ({"local": {"BACKEND": LOCAL}}, "local"),
    ],
    ids=["OUTBOX_PUBLISHERS unset", "a local backend"],
)
def test_handlers_that_0_1_1_has_run_do_not_run_again(
    database: str,
    old_events: Any,
    settings: Settings,
    publishers_now: dict[str, Any] | None,
    alias: str,
) -> None:
    """A project with handlers alone never ran a worker: its events are all pending, and done."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = publishers_now
    if publishers_now is None:
        del settings.OUTBOX_PUBLISHERS
    ran: list[str] = []

    def note(event: Any) -> None:
        ran.append(event.subject)

    event_registry.register("order.placed", name="note")(note)
    try:
        for status in ("pending", "processing", "retry"):
            make(old_events, status, status=status)
        make(old_events, "later", scheduled_at=timezone.now() + HOUR)
        make(old_events, "named", publisher_backend=alias)
        make(old_events, "invalid", source="order service")
        make(old_events, "failed", status="failed")
        report = move_events(database)
        publisher.process_pending_events()
    finally:
        event_registry.unregister("note")
    assert ran == []
    assert report.moved == {"published": 6, "failed": 1}
    rows = outbox(database)
    assert {row.publisher_backend for row in rows.values()} == {alias}
    assert rows.pop("failed").status == "failed"
    for row in rows.values():
        assert row.published_at is not None
        assert "0.1.1 has run the handlers" in row.last_error
    assert f"Events for backend {alias!r}, which runs handlers: 6." in "\n".join(report.lines())


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "empty source": ({"source": ""}, "source: must be a non-empty string"),
    "source with a space": ({"source": "order service"}, "is not a URI reference"),
    "empty type": ({"event_type": ""}, "event_type: must be a non-empty string"),
    "control character": ({"event_type": "a\nb"}, "disallowed character"),
    "schema": ({"data_schema": "order.json"}, "not an absolute URI"),
    "content type": ({"data_content_type": "json"}, "not a media type"),
    "data that are no text": ({"data_content_type": "text/plain"}, "must be a string"),
    "spec version": ({"spec_version": "0.3"}, "must be '1.0', not '0.3'"),
    "status": ({"status": "waiting"}, "not 'waiting'"),
    "alias": (
        {"publisher_backend": "b" * 80},
        f"must have at most 64 characters, not 80: {'b' * 80}",
    ),
    "configuration": ({"publisher_config": ["a"]}, "must be a dictionary"),
}


def test_what_may_not_be_sent_is_a_dead_letter_that_says_why(
    database: str, old_events: Any
) -> None:
    """0.1.1 validated nothing. Such an event stops neither `migrate` nor others, and is kept."""
    for name, (columns, _) in INVALID.items():
        make(old_events, name, last_error="before", **columns)
    make(old_events, "valid")
    report = move_events(database)
    rows = outbox(database)
    assert rows.pop("valid").status == "pending"
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(INVALID, "failed")
    for name, (_, words) in INVALID.items():
        assert words in rows[name].last_error
        assert rows[name].last_error.endswith("last error: before")
        assert rows[name].ended_at is not None
    assert rows["source with a space"].source == "order service"
    assert report.invalid == len(INVALID)
    assert f"Invalid events: {len(INVALID)}." in "\n".join(report.lines())


def test_a_dead_letter_of_0_1_1_can_be_looked_at_and_corrected(
    database: str, old_events: Any, settings: Settings
) -> None:
    """Commands show every one of them, and one that was corrected is delivered."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {"redis": {"BACKEND": "django_broadcaster.backends.LocMemBackend"}}
    locmem.clear()
    for name, (columns, _) in INVALID.items():
        make(old_events, name, **columns)
    move_events(database)
    for row in outbox(database).values():
        call_command("outbox_inspect", row.pk, stdout=(out := StringIO()))
        assert "From 0.1.1" in out.getvalue()
    wrong = OutboxEvent.objects.dead_letters().filter(source="order service")
    wrong.update(source="order-service")
    OutboxEvent.objects.filter(source="order-service", subject="source with a space").replay()
    assert publisher.process_pending_events() == 1
    assert outbox(database)["source with a space"].status == "published"


def test_what_may_not_be_sent_keeps_its_state_if_it_was_sent(
    database: str, old_events: Any
) -> None:
    """Published events stay published, whatever they were."""
    make(old_events, "a", source="", status="published", publisher_backend="b" * 80)
    move_events(database)
    row = outbox(database)["a"]
    assert (row.status, row.publisher_backend) == ("published", "b" * 64)
    assert "b" * 80 in row.last_error


@pytest.mark.parametrize("data", [None, [], "text", 0, {"a": None}], ids=repr)
def test_data_are_what_they_were(database: str, old_events: Any, data: Any) -> None:
    """Whatever JSON 0.1.1 has stored; None was no data."""
    make(old_events, "a", data=data)
    move_events(database)
    row = outbox(database)["a"]
    assert row.data == data
    assert OutboxEvent.objects.using(database).filter(data__isnull=True).exists() == (data is None)


def test_empty_columns_are_unset(database: str, old_events: Any) -> None:
    """An empty subject, schema, content type or configuration means that there is none."""
    make(old_events, "", data_content_type="", publisher_config=None or {})
    move_events(database)
    row = outbox(database)[""]
    assert (row.status, row.data_content_type, row.data_schema) == ("pending", "", "")


def test_moved_payloads_are_encrypted(database: str, old_events: Any, settings: Settings) -> None:
    """With OUTBOX_ENCRYPTION_KEYS they are not readable in the outbox, and come back as before."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    make(old_events, "a", data={"secret": "é"})
    make(old_events, "none", data=None)
    move_events(database)
    rows = outbox(database)
    assert rows["a"].data is None
    assert rows["a"].sealed is not None
    assert rows["none"].sealed is None
    move_back(database)
    assert old_events.get(subject="a").data == {"secret": "é"}


def test_moments_do_not_depend_on_use_tz(database: str, old_events: Any) -> None:
    """A project without time zones reads the same local times after the move as before."""
    with override_settings(USE_TZ=False, TIME_ZONE="America/Chicago"):
        now = timezone.now()
        make(old_events, "due", scheduled_at=now - HOUR)
        old = make(old_events, "later", scheduled_at=now + HOUR)
        move_events(database)
        rows = outbox(database)
        assert (rows["due"].status, rows["later"].status) == ("pending", "scheduled")
        assert rows["later"].scheduled_at == now + HOUR
        assert rows["later"].created_at == rows["later"].time == old.created_at


def test_many_rows_move_in_batches(database: str, old_events: Any) -> None:
    """Each batch is small, says how many it moved, and rows of one moment are not skipped."""
    rows = [
        old_events.model(event_type="t", source="s", subject=str(n), id=UUID(int=n))
        for n in range(1, 1202)
    ]
    old_events.bulk_create(rows, batch_size=400)
    old_events.update(created_at=timezone.now())
    steps: list[int] = []
    report = move_events(database, steps.append)
    assert sum(steps) == report.moved["pending"] == 1201
    assert max(steps) <= 500
    assert list(outbox(database)) == [str(n) for n in range(1, 1202)]


def test_publishers_that_go_on_do_not_keep_a_move_from_ending(
    database: str, old_events: Any
) -> None:
    """Rows that are written while others move are left for the next run, and reported."""
    make(old_events, "a")
    make(old_events, "done", status="published", published_at=timezone.now())
    written: list[str] = []

    def publish(_: int) -> None:
        assert len(written) < 10, "the move does not end"
        written.append(f"new {len(written)}")
        make(old_events, written[-1])

    report = move_events(database, publish)
    assert list(outbox(database)) == ["a", "done"]
    assert report.left == len(written) == 2
    move_events(database)
    assert list(outbox(database)) == ["a", "done", *written]


def test_large_payloads_are_read_few_at_a_time(database: str, old_events: Any) -> None:
    """Rows of a megabyte each do not come into memory by the hundred."""
    for number in range(9):
        make(old_events, str(number), data=os.urandom(500_000).hex())
    steps: list[int] = []
    move_events(database, steps.append)
    assert sum(steps) == 9
    assert max(steps) <= 5
    assert set(states(database).values()) == {"pending"}


def test_rows_move_into_an_outbox_in_partitions(parted: str) -> None:
    """A trigger keeps an event from being written twice there, instead of an index."""
    with old_table(parted) as old_events:
        old = make(old_events, "a")
        make(old_events, "b")
        move_events(parted)
        make(old_events, "a", id=old.pk)
        move_events(parted)
        assert list(outbox(parted)) == ["a", "b"]
        assert not old_events.exists()


@pytest.mark.parametrize("on_delete", ["", " ON DELETE CASCADE"], ids=["plain", "cascade"])
def test_rows_that_a_foreign_key_refers_to_do_not_move(
    database: str, old_events: Any, on_delete: str
) -> None:
    """The error names the project's table, which loses no row; without the key, events move."""
    event = make(old_events, "a")
    make(old_events, "b")
    kind = {"postgresql": "uuid", "mysql": "char(32)", "sqlite": "char(32)"}
    with connections[database].cursor() as cursor:
        if connections[database].vendor == "mysql":
            cursor.execute("SHOW COLUMNS FROM outbox_events LIKE 'id'")
            kind["mysql"] = cursor.fetchone()[1]
        cursor.execute(
            f"CREATE TABLE tests_notice (event_id {kind[connections[database].vendor]}, "
            "CONSTRAINT tests_refers FOREIGN KEY (event_id) REFERENCES outbox_events (id)"
            f"{on_delete})"
        )
        try:
            cursor.execute(
                "INSERT INTO tests_notice SELECT id FROM outbox_events WHERE subject = 'a'"
            )
            with pytest.raises(ReferencedError, match="a foreign key of tests_notice refers to"):
                move_events(database)
            with pytest.raises(CommandError, match="tests_notice"):
                call_command(
                    "outbox_upgrade", database=database, stdout=StringIO(), stderr=StringIO()
                )
            cursor.execute("SELECT COUNT(*) FROM tests_notice")
            assert cursor.fetchone() == (1,)
            assert (old_events.count(), outbox(database)) == (2, {})
        finally:
            cursor.execute("DROP TABLE tests_notice")
    move_events(database)
    assert outbox(database)["a"].event_id == str(event.pk)


@contextmanager
def refusing(database: str) -> Iterator[None]:
    """Let the database refuse rows of the subject `refused`."""
    table = OutboxEvent._meta.db_table
    add = f"ALTER TABLE {table} ADD CONSTRAINT tests_refuse CHECK (subject <> 'refused')"
    remove = f"ALTER TABLE {table} DROP CONSTRAINT tests_refuse"
    if connections[database].vendor == "sqlite":
        add = (
            f"CREATE TRIGGER tests_refuse BEFORE INSERT ON {table} WHEN NEW.subject = 'refused' "
            "BEGIN SELECT RAISE(ABORT, 'tests_refuse'); END"
        )
        remove = "DROP TRIGGER tests_refuse"
    with connections[database].cursor() as cursor:
        cursor.execute(add)
        try:
            yield
        finally:
            cursor.execute(remove)


def test_a_row_that_the_database_refuses_stays_and_is_reported(
    database: str, old_events: Any
) -> None:
    """All others move; the next run tries it again."""
    for subject in ("a", "refused", "b"):
        make(old_events, subject)
    with refusing(database):
        report = move_events(database)
    assert list(outbox(database)) == ["a", "b"]
    [(event_id, reason)] = report.refused
    assert event_id == str(old_events.get().pk)
    assert "tests_refuse" in reason
    assert "Events left in outbox_events: 1." in "\n".join(report.lines())
    move_events(database)
    assert list(outbox(database)) == ["a", "b", "refused"]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_open_transactions_of_0_1_1_are_not_waited_for(database: str, old_events: Any) -> None:
    """A row that a worker of 0.1.1 has locked stays for the next run, and so does a later one."""
    locked = make(old_events, "locked")
    make(old_events, "free")
    with closing(connections[database].copy()) as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(
                "UPDATE outbox_events SET status = 'processing' WHERE id = %s",
                [locked.pk if connections[database].vendor == "postgresql" else str(locked.pk)],
            )
            cursor.execute(
                "INSERT INTO outbox_events SELECT %s, spec_version, event_type, source, 'open', "
                "data_content_type, data_schema, data, status, created_at, updated_at, "
                "scheduled_at, published_at, retry_count, max_retries, last_error, "
                "publisher_backend, publisher_config FROM outbox_events WHERE subject = 'locked'",
                ["00000000-0000-0000-0000-000000000001"],
            )
            report = move_events(database)
            assert list(outbox(database)) == ["free"]
            assert report.left == 1
        other.commit()
    move_events(database)
    assert set(outbox(database)) == {"free", "locked", "open"}


def run(database: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command of this version on a test database."""
    return subprocess.Popen(
        [sys.executable, str(MANAGE), *arguments, "--database", database],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(database, {}),
    )


@pytest.mark.chaos
def test_a_kill_in_the_middle_loses_and_doubles_nothing(database: str, old_events: Any) -> None:
    """A batch is one transaction over both tables, and the next run moves the rest."""
    subjects = [str(number) for number in range(6000)]
    rows = [old_events.model(event_type="t", source="s", subject=each) for each in subjects]
    for number, row in enumerate(rows):
        row.id = UUID(int=number + 1)
    old_events.bulk_create(rows, batch_size=1000)
    old_events.update(created_at=timezone.now())
    moved = OutboxEvent.objects.using(database)
    process = run(database, "outbox_upgrade")
    wait_until(lambda: moved.count() >= 500, 30, "the first batches to have moved")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    here, there = moved.count(), old_events.count()
    assert here + there == len(subjects)
    assert there > 0
    assert here > 0
    move_events(database)
    assert list(moved.order_by("id").values_list("subject", flat=True)) == subjects
    assert not old_events.exists()


# Back to 0.1.1, and the end of its table


def test_undelivered_events_can_go_back(database: str, old_events: Any) -> None:
    """They are in 0.1.1's table again as it wrote them; what is over stays in the outbox."""
    now = timezone.now()
    for status in ("pending", "retry"):
        make(old_events, status, status=status, retry_count=1, publisher_config={"a": 1})
    make(old_events, "later", scheduled_at=now + HOUR)
    make(old_events, "done", status="published", published_at=now)
    columns = [field.name for field in old_events.model._meta.fields if field.name != "status"]
    before = {
        row["subject"]: row for row in old_events.values(*columns) if row["subject"] != "done"
    }
    call_command("outbox_upgrade", database=database, stdout=StringIO(), stderr=StringIO())
    with transaction.atomic(using=database):
        publisher.publish_event("t", "s", {"new": 1}, "new", backend="redis", using=database)
    call_command(
        "outbox_upgrade", "--back", database=database, stdout=StringIO(), stderr=StringIO()
    )
    assert states(database) == {"done": "published"}
    after = {row["subject"]: row for row in old_events.values(*columns)}
    new = after.pop("new")
    for row in after.values():
        row["publisher_backend"] = ""  # it is written down which one that was
    assert after == before
    assert new["data"] == {"new": 1}
    assert set(old_events.values_list("status", flat=True)) == {"pending"}
    move_events(database)
    assert set(states(database)) == {"pending", "retry", "later", "done", "new"}


def test_what_0_1_1_can_not_hold_does_not_go_back(database: str, old_events: Any) -> None:
    """It stays in the outbox, and the command fails and says why."""
    arguments = {"event_type": "t", "source": "s", "backend": "redis", "using": database}
    with transaction.atomic(using=database):
        publisher.publish_event(**arguments, event_id="order-1")
        publisher.publish_event(**arguments, data=b"bytes")
        publisher.publish_event(**arguments, extensions={"tenant": "x"})
        publisher.publish_event(**{**arguments, "source": "s" * 300})
        publisher.publish_event(**arguments)
    with pytest.raises(CommandError, match="4 events could not be moved"):
        call_command(
            "outbox_upgrade",
            "--back",
            database=database,
            stdout=(out := StringIO()),
            stderr=StringIO(),
        )
    for reason in ("UUID", "binary", "extension", "255 characters for source"):
        assert reason in out.getvalue()
    assert old_events.count() == 1
    assert OutboxEvent.objects.using(database).count() == 4


def test_ids_that_0_1_1_would_write_in_another_way_do_not_go_back(
    database: str, old_events: Any
) -> None:
    """Consumers know an event by the text of its id, which 0.1.1 always writes in one way."""
    kept = [str(uuid4()).upper(), uuid4().hex, f"urn:uuid:{uuid4()}"]
    with transaction.atomic(using=database):
        for event_id in kept:
            publisher.publish_event("t", "s", event_id=event_id, backend="redis", using=database)
    report = move_back(database)
    assert [event_id for event_id, _ in report.refused] == kept
    assert all("0.1.1 would change the id to" in reason for _, reason in report.refused)
    assert not old_events.exists()


@pytest.mark.parametrize(
    ("publishers_now", "alias"),
    [
        ({"default": {"BACKEND": LOCAL}}, "default"),
        ({"handlers": {"BACKEND": LOCAL}}, "handlers"),
        ({"redis": {"BACKEND": REDIS}}, "handlers"),
    ],
    ids=["configured", "configured as handlers", "added"],
)
def test_events_whose_handlers_have_not_run_do_not_go_back(
    database: str,
    old_events: Any,
    settings: Settings,
    publishers_now: dict[str, Any],
    alias: str,
) -> None:
    """0.1.1 would not run them, so they stay, whatever the alias that runs handlers is called."""
    settings.OUTBOX_PUBLISHERS = publishers_now
    settings.OUTBOX_ROUTES = None
    event_registry.register("t", name="note")(str)
    try:
        with transaction.atomic(using=database):
            event = publisher.publish_event("t", "s", backend=alias, using=database)
        with pytest.raises(CommandError, match="1 event could not be moved"):
            call_command(
                "outbox_upgrade",
                "--back",
                database=database,
                stdout=(out := StringIO()),
                stderr=StringIO(),
            )
    finally:
        event_registry.unregister("note")
    assert f"run outbox_worker --drain --backend {alias}" in out.getvalue()
    assert OutboxEvent.objects.using(database).filter(pk=event.pk).exists()
    assert not old_events.exists()


def test_nothing_goes_back_under_a_running_relay(database: str, old_events: Any) -> None:
    """It would deliver events that 0.1.1 delivers as well."""
    now = timezone.now()
    OutboxRelay.objects.using(database).create(
        name="r", backend="redis", started_at=now, heartbeat_at=now
    )
    with pytest.raises(CommandError, match="A relay is running"):
        call_command("outbox_upgrade", "--back", database=database)


def migrate_backwards(database: str) -> None:
    """Do what `migrate django_broadcaster zero` does before it drops the tables."""
    migration = import_module("django_broadcaster.migrations.0002_events_of_0_1")
    migration.restore(apps, connections[database].schema_editor())


def test_migrating_backwards_without_the_old_table_loses_no_event(
    database: str, old_events: Any
) -> None:
    """It stops before the tables are dropped, until no undelivered event is left."""
    with transaction.atomic(using=database):
        publisher.publish_event("t", "s", backend="redis", using=database)
    call_command("outbox_upgrade", "--drop", "--no-input", database=database, stdout=StringIO())
    with pytest.raises(RuntimeError, match="undelivered events would be lost: 1"):
        migrate_backwards(database)
    OutboxEvent.objects.using(database).cancel()
    migrate_backwards(database)


def test_migrating_backwards_stops_under_a_running_relay(database: str, old_events: Any) -> None:
    """It would deliver events that 0.1.1 delivers as well, and then miss its tables."""
    make(old_events, "a")
    move_events(database)
    now = timezone.now()
    OutboxRelay.objects.using(database).create(
        name="r", backend="redis", started_at=now, heartbeat_at=now
    )
    with pytest.raises(RuntimeError, match="a relay is running"):
        migrate_backwards(database)
    assert list(outbox(database)) == ["a"]


def test_the_old_table_is_dropped_when_it_is_empty(database: str, old_events: Any) -> None:
    """With rows in it the command refuses; afterwards 0.1.1 would migrate from the start."""
    make(old_events, "a")
    with pytest.raises(CommandError, match="must be empty"):
        call_command("outbox_upgrade", "--drop", "--no-input", database=database)
    move_events(database)
    out = StringIO()
    call_command("outbox_upgrade", "--drop", "--no-input", database=database, stdout=out)
    assert out.getvalue() == "Dropped the table outbox_events.\n"
    assert not OldTable(database).exists()
    call_command("outbox_upgrade", database=database, stdout=out)
    assert "The table outbox_events of version 0.1.1" in out.getvalue()


def test_dropping_asks_first(
    database: str, old_events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any answer but yes leaves the table, and so does a script without `--no-input`."""
    monkeypatch.setattr("builtins.input", lambda _: "")
    for screen in (Terminal(), StringIO()):
        with pytest.raises(CommandError, match="the table was not dropped"):
            call_command("outbox_upgrade", "--drop", database=database, stdout=screen)
    assert OldTable(database).exists()


def test_a_check_says_that_rows_are_left(database: str, old_events: Any) -> None:
    """Processes of 0.1.1 that go on after `migrate` write them, and no relay reads them."""

    def found() -> list[str | None]:
        return [each.id for each in run_checks(tags=["database"], databases=[database])]

    assert "django_broadcaster.W008" not in found()
    make(old_events, "a")
    assert "django_broadcaster.W008" in found()
    move_events(database)
    assert "django_broadcaster.W008" not in found()


def test_a_table_of_another_app_is_left_alone(database: str) -> None:
    """`outbox_events` is a common name: the columns tell whose it is."""
    with connections[database].cursor() as cursor:
        cursor.execute("CREATE TABLE outbox_events (id integer, status varchar(20))")
        try:
            cursor.execute("INSERT INTO outbox_events VALUES (1, 'pending')")
            assert move_events(database).moved == {}
            assert run_checks(tags=["database"], databases=[database]) == []
            cursor.execute("SELECT COUNT(*) FROM outbox_events")
            assert cursor.fetchone() == (1,)
        finally:
            cursor.execute("DROP TABLE outbox_events")
