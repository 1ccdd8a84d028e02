"""The states of an event: the moves that are legal, and that no others are made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.utils import timezone

from django_broadcaster import states
from django_broadcaster.archives import remove
from django_broadcaster.models import OutboxEvent, OutboxRelay
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.states import (
    FINAL,
    TRANSITIONS,
    UNDELIVERED,
    OutboxEventStatus,
    sources_of,
)
from django_broadcaster.store import RelayRows

DIAGRAM = {
    "pending": {"published", "failed", "cancelled", "retry", "blocked"},
    "processing": {"pending", "published", "retry", "failed", "cancelled"},
    "scheduled": {"pending", "cancelled"},
    "retry": {"pending", "cancelled"},
    "blocked": {"pending", "cancelled"},
    "published": {"scheduled"},
    "failed": {"scheduled", "cancelled"},
    "cancelled": {"scheduled"},
}
"""The moves as the diagram in `states` draws them."""


def test_transitions_are_those_of_the_diagram() -> None:
    """Every move of the diagram is legal, and nothing else."""
    table = {str(status): set(map(str, targets)) for status, targets in TRANSITIONS.items()}
    assert table == DIAGRAM


def test_diagram_names_every_status() -> None:
    """The diagram is drawn in the module's docstring, and leaves no status out."""
    assert states.__doc__ is not None
    assert all(str(status) in states.__doc__ for status in OutboxEventStatus)


def test_every_status_is_undelivered_or_final() -> None:
    """The two groups share no status and leave none out."""
    assert set(UNDELIVERED) | set(FINAL) == set(OutboxEventStatus) == set(TRANSITIONS)
    assert not set(UNDELIVERED) & set(FINAL)


def test_undelivered_events_become_final_and_operators_bring_them_back() -> None:
    """Delivery leads out of the undelivered, and out of the final leads `scheduled` alone."""
    for status in FINAL:
        assert TRANSITIONS[status] & set(UNDELIVERED) == {OutboxEventStatus.SCHEDULED}
    assert all(set(FINAL) & TRANSITIONS[status] for status in UNDELIVERED)


@pytest.mark.parametrize("target", OutboxEventStatus)
def test_sources_are_the_transitions_backwards(target: OutboxEventStatus) -> None:
    """`sources_of` names the statuses from which a status may be reached."""
    expected = {source for source, targets in DIAGRAM.items() if str(target) in targets}
    assert set(map(str, sources_of(target))) == expected


def test_longest_status_fits_its_column() -> None:
    """No value is longer than what the database holds."""
    longest = OutboxEvent._meta.get_field("status").max_length
    assert longest is not None
    assert max(len(status) for status in OutboxEventStatus) <= longest


# --- What the querysets do -----------------------------------------------------------------------

ALL = list(map(str, OutboxEventStatus))
EARLIER = timedelta(minutes=5)


class Rows(NamedTuple):
    """One event in every status, as a relay and as others have them."""

    relay: RelayRows
    events: OutboxEventQuerySet
    ids: list[int]


Move = Callable[[Rows], Any]


BY_RELAYS: dict[str, tuple[Move, dict[str, str]]] = {
    "published": (
        lambda of: of.relay.mark_published(of.ids, keep=True),
        {"pending": "published"},
    ),
    "published and deleted": (
        lambda of: of.relay.mark_published(of.ids, keep=False),
        {"pending": "gone"},
    ),
    "retry": (
        lambda of: of.relay.retry([(pk, 60.0, "error", 1) for pk in of.ids]),
        {"pending": "retry"},
    ),
    "dead_letter": (
        lambda of: of.relay.dead_letter([(pk, "error") for pk in of.ids]),
        {"pending": "failed"},
    ),
    "block": (
        lambda of: of.relay.block(of.ids),
        {"pending": "blocked"},
    ),
    "promote": (
        lambda of: of.relay.promote({0}, 100),
        {"scheduled": "pending", "retry": "pending"},
    ),
    "release": (
        lambda of: of.relay.release({0}, 100),
        {"blocked": "pending"},
    ),
    "release of keys": (
        lambda of: of.relay.release({0}, 100, ALL),
        {"blocked": "pending"},
    ),
}
"""What a relay does to rows, and which statuses it changes to which."""

BY_OTHERS: dict[str, tuple[Move, dict[str, str]]] = {
    "count crash": (lambda of: of.relay.count_crash(min(of.ids), max(of.ids), {0}), {}),
    "cancel": (
        lambda of: of.events.all().cancel(),
        {status: "cancelled" for status, targets in DIAGRAM.items() if "cancelled" in targets},
    ),
    "replay": (
        lambda of: of.events.all().replay(),
        dict.fromkeys(("published", "failed", "cancelled"), "scheduled"),
    ),
    "hasten": (lambda of: of.events.all().hasten(), {}),
    "purge": (
        lambda of: remove(of.events.db, of.ids, None),
        dict.fromkeys(("published", "failed", "cancelled"), "gone"),
    ),
}
"""What a command or a person does to rows."""


@pytest.fixture
def rows(database: str) -> Rows:
    """One event in every status, each of its own key, with a relay that owns them."""
    now = timezone.now()
    relay = OutboxRelay.objects.using(database).create(
        name="relay", backend="default", started_at=now, heartbeat_at=now
    )
    for status in ALL:
        OutboxEvent.objects.using(database).create(
            event_id=status,
            source="/shop",
            event_type="order.placed",
            partition_key=status,
            partition=0,
            publisher_backend="default",
            status=status,
            scheduled_at=now - EARLIER,
            published_at=now - EARLIER if status == "published" else None,
        )
    events = OutboxEvent.objects.using(database)
    ids = list(events.values_list("pk", flat=True))
    return Rows(RelayRows(database, "default", relay.pk), events, ids)


def changes(rows: Rows) -> dict[str, str]:
    """What has become of the event of each status, where it changed."""
    now = dict(rows.events.values_list("event_id", "status"))
    return {status: now.get(status, "gone") for status in ALL if now.get(status) != status}


@pytest.mark.parametrize("move", [*BY_RELAYS, *BY_OTHERS])
def test_rows_make_legal_moves_only(rows: Rows, move: str) -> None:
    """A method changes the rows that may change, whatever it is given, and leaves all others."""
    act, expected = {**BY_RELAYS, **BY_OTHERS}[move]
    act(rows)
    assert changes(rows) == expected
    legal = {
        **DIAGRAM,
        "pending": {*DIAGRAM["pending"], "gone"},
        **{status: {*DIAGRAM[status], "gone"} for status in ("published", "failed", "cancelled")},
    }
    assert all(target in legal[source] for source, target in expected.items())


@pytest.mark.parametrize("move", [*BY_RELAYS, *BY_OTHERS])
def test_every_change_of_a_row_is_dated(rows: Rows, move: str) -> None:
    """`updated_at` is the moment of the last change, and stays where nothing changed."""
    long_ago = timezone.now() - timedelta(days=1)
    rows.events.update(updated_at=long_ago)
    columns = [field.name for field in OutboxEvent._meta.fields if field.name != "updated_at"]
    before = {row["id"]: row for row in rows.events.values(*columns)}
    start = timezone.now()
    {**BY_RELAYS, **BY_OTHERS}[move][0](rows)
    changed = {row["id"] for row in rows.events.values(*columns) if row != before[row["id"]]}
    for row in rows.events.all():
        assert row.updated_at >= start if row.pk in changed else row.updated_at == long_ago


@pytest.mark.parametrize("move", BY_RELAYS)
def test_relay_without_its_lease_moves_nothing(rows: Rows, move: str) -> None:
    """Every change of a relay is fenced: without its row of `OutboxRelay` it changes no event."""
    OutboxRelay.objects.using(rows.events.db).all().delete()
    BY_RELAYS[move][0](rows)
    assert changes(rows) == {}


def test_release_waits_for_the_head_of_the_key(rows: Rows) -> None:
    """A blocked event stays while an earlier one of its key is in retry."""
    rows.events.filter(status="retry").update(partition_key="blocked")
    assert rows.relay.release({0}, 100) == []
    assert changes(rows) == {}


def test_events_for_later_are_not_promoted(rows: Rows) -> None:
    """Only what has become due gets pending, and only on partitions that the relay owns."""
    assert rows.relay.promote({1}, 100) == []
    rows.events.update(scheduled_at=timezone.now() + EARLIER)
    assert rows.relay.promote({0}, 100) == []
    assert changes(rows) == {}


def test_replay_starts_anew(rows: Rows) -> None:
    """A replayed event is due now, with all its retries before it, and as never published."""
    rows.events.update(retry_count=3, crash_count=2)
    before = timezone.now()
    assert rows.events.all().replay() == 3
    for event in rows.events.filter(event_id__in=["published", "failed", "cancelled"]):
        assert (event.retry_count, event.crash_count, event.published_at) == (0, 0, None)
        assert before <= event.scheduled_at <= timezone.now()


def test_hasten_makes_retries_due(rows: Rows) -> None:
    """Events that wait for their next attempt are due at once, and no others are touched."""
    later = timezone.now() + EARLIER
    rows.events.update(scheduled_at=later)
    assert rows.events.all().hasten() == 1
    hastened = rows.events.all().exclude(scheduled_at=later)
    assert [event.status for event in hastened] == ["retry"]


def test_groups_of_events(rows: Rows) -> None:
    """`undelivered`, `dead_letters`, `due` and `expired` are what their names say."""

    def found(events: Any) -> set[str]:
        return {event.event_id for event in events}

    events = rows.events.all()
    assert found(events.undelivered()) == set(map(str, UNDELIVERED))
    assert found(events.dead_letters()) == {"failed"}
    assert found(events.due()) == {"pending", "scheduled", "retry"}
    assert found(events.due(timezone.now() - 2 * EARLIER)) == {"pending"}
    assert found(events.expired(timezone.now())) == {"published"}
    assert found(events.expired(timezone.now() - 2 * EARLIER)) == set()
