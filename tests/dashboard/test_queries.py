"""The queries behind the dashboard, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from django_broadcaster.dashboard import history as history_module
from django_broadcaster.dashboard.history import history
from django_broadcaster.models import OutboxEvent, OutboxSample
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import (
    blocked_keys,
    count_or_estimate,
    minute_of,
    overviews,
    same_errors,
)
from tests.support.events import insert, publish

from .scenes import write


def fill(database: str, *rows: OutboxEvent) -> None:
    """Write events to a database."""
    insert(*rows, using=database)


def test_counts_of_states_that_share_an_index(database: str) -> None:
    """A few in retry among many blocked are counted apart, and so are those that are only due."""
    fill(
        database,
        *(write(n, status=S.BLOCKED, partition_key="a") for n in range(30)),
        *(write(n, status=S.RETRY, partition_key=f"k{n}") for n in range(3)),
        *(write(n, status=S.SCHEDULED) for n in range(4)),
        *(write(n, status=S.FAILED) for n in range(5)),
        *(write(n) for n in range(6)),
        *(write(n, publisher_backend="other") for n in range(7)),
    )
    (found,) = overviews(database, ["default"])
    counts = (found.pending, found.scheduled, found.retry, found.blocked, found.failed)
    assert counts == (6, 4, 3, 30, 5)
    assert found.at_least == frozenset()


def test_a_count_that_stopped_says_so(database: str) -> None:
    """Where the walk along an index ended at its bound, all its states are said to be more."""
    fill(
        database,
        *(write(n, status=S.BLOCKED, partition_key="a") for n in range(30)),
        write(1, status=S.RETRY, partition_key="z"),
        *(write(n) for n in range(9)),
    )
    (found,) = overviews(database, ["default"], exact=10)
    assert "blocked" in found.at_least
    assert "pending" not in found.at_least
    assert (found.pending, found.blocked) == (9, 10)
    assert count_or_estimate(database, found, "pending") == (9, "exact")
    number, kind = count_or_estimate(database, found, "blocked")
    assert number >= 10
    assert kind != "exact"
    if connections[database].vendor == "mysql":  # there each state has a walk of its own
        assert count_or_estimate(database, found, "retry") == (1, "exact")


def test_a_stuck_retry_does_not_hide_behind_a_blocked_key(database: str) -> None:
    """However many events wait behind a key that comes first by name."""
    rows = OutboxEvent.objects.using(database)
    publish("z1", "a1", *(f"a{number}" for number in range(2, 22)), using=database)
    ago = timezone.now() - timedelta(hours=30)
    rows.filter(subject="z1").update(status=S.RETRY, created_at=ago)
    rows.filter(subject="a1").update(status=S.RETRY)
    rows.filter(subject__startswith="a").exclude(subject="a1").update(status=S.BLOCKED)
    (found,) = overviews(database, ["default"], exact=10)
    assert found.retry_age > 29 * 3600


def test_keys_that_wait(database: str) -> None:
    """Each key once, with its first event; those with the most events behind it come first."""
    fill(
        database,
        *(write(n, status=S.RETRY, partition_key=key) for n, key in enumerate(["b", "a", "C"])),
        *(write(n, status=S.BLOCKED, partition_key="C") for n in range(5)),
        write(9, status=S.RETRY),  # of no key: nothing waits behind it
        write(9, status=S.RETRY, partition_key="a", publisher_backend="other"),
        write(9, partition_key="d"),
    )
    heads = {
        row.partition_key: row.pk
        for row in OutboxEvent.objects.using(database).filter(
            status=S.RETRY, publisher_backend="default"
        )
    }
    oldest_first = [(key, heads[key], 0, False) for key in ("b", "a")]
    assert blocked_keys(database, "default") == ([("C", heads["C"], 5, False), *oldest_first], True)
    assert blocked_keys(database, "nobody") == ([], True)


@pytest.mark.parametrize("window", [2, 3, 4, 7, 100])
def test_the_worst_key_is_first_whatever_its_name(database: str, window: int) -> None:
    """Keys are counted in windows; one that fills a window says that there are more."""
    names = [f"order-{n:02}" for n in range(20)]
    fill(
        database,
        *(write(n, status=S.RETRY, partition_key=name) for n, name in enumerate(names)),
        *(write(n, status=S.BLOCKED, partition_key=names[7]) for n in range(3)),
        write(1, status=S.RETRY, partition_key="tenant"),
        *(write(n, status=S.BLOCKED, partition_key="tenant") for n in range(9)),
    )
    found, is_all = blocked_keys(database, "default", window)
    assert is_all
    assert sorted(each.key for each in found) == [*names, "tenant"]
    worst = ["tenant", "order-07"]
    assert sorted(each.key for each in found[:2]) == sorted(worst)
    if window > 9:
        assert [each.key for each in found[:2]] == worst
    for each in found:
        real = {"tenant": 9, "order-07": 3}.get(each.key, 0)
        assert each.behind == real or (each.more and window - 1 <= each.behind < real)


def test_keys_beyond_the_limit_are_said_to_be_there(database: str) -> None:
    """A walk that ends at its limit returns what it read, and that there is more."""
    fill(database, *(write(n, status=S.RETRY, partition_key=f"k{n}") for n in range(9)))
    found, is_all = blocked_keys(database, "default", 3, 2)
    assert 2 < len(found) < 9
    assert not is_all


def test_dead_letters_by_error(database: str) -> None:
    """The newest are grouped by the beginning of their errors, the most frequent first."""
    fill(
        database,
        *(write(n, status=S.FAILED, last_error="old") for n in range(5)),
        *(write(n, status=S.FAILED, last_error="x" * 200 + str(n)) for n in range(2)),
        *(write(n, status=S.FAILED, last_error="often") for n in range(3)),
        write(1, status=S.FAILED, last_error="elsewhere", publisher_backend="other"),
        write(1, last_error="not given up"),
    )
    found = same_errors(database, "default", 6)
    assert [(each.error, each.letters) for each in found] == [
        ("often", 3),
        ("x" * 200, 2),
        ("old", 1),
    ]
    ids = (
        OutboxEvent.objects.using(database).filter(last_error="often").values_list("id", flat=True)
    )
    assert found[0].newest == max(ids)


@pytest.mark.parametrize("hours", [1, 6, 24, 168])
def test_a_rate_is_of_whole_minutes(
    database: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """The minute that has begun is in no rate: a constant stream is a straight line to its end."""
    now = minute_of(timezone.now()) // 30 * 30 + 1
    monkeypatch.setattr(history_module, "minute_of", lambda _: now)
    OutboxSample.objects.using(database).bulk_create(
        OutboxSample(backend="default", minute=minute, published=6000)
        for minute in range(now - 59, now + 1)
    )
    rates = history(database, ["default"], hours)["series"]["default"]["published"]
    assert [rate for rate in rates[-2:] if rate is not None] == [100.0] * (1 if hours == 1 else 2)


@pytest.mark.parametrize("hours", [1, 168])
def test_minutes_are_put_together(database: str, hours: int) -> None:
    """Sums, means and maxima of the minutes of one point, on every database."""
    now = minute_of(timezone.now())
    start = now - now % 30 - 30
    for minute, longest in ((start, 10), (start + 1, 30)):
        OutboxSample.objects.using(database).create(
            backend="default",
            minute=minute,
            published=60,
            timed=2,
            medians=longest,
            p99=longest,
            backlog=longest,
            circuit_open=longest == 30,
            paused=longest == 30,
        )
    found = history(database, ["default"], hours)
    place = found["times"].index(60 * start)
    series = {name: values[place] for name, values in found["series"]["default"].items()}
    if hours == 1:
        assert (series["published"], series["p50"], series["p99"]) == (1, 0.005, 0.01)
        assert (series["backlog"], series["circuit_open"]) == (10, 0)
    else:
        assert series["published"] == round(2 / 30, 3)
        assert (series["p50"], series["p99"]) == (0.01, 0.03)
        assert (series["backlog"], series["circuit_open"], series["paused"]) == (30, 1, 1)
