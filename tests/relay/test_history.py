"""The minutes that relays add up, and the circuits that they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.exceptions import BackendUnavailable, Rejected, TransientError
from django_broadcaster.models import OutboxBackendState, OutboxEvent, OutboxRelay, OutboxSample
from django_broadcaster.relay import history
from django_broadcaster.store import Figures, add_to_minute, minute_of, pause
from django_broadcaster.store.sql import SAMPLES
from tests.support.backends import Script
from tests.support.clock import Clock
from tests.support.events import publish
from tests.support.waiting import wait_until

from .conftest import Join, turn, working

if TYPE_CHECKING:
    from pytest_django import Settings


def figures(database: str) -> dict[str, int]:
    """Return the sum of the counts of all minutes."""
    names = ("published", "retried", "failed", "timed", "medians", "p99")
    rows = list(OutboxSample.objects.using(database).values(*names))
    return {name: sum(row[name] for row in rows) for name in names}


def test_what_came_of_deliveries_is_added_up(database: str, scripted: Script, join: Join) -> None:
    """Each outcome is counted over the batches, and written at the end of the relay."""
    scripted.fail("b1", TransientError("busy"), times=1)
    scripted.fail("c1", Rejected("never"))
    loop = join()
    for names in (("a1", "a2"), ("a3", "b1"), ("c1",)):
        publish(*names, using=database)
        loop.turn(100)
    loop.end()
    found = figures(database)
    assert (found["published"], found["retried"], found["failed"]) == (3, 1, 1)
    loop.end()
    assert figures(database) == found, "what has been written is written again"


def test_relays_add_to_the_same_minute(database: str) -> None:
    """Counts are added, the largest percentile stands, and what was not measured stays."""
    samples = OutboxSample.objects.using(database).all()
    add_to_minute(samples, "default", 7, Figures(published=2, medians=30, timed=2, p99=20))
    add_to_minute(samples, "default", 7, Figures(backlog=5, oldest_age=900, circuit_open=True))
    add_to_minute(samples, "default", 7, Figures(published=3, medians=9, timed=1, p99=9))
    add_to_minute(samples, "default", 8, Figures(failed=1))
    add_to_minute(samples, "other", 7, Figures(retried=1))
    row = samples.get(backend="default", minute=7)
    assert (row.published, row.timed, row.medians, row.p99) == (5, 3, 39, 20)
    assert (row.backlog, row.oldest_age, row.circuit_open) == (5, 900, True)
    assert samples.count() == 3


def test_a_busy_relay_writes_seldom(database: str, scripted: Script, join: Join) -> None:
    """Many batches are one write, however many turns they take."""
    loop = join()
    turn(loop)
    publish(*(f"a{number}" for number in range(30)), using=database)
    with CaptureQueriesContext(connections[database]) as queries:
        for _ in range(30):
            loop.turn(1)
    assert len(scripted.arrived) == 30
    assert [query["sql"] for query in queries if SAMPLES in query["sql"]] == []


def test_a_relay_writes_every_few_seconds(
    database: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a running relay has done can be seen before it ends."""
    monkeypatch.setattr(history, "WRITE_SECONDS", 0.1)
    with working(database):
        publish("a1", "a2", using=database)
        wait_until(lambda: figures(database)["published"] == 2, 10, "its figures")


def test_a_relay_that_stops_writes_the_rest(database: str, scripted: Script) -> None:
    """On a clean stop nothing is missing."""
    with working(database):
        publish("a1", "a2", "a3", using=database)
        wait_until(lambda: len(scripted.arrived) == 3, 10, "the deliveries")
    assert figures(database)["published"] == 3


def test_latency_is_from_due_to_settled(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """A delivery that is timed tells how long its events had been due, and for that reads more."""
    loop = join()
    turn(loop)
    clock.advance(1)
    publish("a1", "a2", using=database)
    since = timezone.now() - timedelta(seconds=5)
    OutboxEvent.objects.using(database).filter(subject="a1").update(scheduled_at=since)
    loop.turn(100)
    loop.end()
    found = figures(database)
    assert found["timed"] == 2
    assert 5000 <= found["p99"] < 20_000
    assert found["medians"] < 2 * 5000  # of two, the median is the shorter one


def test_one_delivery_a_second_is_timed(database: str, scripted: Script, join: Join) -> None:
    """The fetches in between read no more than they need."""
    loop = join()
    publish(*(f"a{number}" for number in range(10)), using=database)
    with CaptureQueriesContext(connections[database]) as queries:
        for _ in range(10):
            loop.turn(1)
    fetches = [q["sql"] for q in queries if "data_binary" in q["sql"]]
    timed = [sql for sql in fetches if "scheduled_at" in sql.partition(" FROM ")[0]]
    assert len(fetches) == 10
    assert 1 <= len(timed) < 5


def test_the_owner_of_the_first_partition_says_what_waits(
    database: str, scripted: Script, join: Join
) -> None:
    """The backlog and the age of its oldest event are noted, and by no second relay."""
    pause(OutboxBackendState.objects.using(database).all(), "default")
    publish("a1", "b1", "c1", using=database)
    publish("d1", using=database, scheduled_at=timezone.now() + timedelta(hours=1))
    since = timezone.now() - timedelta(minutes=2)
    OutboxEvent.objects.using(database).filter(subject="a1").update(scheduled_at=since)
    visitor = join(takes_share=False)
    turn(visitor)
    row = OutboxSample.objects.using(database).get()
    assert (row.backlog, row.paused) == (3, True)
    assert row.oldest_age is not None
    assert 120_000 <= row.oldest_age < 150_000
    OutboxSample.objects.using(database).all().delete()
    other = join()
    turn(other)
    other.end()
    assert not OutboxSample.objects.using(database).exists()


def test_old_minutes_go(database: str, scripted: Script, join: Join, settings: Settings) -> None:
    """HISTORY_RETENTION prunes the minutes, and no younger ones."""
    settings.OUTBOX_HISTORY_RETENTION = 3600
    samples, now = OutboxSample.objects.using(database), minute_of(timezone.now())
    for age in (90, 61, 58, 10):
        samples.create(backend="default", minute=now - age, published=1)
    turn(join())
    kept = samples.filter(minute__lt=now - 1).order_by("minute").values_list("minute", flat=True)
    assert [now - minute for minute in kept] == [58, 10]


def test_an_open_circuit_can_be_seen(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """The relay's row says since when the broker is away and why, until it is back."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.01}
    scripted.fail("a1", BackendUnavailable("rabbit-1: connection refused"), times=1)
    publish("a1", using=database)
    loop = join()
    turn(loop)
    relay = OutboxRelay.objects.using(database).get()
    assert relay.circuit_open_since is not None
    assert relay.circuit_error == "BackendUnavailable: rabbit-1: connection refused"
    wait_until(lambda: loop.turn(100).published, 10, "the delivery")
    relay.refresh_from_db()
    assert (relay.circuit_open_since, relay.circuit_error) == (None, "")


def test_a_broker_that_can_not_be_connected_to_can_be_seen(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """A circuit that opens because the backend does not open is shown, too, and in the history."""

    def refuse() -> None:
        raise BackendUnavailable("refused " + "x" * 5000)

    scripted.on_open = refuse
    publish("a1", using=database)
    loop = join()
    turn(loop)
    turn(loop)
    assert len(OutboxRelay.objects.using(database).get().circuit_error) == 500
    clock.advance(10)
    turn(loop)
    assert OutboxSample.objects.using(database).filter(circuit_open=True).exists()


@contextmanager
def _without_minutes(database: str) -> Iterator[None]:
    """Take the table away for the time of the block."""
    with connections[database].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {SAMPLES} RENAME TO gone")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE gone RENAME TO {SAMPLES}")


def test_deliveries_go_on_without_a_history(
    database: str, scripted: Script, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that can't be written costs a line in the log, and the figures are not lost."""
    loop = join()
    with _without_minutes(database):
        publish("a1", using=database)
        turn(loop)
        loop.end()
    assert scripted.arrived == ["a1"]
    assert "Could not write the dashboard's figures" in caplog.text
    loop.end()
    assert figures(database)["published"] == 1
