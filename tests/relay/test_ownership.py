"""Who delivers what: leases share the partitions out, end by themselves, and fence who lost one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connections
from django.utils import timezone

from django_broadcaster.backends import Message
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.relay.lease import Lease
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import RelayRows, overviews
from django_broadcaster.store.relay_sql import RelaySQL
from tests.support.backends import Script
from tests.support.events import first_arrivals, publish, row, statuses
from tests.support.waiting import wait_until

from .conftest import Join, drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

PARTITIONS = 64


@pytest.fixture
def lease(database: str) -> Iterator[Callable[..., Lease]]:
    """Return a function that joins as a relay would; all leave after the test."""
    joined: list[Lease] = []

    def join(*, takes_share: bool = True, backend: str = "default") -> Lease:
        new = Lease(database, backend, takes_share=takes_share)
        new.join()
        joined.append(new)
        return new

    yield join
    for each in joined:
        each.leave()


def settle(*leases: Lease) -> list[int]:
    """Let all leases rebalance until nothing changes; return how many partitions each has."""
    for _ in range(10):
        changes = [each.rebalance() for each in leases]
        if not any(changes):
            break
    else:
        pytest.fail("the shares do not settle")
    owned = [number for each in leases for number in each.partitions]
    assert len(owned) == len(set(owned)), "a partition has two owners"
    return [len(each.partitions) for each in leases]


def let_go_stale(lease: Lease) -> None:
    """Let the lease's heartbeat be older than it may be."""
    long_ago = timezone.now() - timedelta(hours=1)
    assert OutboxRelay.objects.using(lease.using).filter(pk=lease.id).update(heartbeat_at=long_ago)


# Sharing


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_partitions_are_shared_evenly(
    database: str, lease: Callable[..., Lease], count: int
) -> None:
    """Each of several relays has as many partitions as the others, give or take one."""
    shares = settle(*(lease() for _ in range(count)))
    assert sum(shares) == PARTITIONS
    assert max(shares) - min(shares) <= 1


def test_shares_follow_who_joins_and_leaves(database: str, lease: Callable[..., Lease]) -> None:
    """A relay that joins gets its share, and one that leaves frees its own at once."""
    first = lease()
    assert settle(first) == [64]
    second = lease()
    assert settle(first, second) == [32, 32]
    third = lease()
    assert settle(first, second, third) == [22, 21, 21]
    second.leave()
    assert second.partitions == frozenset()
    assert OutboxPartition.objects.using(database).filter(relay__isnull=True).count() == 21
    assert settle(first, third) == [32, 32]


def test_a_rebalance_moves_no_more_than_it_must(database: str, lease: Callable[..., Lease]) -> None:
    """What a relay may keep when another joins, it keeps."""
    first, second = lease(), lease()
    settle(first, second)
    before = first.partitions
    settle(first, second, lease())
    assert first.partitions < before


def test_relays_without_a_partition_wait_for_one(
    database: str, lease: Callable[..., Lease], settings: Settings
) -> None:
    """With more relays than partitions some own nothing, until one is free."""
    settings.OUTBOX_PARTITIONS = 2
    first, second, third = leases = [lease() for _ in range(3)]
    assert settle(*leases) == [1, 1, 0]
    first.leave()
    assert settle(second, third) == [1, 1]


def test_events_that_fewer_partitions_leave_behind_are_not_silent(
    database: str,
    scripted: Script,
    join: Join,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A relay says so where OUTBOX_PARTITIONS was lowered too early; set back, they go out."""
    publish(*(f"{key}1" for key in "abcdefgh"), using=database)
    with join():
        pass
    settings.OUTBOX_PARTITIONS = 2
    few = join()
    drain(few)
    left = set(statuses(database)) - set(scripted.arrived)
    assert left
    assert "in partitions from 2 on" in caplog.text
    (overview,) = overviews(database, ["default"])
    assert overview.free_partitions == 0
    assert few.owned.rows.pulse(few.lease.partitions, 0).free_partitions == 0
    few.lease.leave()
    settings.OUTBOX_PARTITIONS = PARTITIONS
    drain(join())
    assert len(scripted.arrived) == 8
    caplog.clear()
    settings.OUTBOX_PARTITIONS = 2
    join()
    assert caplog.text == ""


def test_backends_are_shared_out_apart(database: str, lease: Callable[..., Lease]) -> None:
    """Relays of one backend do not count for another."""
    one, other = lease(), lease(backend="other")
    assert settle(one) == [64]
    assert settle(other) == [64]


def test_a_visitor_takes_what_is_free_and_counts_for_nothing(
    database: str, lease: Callable[..., Lease]
) -> None:
    """A visitor leaves relays their shares, and takes what they have not taken."""
    visitor = lease(takes_share=False)
    assert settle(visitor) == [64]
    visitor.leave()
    first = lease()
    visitor = lease(takes_share=False)
    assert settle(first, visitor) == [64, 0]
    second = lease()
    assert settle(first, second, visitor) == [32, 32, 0]
    first.leave()
    assert settle(visitor, second) == [32, 32]
    visitor.leave()
    assert settle(second) == [64]


def test_relays_in_a_hurry_never_own_the_same(database: str) -> None:
    """However relays join, rebalance and leave at the same time, a partition has one owner."""
    owners: dict[int, int] = {}
    lock = threading.Lock()
    problems: list[str] = []

    def live(me: int) -> None:
        for round_ in range(12):
            mine = Lease(database, "default")
            try:
                attempt(mine.join)
                for _ in range(3 + (me + round_) % 3):
                    with lock:
                        for number in [n for n, owner in owners.items() if owner == me]:
                            del owners[number]
                    attempt(mine.rebalance)
                    with lock:
                        for number in mine.partitions:
                            if number in owners:
                                problems.append(f"{number} is of {owners[number]} and {me}")
                            owners[number] = me
                with lock:
                    for number in mine.partitions:
                        owners.pop(number, None)
            finally:
                attempt(mine.leave)
        connections.close_all()

    def attempt(action: Callable[[], object]) -> None:
        for tries in range(20):
            try:
                action()
                return
            except DatabaseError as error:  # a deadlock, of which a relay makes a further attempt
                if tries == 19:
                    problems.append(f"{action} failed for good: {error}")

    threads = [threading.Thread(target=live, args=[me]) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert not OutboxRelay.objects.using(database).exists()
    assert not OutboxPartition.objects.using(database).filter(relay__isnull=False).exists()


# Fencing


def test_a_stale_lease_is_taken_over(database: str, lease: Callable[..., Lease]) -> None:
    """A relay whose heartbeat stopped loses its row and its partitions to the others."""
    dead, alive = lease(), lease()
    settle(dead, alive)
    let_go_stale(dead)
    assert settle(alive) == [64]
    assert list(OutboxRelay.objects.using(database).values_list("pk", flat=True)) == [alive.id]


def test_a_heartbeat_keeps_a_lease(database: str, lease: Callable[..., Lease]) -> None:
    """A relay that was late, but beat before anybody minded, keeps what it has."""
    late, other = lease(), lease()
    settle(late, other)
    let_go_stale(late)
    late.renew()
    assert settle(late, other) == [32, 32]


def test_who_was_cut_off_gives_the_others_time(
    database: str, lease: Callable[..., Lease], settings: Settings
) -> None:
    """A relay that could not beat itself waits for a lease before it takes others for dead."""
    settings.OUTBOX_LEASE_SECONDS = 2
    dead, back = lease(), lease()
    settle(dead, back)
    let_go_stale(dead)
    back._valid_until = time.monotonic()  # its last heartbeat was a lease ago
    back.renew()
    assert settle(back) == [32]

    def has_taken_over() -> bool:
        back.renew()
        back.rebalance()
        return len(back.partitions) == PARTITIONS

    wait_until(has_taken_over, 10, "the end of its patience")


def test_a_relay_does_not_fence_itself(database: str, lease: Callable[..., Lease]) -> None:
    """A relay that is late by the database's clock keeps its partitions until another minds."""
    late = lease()
    settle(late)
    let_go_stale(late)
    assert settle(late) == [64]


def test_a_lease_that_was_taken_away_says_so(database: str, lease: Callable[..., Lease]) -> None:
    """Every look at a lease that is gone raises LeaseLost, and a new one has a higher epoch."""
    lost = lease()
    settle(lost)
    let_go_stale(lost)
    settle(lease())
    looks = [
        lost.renew,
        lost.end_delivery,
        lost.rebalance,
        lost.renew_if_expired,
        lambda: lost.begin_delivery([1, 2]),
    ]
    for look in looks:
        with pytest.raises(LeaseLost):
            look()
    epoch = lost.id
    lost.leave()
    lost.join()
    assert lost.id > epoch
    lost.renew()


def test_a_lost_lease_takes_no_partition(database: str, lease: Callable[..., Lease]) -> None:
    """A relay whose row has gone can't own a partition, not even one that it finds free."""
    lost = lease()
    OutboxRelay.objects.using(database).filter(pk=lost.id).delete()
    free = list(OutboxPartition.objects.using(database).values_list("number", flat=True))
    with pytest.raises(LeaseLost):
        lost._table.take(free, lost.id)
    assert not OutboxPartition.objects.using(database).filter(relay__isnull=False).exists()


READS = {
    *("fetch", "fetch_by_id", "heads", "read", "pending_of", "last_id"),
    *("is_paused", "blocked_keys", "pulse", "writers", "has_due"),
}
WRITES: dict[str, Callable[[RelayRows, dict[str, int]], object]] = {
    "mark_published": lambda rows, ids: rows.mark_published([ids["a1"]], keep=True),
    "mark_published, not kept": lambda rows, ids: rows.mark_published([ids["a1"]], keep=False),
    "retry": lambda rows, ids: rows.retry([(ids["a1"], 1.0, "error", 1)]),
    "dead_letter": lambda rows, ids: rows.dead_letter([(ids["a1"], "error")]),
    "expire": lambda rows, ids: rows.expire([ids["a1"]]),
    "hasten": lambda rows, ids: rows.hasten([ids["b1"]], range(PARTITIONS)),
    "block": lambda rows, ids: rows.block([ids["a1"]]),
    "promote": lambda rows, ids: rows.promote(range(PARTITIONS), 100),
    "release": lambda rows, ids: rows.release(range(PARTITIONS), 100),
}


def test_every_write_of_a_relay_is_known_here() -> None:
    """No method that moves rows is missing below.

    `count_crash` is part of the fencing itself, and `record_attempts` writes to a table of its own.
    `skip` runs no statement.
    """
    names = set(dir(RelayRows)) - set(dir(RelaySQL))
    public = {name for name in names if not name.startswith("_")}
    moving = public - READS - {"count_crash", "record_attempts", "skip"}
    assert moving == {name.partition(",")[0] for name in WRITES}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "standing"])
def test_a_fenced_relay_changes_no_row(
    database: str, lease: Callable[..., Lease], name: str, fenced: bool
) -> None:
    """Once its lease is gone, no statement of a relay has any effect."""
    mine = lease()
    events = publish("a1", "b1", "c1", "d1", using=database)
    ids = {event.subject: event.pk for event in events}
    for subject, status in {"b1": "retry", "c1": "blocked", "d1": "scheduled"}.items():
        OutboxEvent.objects.using(database).filter(subject=subject).update(status=status)
    later = timezone.now() + timedelta(hours=1)
    OutboxEvent.objects.using(database).filter(subject="b1").update(scheduled_at=later)
    before = list(OutboxEvent.objects.using(database).order_by("id").values())
    rows = RelayRows(database, "default", mine.id)
    if fenced:
        let_go_stale(mine)
        settle(lease())
    result = WRITES[name](rows, ids)
    after = list(OutboxEvent.objects.using(database).order_by("id").values())
    assert (after == before) is fenced
    if isinstance(result, int):
        assert result == (0 if fenced else 1)


def test_a_relay_that_was_overtaken_settles_nothing(
    database: str, scripted: Script, join: Join
) -> None:
    """What a relay sent after others took over is settled by them, once, and it joins again."""
    slow = join()
    turn(slow)

    def overtaken(messages: Sequence[Message]) -> list[None]:
        scripted.answer = None
        let_go_stale(slow.lease)
        with DeliveryLoop(database, "default") as other:
            drain(other)
        OutboxEvent.objects.using(database).update(published_at=None)
        return [None] * len(messages)

    scripted.answer = overtaken
    publish("a1", "b1", "a2", using=database)
    with pytest.raises(LeaseLost):
        slow.turn(100)
    assert scripted.arrived == ["a1", "b1", "a2"]
    assert set(statuses(database).values()) == {"published"}
    assert not OutboxEvent.objects.using(database).filter(published_at__isnull=False).exists()
    with pytest.raises(LeaseLost):
        slow.turn(100)
    slow.join()
    publish("a3", using=database)
    drain(slow)
    assert scripted.arrived[-1] == "a3"


def test_an_overtaken_relay_starts_nothing_more(
    database: str, scripted: Script, join: Join
) -> None:
    """Fenced between fetch and publish, a relay does not speak to the broker."""
    slow = join()
    turn(slow)
    publish("a1", using=database)
    fetch = slow.owned.rows.fetch

    def fenced_afterwards(*arguments: Any, **options: Any) -> object:
        found = fetch(*arguments, **options)
        let_go_stale(slow.lease)
        with closing(connections[database].copy()):
            settle_other = Lease(database, "default")
            settle_other.join()
            settle_other.rebalance()
            settle_other.leave()
        return found

    slow.owned.rows.fetch = fenced_afterwards  # type: ignore[assignment,method-assign]
    with pytest.raises(LeaseLost):
        slow.turn(100)
    assert scripted.batches == []


# Crashes


class Death(BaseException):
    """The relay ends here: nothing that follows in it runs."""


def die(database: str, loop: DeliveryLoop) -> None:
    """Take a turn that ends with the relay's death, and let its heartbeat run out."""
    with pytest.raises(Death):
        turn(loop)
    let_go_stale(loop.lease)


def crash_counts(database: str) -> dict[str, int]:
    """Return how many crashes each event is suspected of."""
    events = OutboxEvent.objects.using(database).order_by("id")
    return dict(events.values_list("subject", "crash_count"))


def test_a_crash_is_laid_to_what_was_in_flight(database: str, lease: Callable[..., Lease]) -> None:
    """Pending events of the delivery under way, in the dead relay's partitions, are suspect."""
    dead, alive = lease(), lease()
    settle(dead, alive)
    events = publish(*(f"{key}1" for key in "abcdefghijkl"), using=database)
    events[5].status = "published"
    events[5].save()
    dead.begin_delivery([event.pk for event in events[2:10]])
    let_go_stale(dead)
    suspects = {
        event.subject
        for event in events[2:10]
        if event.partition in dead.partitions and event.status == "pending"
    }
    assert suspects
    assert len(suspects) < 7
    settle(alive)
    counts = crash_counts(database)
    assert {name for name, count in counts.items() if count} == suspects
    assert set(counts.values()) == {0, 1}


def test_a_crash_is_laid_to_its_own_delivery_though_the_record_of_one_before_failed(
    database: str, lease: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of an earlier delivery, recorded individually, are overwritten."""
    mine = lease()
    settle(mine)
    events = [event.pk for event in publish("a1", "b1", "c1", "d1", "e1", using=database)]
    mine.begin_delivery([events[0], events[2]])
    with monkeypatch.context() as patch:
        patch.setattr(mine, "_renew", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mine.begin_delivery(events[:2])
    mine.begin_delivery(events[3:])
    mine.count_crash()
    assert crash_counts(database) == {"a1": 0, "b1": 0, "c1": 0, "d1": 1, "e1": 1}


def test_a_relay_that_could_not_join_again_delivers_nothing_under_its_old_lease(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it knew ends with the lease, also if the database fails before it has a new one."""
    loop = join()
    turn(loop)
    publish("a1", using=database)
    with monkeypatch.context() as patch:
        patch.setattr(loop.lease, "join", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.join()
    with pytest.raises(LeaseLost, match="has not joined"):
        loop.deliver(100)
    assert scripted.arrived == []
    loop.join()
    turn(loop)
    assert scripted.arrived == ["a1"]


def test_an_idle_relay_takes_over_as_soon_as_it_looks(
    database: str, scripted: Script, join: Join, lease: Callable[..., Lease]
) -> None:
    """A lease that has run out stirs a relay that has nothing to do."""
    dead, idle = lease(), join()
    settle(dead, idle.lease)
    turn(idle)
    idle.turn(100, idle=True)
    assert len(idle.lease.partitions) < PARTITIONS
    let_go_stale(dead)
    idle.turn(100, idle=True)
    assert len(idle.lease.partitions) == PARTITIONS


def test_a_crash_is_counted_once(
    database: str, lease: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost in between has it done once more, as a whole."""
    alive = lease()
    settle(alive)
    (event,) = publish("a1", using=database)
    alive.begin_delivery([event.pk])
    with monkeypatch.context() as patch:
        patch.setattr(alive, "end_delivery", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            alive.count_crash()
    assert crash_counts(database) == {"a1": 0}
    alive.count_crash()
    assert crash_counts(database) == {"a1": 1}


def test_a_relay_that_died_idle_makes_no_suspects(
    database: str, scripted: Script, join: Join, lease: Callable[..., Lease]
) -> None:
    """What was settled or given back before a crash is not laid to it."""
    idle = join()
    publish("a1", using=database)
    drain(idle)
    publish("a2", using=database)
    idle.lease.begin_delivery([row("a2", database).pk])
    idle.lease.end_delivery()
    let_go_stale(idle.lease)
    settle(lease())
    assert crash_counts(database) == {"a1": 0, "a2": 0}


def test_a_poison_event_is_found_and_given_up(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """An event that kills its relays is a dead letter in the end, and costs others nothing."""
    settings.OUTBOX_MAX_CRASHES = 3

    def poisonous(messages: Sequence[Message]) -> list[None]:
        for message in messages:
            if message.subject == "p1":
                raise Death
            scripted.accept(message)
        return [None] * len(messages)

    scripted.answer = poisonous
    names = ["a1", "p1", "b1", "p2", "a2"]
    publish(*names, using=database)
    die(database, join())
    assert set(crash_counts(database).values()) == {0}
    for crashes in (1, 2):
        loop = join()
        with pytest.raises(Death):
            drain(loop)
        assert row("p1", database).crash_count == crashes
        let_go_stale(loop.lease)
    drain(join())
    assert statuses(database) == dict.fromkeys(names, "published") | {"p1": "failed"}
    poison = row("p1", database)
    assert (poison.crash_count, poison.retry_count) == (3, 0)
    assert "The relay crashed 3 times" in poison.last_error
    others = OutboxEvent.objects.using(database).exclude(subject="p1")
    assert set(others.values_list("retry_count", flat=True)) == {0}
    assert max(others.values_list("crash_count", flat=True)) == 1
    assert [batch for batch in scripted.batches[1:] if "p1" in batch] == [["p1"]] * 2
    assert first_arrivals(scripted.arrived) == {"a": ["a1", "a2"], "b": ["b1"], "p": ["p2"]}


def test_a_suspect_that_is_innocent_is_delivered(
    database: str, scripted: Script, join: Join
) -> None:
    """Events in flight in one crash are sent alone once, and then are like all others."""

    def die_once(messages: Sequence[Message]) -> list[None]:
        scripted.answer = None
        raise Death

    scripted.answer = die_once
    names = ["a1", "b1", "a2"]
    publish(*names, using=database)
    die(database, join())
    loop = join()
    publish("c1", "c2", using=database)
    drain(loop)
    assert scripted.batches == [names, ["a1"], ["b1"], ["a2"], ["c1", "c2"]]
    assert set(statuses(database).values()) == {"published"}


def test_a_replayed_poison_event_is_tried_again(
    database: str, scripted: Script, join: Join
) -> None:
    """Once the cause is put right, a replay delivers what had killed its relays."""
    publish("p1", using=database)
    OutboxEvent.objects.using(database).update(crash_count=3)
    loop = join()
    drain(loop)
    assert row("p1", database).status == "failed"
    assert OutboxEvent.objects.using(database).replay() == 1
    drain(loop)
    assert scripted.arrived == ["p1"]
