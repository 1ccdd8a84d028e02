"""How long events are kept, by what a setting says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster.backends.handler import backends
from django_broadcaster.retention import RetentionPolicy, span

if TYPE_CHECKING:
    from pytest_django import Settings

WEEK, DAY, NOTHING = timedelta(days=7), timedelta(days=1), timedelta(0)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (WEEK, WEEK),
        (0, NOTHING),
        (1.5, timedelta(seconds=1.5)),
        (86_400, DAY),
    ],
)
def test_a_span_is_a_duration_or_seconds(value: Any, kept: timedelta | None) -> None:
    """None is for ever; a number is seconds."""
    assert span(value) == kept


@pytest.mark.parametrize(
    ("value", "published", "failed", "cancelled"),
    [
        (WEEK, WEEK, None, WEEK),
        (None, None, None, None),
        (0, NOTHING, None, DAY),
        (60, timedelta(minutes=1), None, DAY),
        ({}, WEEK, None, WEEK),
        ({"failed": DAY}, WEEK, DAY, WEEK),
        ({"cancelled": None}, WEEK, None, None),
        ({"cancelled": 0}, WEEK, None, NOTHING),
        ({"published": None, "cancelled": DAY}, None, None, DAY),
        ({"published": 0, "failed": 3600}, NOTHING, timedelta(hours=1), DAY),
    ],
)
def test_a_policy_says_it_for_every_status(
    value: Any, published: Any, failed: Any, cancelled: Any
) -> None:
    """Dead letters stay unless a time is named; cancelled events go as published, or in a day."""
    expected = RetentionPolicy(published=published, failed=failed, cancelled=cancelled)
    assert RetentionPolicy.of(value, default=WEEK) == expected


def test_what_is_kept_for_ever_does_not_expire() -> None:
    """Each status with a time has a moment before which its events are old, and no other."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    expiries = RetentionPolicy.of({"published": DAY, "cancelled": None}).expiries(now)
    assert expiries == {"published": now - DAY}


def test_a_backend_has_its_own_before_that_of_all(settings: Settings) -> None:
    """RETENTION of an entry goes before OUTBOX_RETENTION; None in it is a value."""
    plain = settings.OUTBOX_PUBLISHERS["default"]
    entries = {"a": {"RETENTION": None}, "b": {"RETENTION": 0}, "c": {}, "d": {"RETENTION": {}}}
    settings.OUTBOX_PUBLISHERS = {alias: {**plain, **more} for alias, more in entries.items()}
    settings.OUTBOX_RETENTION = 5
    kept = {alias: backends.retention(alias).published for alias in entries}
    seconds = timedelta(seconds=5)
    assert kept == {"a": None, "b": NOTHING, "c": seconds, "d": seconds}
    assert not backends.retention("b").keeps_published
