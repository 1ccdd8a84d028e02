"""A receiver's lease: who may read, who may write, and in which order."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from django_broadcaster.consumers.rows import Written
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.receiving.lease import ReceiverLease
from tests.support.waiting import wait_until

NOTHING = Written(0, 0, 0, ())


def lease(database: str, **options: Any) -> ReceiverLease:
    """Return a lease that has joined."""
    made = ReceiverLease(database, "orders", **{"reads_alone": True, **options})
    made.join()
    return made


def test_one_of_several_may_read_until_it_leaves(database: str) -> None:
    """The next one may, as soon as the first has left."""
    first, second = lease(database), lease(database)
    assert first.may_read()
    assert not second.may_read()
    assert first.may_read()
    assert _standing_by(database) == {second.id}
    first.leave()
    assert second.may_read()
    assert _standing_by(database) == set()


def test_one_without_heartbeat_is_replaced_and_writes_nothing_more(database: str) -> None:
    """Its batch is rolled back, and it knows that its lease is lost."""
    first, second = lease(database), lease(database)
    assert first.may_read()
    long_ago = timezone.now() - timedelta(minutes=5)
    OutboxReceiver.objects.using(database).filter(pk=first.id).update(heartbeat_at=long_ago)
    assert second.may_read()
    with pytest.raises(LeaseLost), transaction.atomic(using=database):  # noqa: PT012  # two steps
        first.begin()
        first.end(NOTHING)
    assert first.is_lost


def test_rows_of_receivers_that_crashed_do_not_pile_up(database: str) -> None:
    """Also where several read, and none waits for a right."""
    crashed = lease(database, reads_alone=False)
    long_ago = timezone.now() - timedelta(minutes=5)
    OutboxReceiver.objects.using(database).update(heartbeat_at=long_ago)
    running = lease(database, reads_alone=False)
    rows = OutboxReceiver.objects.using(database).values_list("pk", flat=True)
    assert list(rows) == [running.id]
    assert crashed.id != running.id


def test_receivers_that_share_a_consumer_take_turns_where_ids_are_reserved(database: str) -> None:
    """On MariaDB the second batch begins after the first is committed."""
    if connections[database].vendor != "mysql":
        pytest.skip("other databases give each row its id when it is inserted")
    first, second = (lease(database, reads_alone=False) for _ in range(2))
    steps: list[str] = []

    def write() -> None:
        try:
            with transaction.atomic(using=database):
                steps.append("asked")
                second.begin()
                steps.append("second begins")
        finally:
            connections.close_all()

    thread = threading.Thread(target=write)
    with transaction.atomic(using=database):
        first.begin()
        thread.start()
        wait_until(lambda: steps == ["asked"] and _waits(database), 20, "the second waits")
        steps.append("first ends")
    thread.join(20)
    assert steps == ["asked", "first ends", "second begins"]


def _standing_by(database: str) -> set[int]:
    rows = OutboxReceiver.objects.using(database).filter(stands_by=True)
    return set(rows.values_list("pk", flat=True))


def _waits(database: str) -> bool:
    """Return True if a transaction waits for a lock."""
    with connections[database].cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
        )
        return bool(cursor.fetchone()[0])
