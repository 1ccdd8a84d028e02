"""Periodic events: at the times of a crontab, once for all relays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from django.utils import timezone

from django_broadcaster.exceptions import MissingClient
from django_broadcaster.models import OutboxBackendState, OutboxEvent
from django_broadcaster.periodic import Schedule, periodic, schedules
from django_broadcaster.publishers import publisher
from django_broadcaster.store import DatabaseClock, pause, resume
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


def stopped(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    """Let the relays' clock stand still."""
    monkeypatch.setattr(DatabaseClock, "timestamp", lambda self: moment.timestamp())


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
    periodic("*/10 * * * *", name="shop.close_day")(close_day)
    now = timezone.now()
    first_time = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    stopped(monkeypatch, first_time - timedelta(seconds=1))
    loops = [join() for _ in range(2)]
    for loop in loops:
        turn(loop)
    (event,) = events()
    assert event.status == "scheduled"
    assert event.scheduled_at == event.time == first_time
    assert event.event_type == "shop.close_day"
    OutboxEvent.objects.update(scheduled_at=now)
    wait_until(lambda: any(turn(loop).published for loop in loops), 10, "the event that is due")
    assert Order.objects.get().number == event.event_id
    stopped(monkeypatch, first_time)
    for loop in loops:
        drain(loop)
    first, second = events()
    assert first.status == "published"
    assert second.status == "scheduled"
    assert second.time == first_time + timedelta(minutes=10)


@any_database
def test_periodic_event_needs_no_transaction_of_a_caller(
    outbox: str, join: Join, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay writes periodic events although OUTBOX_REQUIRE_TRANSACTION is set."""
    settings.OUTBOX_REQUIRE_TRANSACTION = True
    periodic("0 3 * * *", name="shop.close_day")(close_day)
    turn(join())
    assert [event.status for event in events()] == ["scheduled"]
    assert "Could not schedule" not in caplog.text


@any_database
def test_paused_backend_gets_one_periodic_event(
    outbox: str, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a backend is paused the times do not pile up: the first one runs when it is resumed."""
    periodic("* * * * *", name="shop.close_day")(close_day)
    loop = join()
    turn(loop)
    states = OutboxBackendState.objects.using(outbox).all()
    pause(states, "default")
    for minutes in (2, 4):
        later(monkeypatch, 60 * minutes)
        turn(loop)
    assert len(events()) == 1
    resume(states, "default")
    turn(loop)
    assert len(events()) == 2


class _OtherOutbox(OneDatabase):
    """Writes events in another database."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Return another alias for events, and the usual one for all others."""
        return "elsewhere" if model is OutboxEvent else super().db_for_read(model, **hints)


@any_database
def test_event_is_in_one_of_several_outboxes(outbox: str, join: Join, settings: Settings) -> None:
    """Only the relay of the database where the router writes events writes periodic ones."""
    periodic("0 3 * * *", name="shop.close_day")(close_day)
    loop = join()
    settings.DATABASE_ROUTERS = [_OtherOutbox(outbox)]
    turn(loop)
    assert not OutboxEvent.objects.using(outbox).exists()
    settings.DATABASE_ROUTERS = [OneDatabase(outbox)]
    turn(loop)
    assert len(events()) == 1


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


@any_database
def test_schedule_that_fails_stops_nothing_else(
    outbox: str, join: Join, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in finding the next time is logged, and events are delivered."""
    settings.TIME_ZONE = "Mars/Olympus"
    periodic("0 3 * * *", name="shop.close_day")(close_day)
    with transaction.atomic(using=outbox):
        publisher.publish_event("shop.close_day", "/shop", event_id="by hand")
    drain(join())
    assert "Could not schedule the periodic event 'shop.close_day'" in caplog.text
    assert Order.objects.get().number == "by hand"


def test_times_are_those_of_the_time_zone(settings: Settings) -> None:
    """A time that the clock skips comes at the change, and one that it repeats comes once.

    Hours with `*` follow the clock.
    """
    settings.TIME_ZONE = BERLIN
    nightly = Schedule("nightly", "30 2 * * *")
    spring = nightly.after(datetime(2027, 3, 28, tzinfo=UTC))
    assert spring == datetime(2027, 3, 28, 1, 0, tzinfo=UTC)
    autumn = nightly.after(datetime(2027, 10, 30, 23, tzinfo=UTC))
    assert autumn == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    assert nightly.after(autumn) == datetime(2027, 11, 1, 1, 30, tzinfo=UTC)
    repeated = datetime(2027, 10, 31, 1, 10, tzinfo=UTC)
    assert nightly.after(repeated) == datetime(2027, 11, 1, 1, 30, tzinfo=UTC)
    hourly = Schedule("hourly", "15 * * * *")
    assert hourly.after(repeated) == datetime(2027, 10, 31, 1, 15, tzinfo=UTC)
    utc = Schedule("utc", "30 2 * * *", timezone="UTC")
    assert utc.after(datetime(2027, 3, 28, tzinfo=UTC)) == datetime(2027, 3, 28, 2, 30, tzinfo=UTC)
    assert Schedule("never", "* * */20 * 1L").after(datetime(2027, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"cron": "61 * * * *"}, "cron: must be five fields as in a crontab, not '61"),
        ({"cron": "@daily"}, "cron: must be five fields"),
        ({"cron": "0 0 3 * * *"}, "cron: must be five fields"),
        ({"cron": "0 3 * * *", "timeout": -1}, "timeout"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "timezone: must be a name such as"),
        ({"cron": "0 3 * * *", "name": "x" * 201}, "name: must have 200 characters at most"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], error: str) -> None:
    """An error names the argument and the rule, and no event is scheduled."""
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
