"""The state of a backend, by the facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

from django_broadcaster.models import OutboxSample, OutboxWebhookEndpoint
from django_broadcaster.store import (
    Endpoints,
    Facts,
    Judgement,
    Overview,
    Recent,
    Slot,
    State,
    judge,
    judgements,
    minute_of,
)
from django_broadcaster.store.judgement import Level

if TYPE_CHECKING:
    from pytest_django import Settings


def ago(seconds: float) -> datetime:
    """Return a moment in the past."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def judged(
    recent: Recent = Recent(),  # noqa: B008  # it never changes
    *,
    disabled: int = 0,
    is_configured: bool = True,
    slot: Slot | None = None,
    **figures: Any,
) -> Judgement:
    """Return the judgement on a backend that is healthy but for these facts."""
    healthy: dict[str, Any] = {
        **dict.fromkeys(("pending", "scheduled", "retry", "blocked", "failed"), 0),
        **dict.fromkeys(("oldest_due", "oldest_retry", "away_since", "paused_at")),
        **dict.fromkeys(("retry_error", "away_because", "paused_by"), ""),
        "relays": 1,
        "free_partitions": 0,
    }
    return judge(
        Facts(
            overview=Overview(backend="default", **{**healthy, **figures}),
            recent=recent,
            endpoints=Endpoints(disabled=disabled),
            is_configured=is_configured,
            slot=slot,
        )
    )


def everything() -> list[tuple[State, dict[str, Any]]]:
    """Return facts, from the mildest on, each with the state if all before it apply as well."""
    return [
        (State.UP_TO_DATE, {}),
        (State.DELIVERING, {"pending": 1, "oldest_due": ago(1)}),
        (State.WAITING, {"pending": 0, "oldest_due": None, "retry": 2, "oldest_retry": ago(9)}),
        (State.SOME_FAILING, {"disabled": 1}),
        (State.UNOWNED, {"free_partitions": 3}),
        (State.LATE, {"oldest_due": ago(61)}),
        (State.FAILING, {"recent": Recent(published=10, failures=10)}),
        (State.UNAVAILABLE, {"away_since": ago(5), "away_because": "refused"}),
        (State.NO_RELAY, {"relays": 0}),
        (State.PAUSED, {"paused_at": ago(5), "paused_by": "Ada"}),
        (State.SLOT, {"slot": Slot(name="shop", limit=1)}),
        (State.NOT_CONFIGURED, {"is_configured": False}),
    ]


STATES = [state for state, _ in everything()]


@pytest.mark.parametrize("place", range(len(STATES)), ids=STATES)
def test_the_first_state_that_applies_wins(place: int) -> None:
    """Whatever else is wrong with the backend, in the order that is documented."""
    facts: dict[str, Any] = {}
    for _, more in everything()[: place + 1]:
        facts |= more
    assert judged(**facts).state == STATES[place]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "does not exist"),
        ({"exists": True}, "has invalidated"),
        ({"exists": True, "is_valid": True}, "does not read"),
        (
            {"exists": True, "is_valid": True, "is_active": True, "retained": 3 * 2**20},
            "retains 3 MB of WAL (limit 2 MB)",
        ),
        ({"exists": True, "is_valid": True, "is_active": True, "retained": 2 * 2**20}, ""),
    ],
)
def test_a_slot_that_does_not_pass_events_on_is_red(found: dict[str, Any], reason: str) -> None:
    """Also while the backend is paused: the WAL that it retains fills the disk all the same."""
    slot = Slot(name="shop", limit=2 * 2**20, **found)
    judgement = judged(slot=slot, paused_at=ago(5))
    assert judgement.state == (State.SLOT if reason else State.PAUSED)
    assert (judgement.level == Level.RED) is bool(reason)
    assert reason in judgement.text


def test_a_backend_with_a_slot_needs_a_relay_for_scheduled_events_alone() -> None:
    """Kafka Connect takes the others."""
    slot = Slot(name="shop", limit=1, exists=True, is_valid=True, is_active=True)
    alone: dict[str, Any] = {"slot": slot, "relays": 0, "free_partitions": 64}
    assert judged(**alone).state == State.UP_TO_DATE
    assert judged(**alone, scheduled=1).state == State.NO_RELAY


@pytest.mark.parametrize(
    ("published", "failures", "is_failing"),
    [
        (0, 9, False),  # too few
        (0, 10, True),
        (10, 10, True),
        (11, 10, False),  # less than half
        (1000, 999, False),
        (0, 0, False),
    ],
)
def test_most_attempts_must_have_failed(published: int, failures: int, is_failing: bool) -> None:
    """At least ten, and half of all."""
    found = judged(Recent(published=published, failures=failures))
    assert (found.state == State.FAILING) is is_failing
    assert found.text == (
        f"{failures} of {published + failures} attempts in the last 5 min failed"
        if is_failing
        else ""
    )


@pytest.mark.parametrize(("minutes", "is_failing"), [(4, False), (5, True), (60, True)])
def test_nothing_but_failures_is_failing(minutes: int, is_failing: bool) -> None:
    """However few there are, once they last, and while an event waits or is tried again."""
    recent = Recent(failures=1, failing_for=minutes)
    waiting = judged(recent, retry=1, blocked=4, oldest_retry=ago(700))
    assert waiting.state == (State.FAILING if is_failing else State.WAITING)
    expected = f"All attempts of the last {minutes} min failed; 5 events are waiting"
    assert (waiting.text == expected) is is_failing
    tried = judged(recent, pending=1, oldest_due=ago(1))
    assert tried.state == (State.FAILING if is_failing else State.DELIVERING)
    assert judged(recent).state == State.UP_TO_DATE


@pytest.mark.parametrize(
    ("published", "failed", "expected"),
    [
        ([], [], 0),
        ([], [50, 7, 0], 50),
        ([8], [50, 7, 0], 7),
        ([7], [50, 7, 2], 2),  # the order within a minute is not known
        ([0], [50], 0),
        ([], [70], 0),  # too long ago
    ],
)
def test_failures_last_since_the_last_delivery(
    database: str, published: list[int], failed: list[int], expected: int
) -> None:
    """The first minute with failures after it counts, whatever else the minutes have."""
    now = minute_of(timezone.now())
    for back in {*published, *failed}:
        OutboxSample.objects.using(database).create(
            backend="default",
            minute=now - back,
            published=back in published,
            retried=back in failed,
        )
    (found,) = judgements(database, ["default"], ["default"], {})
    late = minute_of(timezone.now()) - now  # a minute may have begun meanwhile
    assert found.facts.recent.failing_for in {expected, expected and expected + late}


def test_limits_are_settings(settings: Settings) -> None:
    """The ratio, the attempts and the minutes."""
    recent = Recent(published=7, failures=3)
    assert judged(recent).state == State.UP_TO_DATE
    settings.OUTBOX_FAILING_RATIO, settings.OUTBOX_FAILING_ATTEMPTS = 0.3, 3
    settings.OUTBOX_FAILING_MINUTES = 2
    assert judged(recent).text == "3 of 10 attempts in the last 2 min failed"
    assert judged(Recent(failing_for=2), retry=1).state == State.FAILING


def test_dead_letters_need_attention_while_they_are_there() -> None:
    """New ones do; not those that were retried or cancelled since, nor old ones."""
    assert judged(Recent(dead_letters=2), failed=5).text == "2 dead letters in the last hour"
    assert judged(Recent(dead_letters=2), failed=0).state == State.UP_TO_DATE
    assert judged(failed=5).state == State.UP_TO_DATE


def test_an_error_belongs_to_its_reason() -> None:
    """The text of a broker or an endpoint is shown as it is, also with braces."""
    found = judged(away_since=ago(90), away_because="{age} refused")
    assert found.text == "Broker unavailable for 1 min 30 s: {age} refused"
    found = judged(retry=1, oldest_retry=ago(9), retry_error="answered 500")
    assert (found.text, found.level) == ("Retrying: answered 500", Level.BLUE)


def test_events_that_nobody_delivers_are_worse_than_their_dead_letters() -> None:
    """A backend that was removed needs no pager for dead letters alone."""
    assert judged(is_configured=False, scheduled=1).level == Level.RED
    assert judged(is_configured=False, failed=1).level == Level.AMBER


def test_facts_come_from_the_tables(database: str) -> None:
    """Attempts of the last minutes, dead letters of the last hour, and endpoints, by backend."""
    now = minute_of(timezone.now())
    samples = OutboxSample.objects.using(database)
    for backend, back, figures in (
        ("default", 0, {"published": 1}),
        ("default", 1, {"retried": 2, "published": 5}),
        ("default", 4, {"failed": 4}),
        ("default", 7, {"retried": 100, "published": 100}),
        ("default", 50, {"failed": 8}),
        ("default", 70, {"failed": 16}),
        ("other", 2, {"failed": 32}),
    ):
        samples.create(backend=backend, minute=now - back, **figures)
    endpoints = OutboxWebhookEndpoint.objects.using(database)
    for number in range(3):
        disabled_at = timezone.now() if number == 2 else None
        endpoints.create(identity=str(number), backend="default", disabled_at=disabled_at)
    found, other, none = judgements(database, ["default", "other", "none"], ["default"], {})
    recent = found.facts.recent
    assert (recent.published, recent.failures, recent.dead_letters) == (6, 6, 12)
    assert recent.last is not None
    assert recent.last.published == 5
    assert found.facts.endpoints == Endpoints(disabled=1, failing=2)
    assert (other.facts.recent.dead_letters, other.facts.is_configured) == (32, False)
    assert none.facts.recent == Recent()
