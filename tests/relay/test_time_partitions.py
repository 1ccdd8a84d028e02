"""The outbox in time partitions, on PostgreSQL: everything else as before, and old ones dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.migrations.state import ProjectState
from django.utils import timezone

from django_broadcaster.consumers.base import Delivery, ReceivedMessage
from django_broadcaster.consumers.rows import Writer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Rejected
from django_broadcaster.models import OutboxEvent, OutboxReceiver
from django_broadcaster.publishers import publisher
from django_broadcaster.receiving.lease import ReceiverLease
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.schema import AddIndexConcurrently, PartialIndex, SetTableStorage
from django_broadcaster.store import (
    RelayRows,
    drop_oldest,
    is_partitioned,
    keep_ahead,
    partition_outbox,
    segments_of,
    time_partitions,
)
from django_broadcaster.store.time_partitions import LEAST, REST, events_within
from tests.support.archives import LONG_AGO, grow_old
from tests.support.backends import Script
from tests.support.clock import Clock
from tests.support.events import SOURCE, first_arrivals, publish, publish_many, row, statuses
from tests.support.own_servers import as_alias
from tests.support.workers import place_of
from tests.support.writers import writing

from .conftest import drain, turn

if TYPE_CHECKING:
    from pytest_django import Settings

POSTGRES = [
    alias
    for alias, database in django_settings.DATABASES.items()
    if database["ENGINE"].endswith("postgresql")
]
DAY = timedelta(days=1)
PLAIN = "parted"  # as the alias, and as the schema


@pytest.fixture(params=POSTGRES)
def plain(request: pytest.FixtureRequest, committing: None) -> Iterator[str]:
    """An outbox of its own, which is a plain table yet, in a schema of the test database."""
    alias = str(request.param)
    sql = f"DROP SCHEMA IF EXISTS {PLAIN} CASCADE"
    with connections[alias].cursor() as cursor:
        cursor.execute(f"{sql}; CREATE SCHEMA {PLAIN}")
    place = {**place_of(alias), "OPTIONS": {"options": f"-c search_path={PLAIN}"}}
    with as_alias(PLAIN, place):
        call_command("migrate", "django_broadcaster", database=PLAIN, verbosity=0)
        yield PLAIN
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def parted(plain: str, settings: Settings) -> str:
    """The same in partitions."""
    settings.OUTBOX_TIME_PARTITIONS = DAY
    assert partition_outbox(plain, DAY, timezone.now())
    return plain


@pytest.fixture
def join_parted(parted: str, clock: Clock) -> Iterator[Callable[[], DeliveryLoop]]:
    """Return a function that lets a relay join there."""
    joined: list[DeliveryLoop] = []

    def enter() -> DeliveryLoop:
        loop = DeliveryLoop(parted, "default", clock=clock).__enter__()
        joined.append(loop)
        return loop

    yield enter
    for loop in joined:
        loop.__exit__(None, None, None)


def ask(using: str, sql: str, *params: Any) -> list[Any]:
    """Return the rows of a query."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall()) if cursor.description else []


def skip_ids(using: str, last: int) -> None:
    """Let the next event have the id behind `last`."""
    ask(using, "SELECT setval('django_broadcaster_outboxevent_id_seq', %s)", last)


def held_in(using: str, name: str) -> str:
    """The partition in which an event stands."""
    sql = "SELECT tableoid::regclass::text FROM django_broadcaster_outboxevent WHERE subject = %s"
    return str(ask(using, sql, name)[0][0])


def fill_first(using: str, *names: str) -> None:
    """Publish these events into the first segment, and one into the second."""
    publish(*names, using=using)
    skip_ids(using, segments_of(using)[0].upper)
    publish("z1", using=using)


def test_rows_stay_through_the_change(plain: str, scripted: Script, settings: Settings) -> None:
    """What was published before stands where it did, and goes in order with what follows."""
    publish("a1", "b1", using=plain)
    publish("c1", using=plain, event_id="mine")
    before = list(OutboxEvent.objects.using(plain).order_by("id").values())
    settings.OUTBOX_TIME_PARTITIONS = DAY
    assert partition_outbox(plain, DAY, timezone.now())
    assert is_partitioned(plain)
    assert not partition_outbox(plain, DAY, timezone.now()), "it is done once"
    assert list(OutboxEvent.objects.using(plain).order_by("id").values()) == before
    again = publish("c1", using=plain, event_id="mine")
    assert again[0].pk == before[2]["id"]
    publish("a2", using=plain)
    loop = DeliveryLoop(plain, "default")
    with loop:
        drain(loop)
    assert scripted.arrived == ["a1", "b1", "c1", "a2"]
    assert set(statuses(plain).values()) == {"published"}


def test_every_partition_has_the_indexes_and_the_storage(parted: str) -> None:
    """A fetch finds the index of pending rows in each, and autovacuum its settings."""
    found = ask(
        parted,
        "SELECT i.inhrelid::regclass::text, c.reloptions, (SELECT count(*) FROM pg_index x "
        "WHERE x.indrelid = i.inhrelid AND x.indisvalid) FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'django_broadcaster_outboxevent'::regclass",
    )
    assert len(found) == 3
    assert {count for _, _, count in found} == {6}
    for _, options, _ in found:
        assert "vacuum_index_cleanup=on" in options


def test_an_identity_is_unique_over_all_partitions(parted: str) -> None:
    """Publishing it again writes nothing and returns the row, whatever segment that is in."""
    (first,) = publish("a1", using=parted, event_id="mine")
    skip_ids(parted, segments_of(parted)[0].upper)
    (second,) = publish("a1", using=parted, event_id="mine")
    assert second.pk == first.pk
    events = [{"event_type": "order.placed", "source": SOURCE, "event_id": name} for name in "xxy"]
    assert publisher.publish_events(events, using=parted) == 2
    assert OutboxEvent.objects.using(parted).count() == 3
    OutboxEvent.objects.using(parted).filter(pk=first.pk).delete()
    (third,) = publish("a1", using=parted, event_id="mine")
    assert third.pk != first.pk, "the memory of an identity is its row"


def test_a_receiver_writes_a_message_once(parted: str, settings: Settings) -> None:
    """Also one that comes twice in a batch, or again after its row is in an older segment."""
    settings.OUTBOX_CONSUMERS = {
        "orders": {"CONSUMER": "tests.support.memory_broker.MemoryConsumer"}
    }
    event = CloudEvent("order.placed", SOURCE, {"n": 1}, id="mine")
    delivery = Delivery(ReceivedMessage(body=event.to_json()), event=event)
    lease, writer = ReceiverLease(parted, "orders"), Writer(parted, "orders", "default")
    lease.join()
    first = writer.write(writer.entries([delivery, delivery]), 2, lease)
    skip_ids(parted, segments_of(parted)[0].upper)
    second = writer.write(writer.entries([delivery]), 1, lease)
    assert (first.duplicates, second.duplicates) == (1, 1)
    assert OutboxEvent.objects.using(parted).count() == 1
    figures = OutboxReceiver.objects.using(parted).get()
    assert (figures.received, figures.duplicates) == (3, 2)


def test_one_of_many_writers_of_an_identity_writes_it(parted: str) -> None:
    """Published by several at once, it is there once, and all are told of the same row."""
    ids: list[int] = []
    barrier = threading.Barrier(4)

    def write() -> None:
        try:
            for number in range(20):
                barrier.wait(10)
                (event,) = publish("a1", using=parted, event_id=f"m{number}")
                ids.append(event.pk)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == 80
    assert OutboxEvent.objects.using(parted).count() == len(set(ids)) == 20


def test_segments_are_as_large_as_the_time_needs(parted: str) -> None:
    """As many events as the last such time had, and of a shorter one twice what there were."""
    now = timezone.now()
    publish("a1", using=parted)
    skip_ids(parted, 30_000)
    publish("a2", using=parted)
    assert events_within(parted, DAY, now) == 2 * 30_001
    OutboxEvent.objects.using(parted).filter(subject="a1").update(created_at=now - 2 * DAY)
    skip_ids(parted, 50_000)
    publish("a3", using=parted)
    assert events_within(parted, DAY, now) == 50_000


def test_a_segment_waits_ahead(parted: str) -> None:
    """When the last one comes into use, the next one is made, about as large as the time needs."""
    first, second = segments_of(parted)
    assert (first.lower, second.lower) == (None, first.upper)
    assert second.upper - first.upper == LEAST
    assert keep_ahead(parted, DAY, timezone.now()) is None
    skip_ids(parted, second.lower or 0)
    publish("a1", using=parted)
    third = keep_ahead(parted, DAY, timezone.now())
    assert third is not None
    assert third.lower == second.upper
    assert held_in(parted, "a1") == second.name


def test_events_without_a_segment_are_kept_and_delivered(
    parted: str, scripted: Script, join_parted: Callable[[], DeliveryLoop]
) -> None:
    """If no relay made segments for long, events go to the rest, and segments go on behind."""
    skip_ids(parted, segments_of(parted)[-1].upper + 5)
    publish("a1", "a2", using=parted)
    assert held_in(parted, "a1") == REST
    loop = join_parted()
    drain(loop)
    assert scripted.arrived == ["a1", "a2"]
    assert (segments_of(parted)[-1].lower or 0) > row("a2", parted).pk


def test_an_old_segment_is_dropped_by_the_relay(
    parted: str,
    scripted: Script,
    join_parted: Callable[[], DeliveryLoop],
    settings: Settings,
    clock: Clock,
) -> None:
    """All that is in it goes with it, but for what has still to be delivered or looked at."""
    settings.OUTBOX_RETENTION = timedelta(days=7)
    fill_first(parted, "a1", "a2", "b1", "c1")
    publish("d1", using=parted, event_id="kept")
    scripted.fail("b1", Rejected("no"))
    oldest = segments_of(parted)[0]
    loop = join_parted()
    drain(loop)
    grow_old(parted, ["a1", "a2"])
    rows = OutboxEvent.objects.using(parted)
    long_ago = timezone.now() - LONG_AGO
    rows.filter(subject="b1").update(created_at=long_ago)
    rows.filter(subject="c1").update(created_at=long_ago, status="scheduled", scheduled_at=long_ago)
    rows.filter(subject="z1").update(created_at=timezone.now() - timedelta(days=8))
    ids = {name: row(name, parted).pk for name in ("b1", "c1")}
    clock.advance(60)
    turn(loop)
    assert oldest.name not in [segment.name for segment in segments_of(parted)]
    assert ask(parted, "SELECT to_regclass(%s)", oldest.name) == [(None,)]
    assert {name: row(name, parted).pk for name in ids} == ids
    assert held_in(parted, "b1") == REST
    drain(loop)
    assert statuses(parted)["b1"] == "failed"
    assert scripted.arrived.count("c1") == 2, "it is delivered from where it is now"


@pytest.mark.parametrize(
    "young",
    [
        {"status": "published", "published_at": timezone.now},
        {"status": "cancelled", "ended_at": timezone.now},
        {"status": "cancelled", "scheduled_at": timezone.now},
    ],
    ids=["published", "cancelled", "cancelled before its time"],
)
def test_young_events_outlive_their_segment(parted: str, young: dict[str, Any]) -> None:
    """What came to its end a short while ago, after a replay for example, moves to the rest."""
    fill_first(parted, "a1", "b1")
    grow_old(parted)
    values = {name: value() if callable(value) else value for name, value in young.items()}
    OutboxEvent.objects.using(parted).filter(subject="b1").update(**values)
    assert drop_oldest(parted, timezone.now() - DAY)
    assert set(statuses(parted)) == {"b1", "z1"}


def test_a_segment_in_use_is_not_dropped(parted: str) -> None:
    """However old its events are, as long as nothing stands behind it, or only young ones."""
    publish("a1", using=parted)
    grow_old(parted)
    assert drop_oldest(parted, timezone.now() - DAY) is None
    skip_ids(parted, segments_of(parted)[0].upper)
    publish("z1", using=parted)
    assert drop_oldest(parted, timezone.now() - DAY) is None
    assert set(statuses(parted)) == {"a1", "z1"}


def test_an_identity_is_forgotten_with_its_row(parted: str) -> None:
    """After its segment it may be published again; one that moved is still known."""
    publish("a1", using=parted, event_id="gone")
    publish("b1", using=parted, event_id="kept")
    fill_first(parted)
    grow_old(parted)
    OutboxEvent.objects.using(parted).filter(subject="b1").update(status="failed")
    kept = row("b1", parted).pk
    assert drop_oldest(parted, timezone.now() - DAY)
    assert ask(parted, "SELECT id FROM django_broadcaster_outboxidentity") == [(kept,)]
    (again,) = publish("b1", using=parted, event_id="kept")
    assert again.pk == kept
    publish("a1", using=parted, event_id="gone")
    assert set(statuses(parted)) == {"a1", "b1", "z1"}


def test_a_drop_that_was_cut_off_is_finished(parted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that died behind the detaching leaves a table that the next one drops."""
    fill_first(parted, "a1", "b1")
    grow_old(parted)
    OutboxEvent.objects.using(parted).filter(subject="b1").update(status="failed")
    with monkeypatch.context() as patch:
        patch.setattr(time_partitions, "_drop_detached", lambda using: None)
        name = drop_oldest(parted, timezone.now() - DAY)
    assert name
    assert ask(parted, "SELECT to_regclass(%s) IS NULL", name) == [(False,)]
    assert set(statuses(parted)) == {"b1", "z1"}
    assert drop_oldest(parted, timezone.now() - DAY) is None
    assert ask(parted, "SELECT to_regclass(%s) IS NULL", name) == [(True,)]


def test_what_somebody_detached_is_left_alone(parted: str) -> None:
    """A partition that an operator took out, to keep it, is not dropped."""
    fill_first(parted, "a1")
    name = segments_of(parted)[0].name
    ask(parted, f"ALTER TABLE django_broadcaster_outboxevent DETACH PARTITION {name}")
    drop_oldest(parted, timezone.now())
    assert ask(parted, "SELECT to_regclass(%s) IS NULL", name) == [(False,)]


def test_a_long_transaction_is_not_waited_for(parted: str) -> None:
    """While a writer is open for long, a drop gives up within a second, and has changed nothing."""
    fill_first(parted, "a1")
    grow_old(parted)
    oldest = segments_of(parted)[0]
    with closing(connections[parted].copy()) as writer:
        writer.set_autocommit(False)
        with writer.cursor() as cursor:
            cursor.execute("LOCK TABLE django_broadcaster_outboxevent IN ROW EXCLUSIVE MODE")
        with pytest.raises(OperationalError, match="lock timeout"):
            drop_oldest(parted, timezone.now() - DAY)
        writer.rollback()
    assert segments_of(parted)[0] == oldest
    assert drop_oldest(parted, timezone.now() - DAY) == oldest.name


def test_segments_come_and_go_under_writers_and_relays(
    parted: str,
    scripted: Script,
    join_parted: Callable[[], DeliveryLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost or repeated, and keys stay in order, while segments change all the time."""
    monkeypatch.setattr(time_partitions, "events_within", lambda *_: 1000)
    loop = join_parted()
    dropped = 0
    with writing(parted, "abcd") as writers:
        while len(writers.committed) < 300:
            skip_ids(parted, segments_of(parted)[-1].lower or 0)
            keep_ahead(parted, DAY, timezone.now())
            turn(loop, 20)
            try:
                dropped += bool(drop_oldest(parted, timezone.now()))
            except DatabaseError as error:
                assert "lock timeout" in str(error) or "deadlock" in str(error)  # noqa: PT017
    drain(loop)
    assert dropped
    assert len(scripted.arrived) == len(set(scripted.arrived))
    assert set(scripted.arrived) == set(writers.committed)
    order = first_arrivals(scripted.arrived)
    for key, names in order.items():
        assert names == sorted(names, key=lambda name: int(name.removeprefix(key)))


def test_a_fetch_keeps_to_the_indexes_of_pending_rows(parted: str) -> None:
    """Also where no statistics are there yet, no delivered row is read for it."""
    fill_first(parted, *(f"a{number}" for number in range(3)))
    publish_many(3000, parted, keys=10)
    grow_old(parted)
    publish("b1", using=parted)
    plans = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        execute(f"EXPLAIN {sql}", params, many, context)
        plans.append("\n".join(line for (line,) in context["cursor"].fetchall()))
        return execute(sql, params, many, context)

    with connections[parted].execute_wrapper(explain):
        rows = RelayRows(parted, "default", 0).fetch(list(range(64)), 0, 500).rows
    assert [each.subject for each in rows] == ["b1"]
    [plan] = plans
    assert plan.count("publisher_backend_id_idx") + plan.count("broadcaster_pending") >= 2, plan
    assert "Seq Scan" not in plan, plan


def test_migrations_go_on_from_there(parted: str) -> None:
    """An index is added to every partition, and storage is set on each of them."""
    index = PartialIndex(name="tests_extra", fields=["subject"], where="subject <> ''")
    adding = AddIndexConcurrently("outboxevent", index)
    before, after = ProjectState.from_apps(apps), ProjectState.from_apps(apps)
    adding.state_forwards("django_broadcaster", after)
    with connections[parted].schema_editor(atomic=False) as editor:
        adding.database_forwards("django_broadcaster", editor, before, after)
    found = "SELECT count(*) FROM pg_indexes WHERE schemaname = %s AND indexdef LIKE %s"
    assert ask(parted, found, PLAIN, "%(subject)%") == [(4,)]
    storage = SetTableStorage("outboxevent", {"fillfactor": "90"})
    options = "SELECT count(*) FROM pg_class WHERE 'fillfactor=90' = ANY(reloptions)"
    with connections[parted].schema_editor() as editor:
        storage.database_forwards("django_broadcaster", editor, before, before)
    assert ask(parted, options) == [(3,)]
    with connections[parted].schema_editor() as editor:
        storage.database_backwards("django_broadcaster", editor, before, before)
    assert ask(parted, options) == [(0,)]


def test_the_command_partitions_and_lists(plain: str, settings: Settings, capsys: Any) -> None:
    """It needs the setting, says what it made, and changes nothing when it is run again."""
    with pytest.raises(CommandError, match="OUTBOX_TIME_PARTITIONS must be set"):
        call_command("outbox_partition", database=plain)
    settings.OUTBOX_TIME_PARTITIONS = DAY
    for _ in range(2):
        call_command("outbox_partition", database=plain)
        assert capsys.readouterr().out.count("outboxevent_from_") == 2


def test_what_points_to_the_table_is_named(plain: str, settings: Settings) -> None:
    """A foreign key would be lost: the command says whose it is, and nothing has changed."""
    settings.OUTBOX_TIME_PARTITIONS = DAY
    ask(plain, "CREATE TABLE keeper (id bigint REFERENCES django_broadcaster_outboxevent (id))")
    with pytest.raises(CommandError, match="foreign keys of keeper"):
        call_command("outbox_partition", database=plain)
    assert not is_partitioned(plain)


def test_the_setting_and_the_table_are_compared(plain: str, settings: Settings) -> None:
    """A check says which of the two is missing."""

    def found() -> list[tuple[str | None, str | None]]:
        messages = run_checks(tags=["database"], databases=[plain])
        return [(message.id, message.hint) for message in messages]

    assert found() == []
    settings.OUTBOX_TIME_PARTITIONS = DAY
    [(number, hint)] = found()
    assert number == "django_broadcaster.E035"
    assert "outbox_partition" in str(hint)
    partition_outbox(plain, DAY, timezone.now())
    assert found() == []
    settings.OUTBOX_TIME_PARTITIONS = None
    [(number, hint)] = found()
    assert number == "django_broadcaster.E035"
    assert "OUTBOX_TIME_PARTITIONS" in str(hint)


def test_an_event_is_rolled_back_with_its_identity(parted: str) -> None:
    """A transaction that fails takes both back."""
    with transaction.atomic(using=parted):
        publish("a1", using=parted, event_id="mine")
        transaction.set_rollback(True, using=parted)
    publish("a1", using=parted, event_id="mine")
    assert set(statuses(parted)) == {"a1"}


# What outlives, and where things are


def own_events() -> list[dict[str, str]]:
    """Three events with ids of their own."""
    return [
        {"event_type": "a.b", "source": SOURCE, "event_id": f"order-{n}", "subject": f"a{n}"}
        for n in (1, 2, 3)
    ]


def test_an_emptied_outbox_has_forgotten_its_identities(parted: str) -> None:
    """A TRUNCATE restarts the ids: another row with the id of an old one stands in nobody's way."""
    assert publisher.publish_events(own_events(), using=parted) == 3
    ask(parted, "TRUNCATE django_broadcaster_outboxevent RESTART IDENTITY")
    publish("b1", "b2", "b3", using=parted)
    assert publisher.publish_events(own_events(), using=parted) == 3
    assert publisher.publish_events(own_events(), using=parted) == 0
    assert set(statuses(parted)) == {"a1", "a2", "a3", "b1", "b2", "b3"}


def test_the_outbox_can_be_partitioned_after_its_tables_were_made_again(parted: str) -> None:
    """What `migrate zero` does not know of is no obstacle, and its identities are forgotten."""
    assert publisher.publish_events(own_events(), using=parted) == 3
    OutboxEvent.objects.using(parted).cancel()
    call_command("migrate", "django_broadcaster", "zero", database=parted, verbosity=0)
    call_command("migrate", "django_broadcaster", database=parted, verbosity=0)
    assert partition_outbox(parted, DAY, timezone.now())
    assert publisher.publish_events(own_events(), using=parted) == 3


def test_partitions_are_in_the_schema_of_the_outbox(plain: str, settings: Settings) -> None:
    """Also where `search_path` begins with another one, by which they are found and dropped."""
    settings.OUTBOX_TIME_PARTITIONS = DAY
    home = f"{PLAIN}_app"
    ask(plain, f"DROP SCHEMA IF EXISTS {home} CASCADE")
    ask(plain, f"CREATE SCHEMA {home}")
    place = {**place_of(plain), "OPTIONS": {"options": f"-c search_path={home},{PLAIN}"}}
    try:
        with as_alias("both", place) as both:
            assert partition_outbox(both, DAY, timezone.now())
            publish("a1", using=both, event_id="1")
            grow_old(both)
            skip_ids(both, segments_of(both)[1].lower or 0)
            publish("a2", using=both)
            grow_old(both)
            assert keep_ahead(both, DAY, timezone.now())
            skip_ids(both, segments_of(both)[-1].lower or 0)
            publish("a3", using=both)
            first = segments_of(both)[0].name
            assert drop_oldest(both, timezone.now()) == first
            assert first not in [segment.name for segment in segments_of(both)]
        counted = "SELECT COUNT(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        assert ask(plain, f"{counted} WHERE nspname = %s", home) == [(0,)]
        assert ask(plain, "SELECT to_regclass(%s)", first) == [(None,)]
    finally:
        ask(plain, f"DROP SCHEMA {home} CASCADE")


def test_rights_are_passed_on(plain: str, settings: Settings) -> None:
    """Who could publish before can do so afterwards, and so can who is let in later."""
    settings.OUTBOX_TIME_PARTITIONS = DAY
    table = "django_broadcaster_outboxevent"
    name = connections[plain].settings_dict["NAME"]  # roles belong to the whole server
    before, later, column = roles = [f"{name}_{role}" for role in ("before", "later", "column")]
    try:
        for role in roles:
            ask(plain, f"CREATE ROLE {role}")
            ask(plain, f"GRANT USAGE ON SCHEMA {PLAIN} TO {role}")
        ask(plain, f"GRANT INSERT, SELECT ON {table} TO {before} WITH GRANT OPTION")
        ask(plain, f"GRANT SELECT (id, status) ON {table} TO {column}")
        assert partition_outbox(plain, DAY, timezone.now())
        ask(plain, f"GRANT INSERT, SELECT ON {table} TO {later}")
        ask(plain, f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {later}")
        for role in roles[:2]:
            for _ in range(2):  # the second time after a purge, when the identity is known
                ask(plain, f"SET ROLE {role}")
                assert publisher.publish_events(own_events(), using=plain) == 3
                ask(plain, "RESET ROLE")
                OutboxEvent.objects.using(plain).all().delete()
        can = "SELECT has_column_privilege(%s, %s, 'status', 'SELECT')"
        assert ask(plain, can, column, table) == [(True,)]
        may = "SELECT has_table_privilege(%s, %s, 'INSERT WITH GRANT OPTION')"
        assert ask(plain, may, before, table) == [(True,)]
    finally:
        ask(plain, "RESET ROLE")
        for role in roles:
            ask(plain, f"DROP OWNED BY {role}")
            ask(plain, f"DROP ROLE {role}")
