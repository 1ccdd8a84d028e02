"""Events that wait for one destination of many, while another transaction has locked a row."""

from __future__ import annotations

import pytest
from django.utils import timezone

from django_broadcaster.exceptions import TransientError
from django_broadcaster.relay import holdings, waiting
from tests.support.backends import Script
from tests.support.databases import DATABASES, SERVERS
from tests.support.events import publish, row

from .conftest import Join, drain, turn
from .test_locked_rows import Holder, _prompt, holder

__all__ = ["_prompt", "holder"]  # fixtures

NAMES = [f"-{number}" for number in range(waiting.PROBES + 2)]
LAST = NAMES[-1]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each attempt at once."""
    monkeypatch.setattr(holdings, "HASTEN_SECONDS", 0.0)


def away() -> TransientError:
    """Return the outcome of an event that was not sent, because its destination is away."""
    error = TransientError("its endpoint is away", retry_after=60, spends_retry=False)
    error.waits_for = "x"
    error.sent = False
    return error


def is_put_off(name: str, database: str) -> bool:
    """Return True if an event is due in more than a minute."""
    return (row(name, database).scheduled_at - timezone.now()).total_seconds() > 60


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_an_event_that_was_locked_when_its_destination_returned_is_due_at_once(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """It is sent as soon as the lock is gone, though nothing else was to be delivered."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    loop = join()
    drain(loop)
    assert is_put_off(LAST, database)
    holder.change([LAST])
    scripted.returned = {"x"}
    drain(loop)
    assert LAST not in scripted.arrived
    holder.rollback()
    drain(loop)
    assert row(LAST, database).status == "published"


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_an_event_whose_delay_was_not_written_yet_is_due_at_once(
    database: str, scripted: Script, join: Join, holder: Holder
) -> None:
    """It was locked when its failure was to be settled, and its destination returned meanwhile."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    holder.change([LAST])
    loop = join()
    drain(loop)
    scripted.returned = {"x"}
    drain(loop)
    holder.rollback()
    drain(loop)
    assert row(LAST, database).status == "published"


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_events_are_due_at_once_if_a_settle_failed_when_their_destination_returned(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that was settled late has the same effect as one that was settled in time."""
    for name in NAMES:
        scripted.fail(name, away(), times=1)
    publish(*NAMES, using=database)
    loop = join()
    turn(loop)
    assert is_put_off(LAST, database)
    publish("a1", using=database)
    scripted.returned = {"x"}
    with monkeypatch.context() as patch:
        patch.setattr(loop.held.rows, "published", _fail)
        with pytest.raises(OSError, match="disk"):
            turn(loop)
    drain(loop)
    assert row(LAST, database).status == "published"


def _fail(*_: object, **__: object) -> int:
    raise OSError("disk full")
