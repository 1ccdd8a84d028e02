"""Periodic events: at the times of a crontab, once for all relays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

from django_broadcaster.exceptions import MissingClient
from django_broadcaster.models import OutboxEvent
from django_broadcaster.periodic import Schedule, periodic, schedules
from django_broadcaster.store import DatabaseClock
from tests.app.models import Order
from tests.relay.conftest import Join, clock, drain, join, turn
from tests.support.databases import ANY
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

pytest.importorskip("cronsim", reason="cronsim reads the crontabs")

__all__ = ["clock", "join"]

LOCAL = "django_broadcaster.backends.LocalBackend"
BERLIN = "Europe/Berlin"

any_database = pytest.mark.parametrize("database", ANY, indirect=True)


@pytest.fixture(autouse=True)
def _no_schedules() -> Iterator[None]:
    with only_handlers():
        yield
    for schedule in schedules:
        schedules.remove(schedule.name)


@pytest.fixture
def outbox(database: str, settings: Settings) -> str:
    """The database of an outbox whose events go to handlers."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    return database


def close_day(event: Any) -> None:
    """Create an order."""
    Order.objects.create(number=event.id)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the relays' clock be ahead."""
    real: Callable[[DatabaseClock], float] = DatabaseClock.timestamp
    monkeypatch.setattr(DatabaseClock, "timestamp", lambda self: real(self) + seconds)


def events() -> list[OutboxEvent]:
    """The events of the outbox, in order."""
    return list(OutboxEvent.objects.order_by("pk"))


def test_event_is_in_the_outbox_before_its_time_and_runs_once(
    outbox: str, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever relays there are, one event is written for each time, and its handler runs once."""
    periodic("* * * * *", name="shop.close_day")(close_day)
    before = timezone.now()
    loops = [join() for _ in range(2)]
    for loop in loops:
        turn(loop)
    (event,) = events()
    assert event.status == "scheduled"
    assert before < event.scheduled_at <= timezone.now() + timedelta(minutes=1)
    assert (event.event_type, event.time) == ("shop.close_day", event.scheduled_at)
    assert event.scheduled_at.second == 0
    OutboxEvent.objects.update(scheduled_at=before)
    wait_until(lambda: any(turn(loop).published for loop in loops), 10, "the event that is due")
    assert Order.objects.get().number == event.event_id
    later(monkeypatch, 61)
    for loop in loops:
        drain(loop)
    first, second = events()
    assert first.status == "published"
    assert second.status == "scheduled"
    assert second.time > first.time


@any_database
def test_time_that_an_operator_cancelled_is_left_out(outbox: str, join: Join) -> None:
    """A relay that starts again does not write the event once more."""
    periodic("0 3 * * *", name="shop.close_day")(close_day)
    turn(join())
    OutboxEvent.objects.all().cancel()
    turn(join())
    assert [event.status for event in events()] == ["cancelled"]


@any_database
@pytest.mark.parametrize("backend", ["nowhere", None])
def test_event_that_can_go_nowhere_is_logged(
    outbox: str,
    join: Join,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    backend: str | None,
) -> None:
    """A wrong alias, or no backend that runs handlers, is logged and stops nothing else."""
    settings.OUTBOX_ROUTES = {}
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}
    }
    periodic("0 3 * * *", name="shop.close_day", backend=backend)(close_day)
    turn(join())
    assert "Could not schedule the periodic event 'shop.close_day'" in caplog.text
    assert events() == []


def test_times_are_those_of_the_time_zone(settings: Settings) -> None:
    """A time that the clock skips comes at the change, and one that it repeats comes once."""
    settings.TIME_ZONE = BERLIN
    nightly = Schedule("nightly", "30 2 * * *")
    spring = nightly.after(datetime(2027, 3, 28, tzinfo=UTC))
    assert spring == datetime(2027, 3, 28, 1, 0, tzinfo=UTC)
    autumn = nightly.after(datetime(2027, 10, 30, 23, tzinfo=UTC))
    assert autumn == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    assert nightly.after(autumn) == datetime(2027, 11, 1, 1, 30, tzinfo=UTC)
    utc = Schedule("utc", "30 2 * * *", timezone="UTC")
    assert utc.after(datetime(2027, 3, 28, tzinfo=UTC)) == datetime(2027, 3, 28, 2, 30, tzinfo=UTC)
    assert Schedule("never", "* * */20 * 1L").after(datetime(2027, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"cron": "61 * * * *"}, "cron: must be five fields as in a crontab, not '61"),
        ({"cron": "@daily"}, "cron: must be five fields"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "timezone: must be a name such as"),
        ({"cron": "0 3 * * *", "name": "x" * 201}, "name: must have 200 characters at most"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, str], error: str) -> None:
    """An error names the argument and the rule, and nothing is registered."""
    with pytest.raises(ValueError, match=error):
        periodic(**arguments)(close_day)
    assert len(schedules) == 0


def test_name_is_taken_once() -> None:
    """Two functions can't share a name; importing a module twice is no error."""
    for _ in range(2):
        periodic("0 3 * * *", name="nightly")(close_day)
    with pytest.raises(ValueError, match="name: must be unique"):
        periodic("0 4 * * *", name="nightly")(close_day)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cronsim the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingClient, match=r"django-broadcaster\[periodic\]"):
        periodic("0 3 * * *")(close_day)
