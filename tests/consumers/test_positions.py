"""Positions in the database: what a receiver takes, stores, and can't store any more."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from django.db import transaction

from django_broadcaster.consumers.positions import Source
from django_broadcaster.models import OutboxPosition
from django_broadcaster.receiving import positions as module
from django_broadcaster.receiving.positions import Positions, SourcesLost


def take(database: str, *names: str, consumer: str = "orders") -> list[Source]:
    """Take sources, in the order of their names."""
    found = Positions(database, consumer).take(names, lambda: None)
    return sorted(found, key=lambda each: each.name)


def move(database: str, ends: Mapping[Source, int]) -> None:
    """Store positions in a transaction."""
    with transaction.atomic(using=database):
        Positions(database, "orders").move(ends)


def stored(database: str) -> dict[str, int | None]:
    """Return the positions."""
    rows = OutboxPosition.objects.using(database).order_by("source")
    return dict(rows.values_list("source", "position"))


def test_who_takes_a_source_begins_where_the_one_before_has_stopped(database: str) -> None:
    """A source without a position begins where the broker says; consumers have their own."""
    first, second = take(database, "shop/orders/0", "shop/orders/1")
    assert (first.position, second.position) == (None, None)
    move(database, {first: 7})
    assert [each.position for each in take(database, "shop/orders/0", "shop/orders/1")] == [7, None]
    assert take(database, "shop/orders/0", consumer="other")[0].position is None


def test_who_lost_a_source_cannot_move_its_position(database: str) -> None:
    """The transaction is rolled back, and the error has the sources that were lost."""
    lost, kept = take(database, "a/b/0", "a/b/1")
    (taken,) = take(database, "a/b/0")
    move(database, {taken: 20})
    with pytest.raises(SourcesLost) as caught:
        move(database, {lost: 10, kept: 5})
    assert caught.value.sources == [lost]
    assert stored(database) == {"a/b/0": 20, "a/b/1": None}
    move(database, {kept: 5})
    assert stored(database) == {"a/b/0": 20, "a/b/1": 5}


def test_former_assignment_of_the_same_receiver_is_fenced_as_well(database: str) -> None:
    """A partition may have been elsewhere before it came back: what was read before is stale."""
    (before,) = take(database, "a/b/0")
    (again,) = take(database, "a/b/0")
    move(database, {again: 3})
    with pytest.raises(SourcesLost):
        move(database, {before: 9})
    assert stored(database) == {"a/b/0": 3}


def test_owner_may_move_a_position_back(database: str) -> None:
    """A topic that was deleted and created again begins at 0."""
    (source,) = take(database, "a/b/0")
    move(database, {source: 100})
    move(database, {source: 1})
    assert stored(database) == {"a/b/0": 1}


def test_many_sources_are_moved_in_limited_statements(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its own position, whatever statement it is in."""
    monkeypatch.setattr(module, "MOST_SOURCES", 3)
    sources = take(database, *(f"a/b/{number}" for number in range(10)))
    move(database, {each: number for number, each in enumerate(sources)})
    assert stored(database) == {f"a/b/{number}": number for number in range(10)}
