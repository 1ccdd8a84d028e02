"""The way out of the outbox: archived, then deleted, and nobody is kept waiting."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster.archives import Leaving, TableArchive, remove
from django_broadcaster.exceptions import ArchiveError
from django_broadcaster.models import OutboxArchivedEvent, OutboxEvent
from django_broadcaster.store import StoredRow, read_stored
from tests.support.archives import WatchingArchive, grow_old
from tests.support.events import publish, statuses

from .test_file import publish_kinds


def ids_of(using: str) -> list[int]:
    """The ids of all events in the outbox."""
    return list(OutboxEvent.objects.using(using).order_by("id").values_list("id", flat=True))


def watching(on_store: Callable[[Leaving], Any]) -> WatchingArchive:
    """An archive that calls a function."""
    WatchingArchive.on_store = staticmethod(on_store)  # type: ignore[assignment]
    return WatchingArchive()


def test_a_removal_is_two_statements_in_one_transaction(database: str) -> None:
    """However many events: one locks those that nobody has to deliver, one deletes them."""
    publish(*(f"a{number}" for number in range(50)), using=database)
    grow_old(database)
    ids = ids_of(database)
    with CaptureQueriesContext(connections[database]) as queries:
        assert remove(database, ids, None) == 50
    words = [query["sql"].split()[0] for query in queries]
    assert [word for word in words if word in ("SELECT", "DELETE", "UPDATE", "INSERT")] == [
        "SELECT",
        "DELETE",
    ]


def test_what_somebody_has_locked_is_not_waited_for(database: str) -> None:
    """An event that an operator is at is left for the next time; the others go at once."""
    if not connections[database].features.has_select_for_update_skip_locked:
        pytest.skip("this database locks no single rows")
    publish("a1", "a2", "a3", using=database)
    grow_old(database)
    ids = ids_of(database)
    other = connections[database].copy()
    with closing(other):
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(
                "UPDATE django_broadcaster_outboxevent SET retry_count = 1 WHERE id = %s", [ids[1]]
            )
            assert remove(database, ids, None) == 2
        other.rollback()
    assert statuses(database) == {"a2": "published"}


def test_nothing_is_locked_while_an_archive_writes(database: str) -> None:
    """Others may change the events meanwhile, and one that was replayed stays in the outbox."""
    publish("a1", "a2", using=database)
    grow_old(database)
    ids = ids_of(database)

    def replay(leaving: Leaving) -> None:
        assert list(leaving.ids) == ids
        assert connections[database].get_autocommit()
        with closing(connections[database].copy()) as other, other.cursor() as cursor:
            cursor.execute(
                "UPDATE django_broadcaster_outboxevent SET status = 'scheduled' WHERE id = %s",
                [ids[0]],
            )

    assert remove(database, ids, watching(replay)) == 1
    assert statuses(database) == {"a1": "scheduled"}


@pytest.mark.parametrize("end", ["failed", "published", "cancelled"])
def test_what_was_replayed_while_an_archive_writes_stays(database: str, end: str) -> None:
    """Also where it has come to an end by then: a new dead letter, whose error nobody has seen."""
    publish("a1", "a2", using=database)
    grow_old(database)
    ids = ids_of(database)
    rows = OutboxEvent.objects.using(database).filter(pk=ids[0])

    def replay(leaving: Leaving) -> None:
        assert rows.replay() == 1
        now = timezone.now()
        rows.update(status=end, published_at=now if end == "published" else None, ended_at=now)

    assert remove(database, ids, watching(replay)) == 1
    assert statuses(database) == {"a1": end}


def test_nothing_is_deleted_that_was_not_archived(database: str) -> None:
    """Whatever an archive raises is an ArchiveError, and the events stay."""
    publish("a1", using=database)
    grow_old(database)

    def fail(leaving: Leaving) -> None:
        raise OSError("no space left")

    with pytest.raises(ArchiveError, match="WatchingArchive: no space left") as caught:
        remove(database, ids_of(database), watching(fail))
    assert isinstance(caught.value.__cause__, OSError)
    assert statuses(database) == {"a1": "published"}


def test_nothing_leaves_that_has_to_be_delivered(database: str) -> None:
    """Ids of events that are due, or wait, change nothing."""
    publish("a1", "a2", "a3", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.filter(subject="a2").update(status="retry")
    rows.filter(subject="a3").update(status="scheduled")
    assert remove(database, ids_of(database), TableArchive()) == 0
    assert len(statuses(database)) == 3
    assert not OutboxArchivedEvent.objects.using(database).exists()


# The table


def test_the_table_takes_over_all_that_can_be_read(database: str) -> None:
    """Each event moves with its payload, attributes and fate, in one transaction."""
    events = publish_kinds(database)
    now = timezone.now()
    OutboxEvent.objects.using(database).update(
        status="failed", ended_at=now, last_error="no", retry_count=2, publisher_config={"k": 1}
    )
    before = {row.pk: row.cloud_event for row in OutboxEvent.objects.using(database)}
    stored = {row.id: row for row in read_stored(database, ids_of(database))}
    assert remove(database, ids_of(database), TableArchive()) == len(events)
    assert statuses(database) == {}
    found = OutboxArchivedEvent.objects.using(database).order_by("row")
    assert {row.row: row.cloud_event for row in found} == before
    for row in found:
        for name in set(StoredRow._fields) - {"id", "extensions", "data", "publisher_config"}:
            value = getattr(row, name)
            expected = getattr(stored[row.row], name)
            assert (bytes(value) if isinstance(value, memoryview) else value) == expected
        assert row.publisher_config == {"k": 1}
        assert now <= row.archived_at <= timezone.now() + timedelta(seconds=1)


def test_the_archives_have_every_column_that_matters() -> None:
    """A column that the outbox gets later is archived, or left out here on purpose."""
    left_out = {"identity", "partition", "max_retries", "crash_count", "operation"}
    left_out |= {"spec_version", "updated_at"}
    columns = {field.column for field in OutboxEvent._meta.fields} - left_out
    assert columns == set(StoredRow._fields)
    table = {field.column for field in OutboxArchivedEvent._meta.fields}
    assert table == columns | {"row", "archived_at"}


def test_an_event_is_in_one_of_the_two_tables(database: str) -> None:
    """What goes wrong after the copy takes it back."""
    publish("a1", using=database)
    grow_old(database)

    class Failing(TableArchive):
        def store(self, leaving: Leaving) -> None:
            super().store(leaving)
            raise IntegrityError("the connection went away")

    with pytest.raises(IntegrityError):
        remove(database, ids_of(database), Failing())
    assert statuses(database) == {"a1": "published"}
    assert not OutboxArchivedEvent.objects.using(database).exists()
    with transaction.atomic(using=database):
        assert remove(database, ids_of(database), TableArchive()) == 1
    assert OutboxArchivedEvent.objects.using(database).count() == 1
