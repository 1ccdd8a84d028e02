"""Events for a DebeziumBackend are in the WAL if and only if their transaction commits."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from django_broadcaster.backends.handler import backends
from django_broadcaster.exceptions import InvalidEvent, InvalidPublisherConfig, RefusedByDatabase
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import slots
from tests.debezium.conftest import deliver, use
from tests.publishers.statements import statements
from tests.support.kafka_connect import records_in_wal
from tests.support.own_servers import OwnDatabase, as_alias
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.usefixtures("debezium")


@pytest.fixture
def in_wal(postgres: OwnDatabase, debezium: str) -> Any:
    """Return the ids of the events in the WAL that Connect has not taken."""
    return lambda: [record["id"] for record in records_in_wal(postgres, debezium)]


def publish(event_id: str = "", **options: Any) -> OutboxEvent:
    """Publish one event, whose type and source are of no interest."""
    options = {"data": {"order": 7}, "event_id": event_id or None, "using": "own", **options}
    return publisher.publish_event("order.placed", "/shop", **options)


def statuses() -> list[str]:
    """Return the statuses of all rows, in order."""
    return list(OutboxEvent.objects.using("own").order_by("id").values_list("status", flat=True))


def test_an_event_is_in_the_wal_if_its_transaction_commits(in_wal: Any) -> None:
    """Savepoints included; its row is delivered from the start."""
    publish("alone")
    with transaction.atomic("own"):
        publish("kept")
        with transaction.atomic("own"):
            publish("kept too")
        with transaction.atomic("own"):
            publish("rolled back to a savepoint")
            transaction.set_rollback(True, "own")
    with transaction.atomic("own"):
        publish("rolled back")
        transaction.set_rollback(True, "own")
    assert in_wal() == ["alone", "kept", "kept too"]
    assert statuses() == ["published"] * 3


def test_events_of_one_call_keep_their_order(in_wal: Any) -> None:
    """Of several chunks, too; those whose id was published before are not there again."""
    publish("3")
    events = [
        {"event_type": "order.placed", "source": "/shop", "event_id": str(number)}
        for number in range(10)
    ]
    assert publisher.publish_events(events, using="own", batch_size=4) == 9
    assert publisher.publish_events(events, using="own") == 0
    publish("5")
    assert in_wal() == ["3", *(str(number) for number in range(10) if number != 3)]


def test_events_created_through_the_model_are_in_the_wal(in_wal: Any) -> None:
    """One by one and in bulk."""
    objects = OutboxEvent.objects.using("own")
    objects.create(event_type="order.placed", source="/shop", event_id="one")
    objects.bulk_create(
        OutboxEvent(event_type="order.placed", source="/shop", event_id=each)
        for each in ("two", "three")
    )
    assert in_wal() == ["one", "two", "three"]
    assert statuses() == ["published"] * 3


@pytest.mark.parametrize("way", ["save", "bulk_create"])
def test_events_that_are_created_again_after_a_rollback_are_in_the_wal(
    way: str, in_wal: Any, settings: Settings
) -> None:
    """With the same instances, and with the copies for further backends."""
    settings.OUTBOX_PUBLISHERS = {
        **settings.OUTBOX_PUBLISHERS,
        "other": {"BACKEND": "django_broadcaster.backends.DummyBackend"},
    }
    settings.OUTBOX_ROUTES = {"order.placed": ["default", "other"]}
    backends.reset()
    events = [OutboxEvent(event_type="order.placed", source="/shop") for _ in range(2)]

    def create() -> None:
        if way == "save":
            for event in events:
                event.save(using="own")
        else:
            OutboxEvent.objects.using("own").bulk_create(events)

    with transaction.atomic("own"):
        create()
        transaction.set_rollback(True, "own")
    create()
    assert in_wal() == [event.event_id for event in events]
    assert sorted(statuses()) == ["pending"] * 2 + ["published"] * 2


def test_events_that_bulk_create_may_skip_wait_for_the_relay(in_wal: Any) -> None:
    """Nothing shows which of them are new, and the others must not be sent again."""
    publish("old")
    assert in_wal() == ["old"]
    OutboxEvent.objects.using("own").bulk_create(
        [
            OutboxEvent(event_type="order.placed", source="/shop", event_id=each)
            for each in ("old", "new")
        ],
        ignore_conflicts=True,
    )
    assert statuses() == ["published", "pending"]
    deliver()
    assert in_wal() == ["old", "new"]


def test_a_row_that_was_handed_over_wakes_no_relay() -> None:
    """Through the model as through a publish call."""
    with statements() as run:
        OutboxEvent.objects.using("own").create(event_type="order.placed", source="/shop")
    assert not [sql for sql in run if sql.startswith(("NOTIFY", "SELECT pg_notify"))]


def test_a_relay_hands_over_scheduled_and_replayed_events(in_wal: Any) -> None:
    """A relay that delivers sends them into the WAL when they are due, each once."""
    publish("later", scheduled_at=timezone.now() + timedelta(hours=1))
    publish("now")
    deliver()
    assert in_wal() == ["now"]
    OutboxEvent.objects.using("own").filter(status="scheduled").update(scheduled_at=timezone.now())
    deliver()
    assert in_wal() == ["now", "later"]
    OutboxEvent.objects.using("own").filter(event_id="now").replay()
    deliver()
    assert in_wal() == ["now", "later", "now"]
    assert statuses() == ["published"] * 2


def test_events_do_not_overtake_those_of_their_key_that_wait(
    in_wal: Any, settings: Settings
) -> None:
    """Events that another backend has left are sent first; other keys do not wait for them."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}
    }
    backends.reset()
    publish("1", partition_key="a")
    use(settings)
    publish("2", partition_key="a")
    keyed = {"event_type": "order.placed", "source": "/shop", "partition_key": "a"}
    publisher.publish_events([{**keyed, "event_id": each} for each in "34"], using="own")
    objects = OutboxEvent.objects.using("own")
    objects.create(event_type="order.placed", source="/shop", event_id="5", partition_key="a")
    publish("other", partition_key="b")
    publish("none")
    assert in_wal() == ["other", "none"]
    deliver()
    publish("6", partition_key="a")
    assert in_wal() == ["other", "none", *"123456"]
    assert statuses() == ["published"] * 8


def test_a_missing_slot_refuses_events_so_that_none_is_lost(
    postgres: OwnDatabase, debezium: str
) -> None:
    """The caller's transaction fails with an error that names the fix, and a relay waits."""
    publish("later", scheduled_at=timezone.now() + timedelta(hours=1))
    OutboxEvent.objects.using("own").update(scheduled_at=timezone.now())
    postgres.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    with pytest.raises(RefusedByDatabase, match="outbox_debezium default --sql"):
        publish()
    with pytest.raises(RefusedByDatabase, match=debezium):
        publisher.publish_events([{"event_type": "order.placed", "source": "/shop"}], using="own")
    deliver()
    assert statuses() == ["pending"]


def test_replayed_events_wait_for_a_new_slot_in_their_order(
    in_wal: Any, postgres: OwnDatabase, debezium: str
) -> None:
    """Later events of their key wait for them, also if the backend was unavailable before."""
    publish("1", partition_key="a")
    publish("2", partition_key="a")
    postgres.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    with DeliveryLoop("own", "default") as loop:
        OutboxEvent.objects.using("own").filter(event_id="1").replay()
        loop.turn(100)
        OutboxEvent.objects.using("own").filter(event_id="2").replay()
        for _ in range(3):
            loop.turn(100)
    assert statuses() == ["pending"] * 2
    postgres.execute(f"SELECT pg_create_logical_replication_slot('{debezium}', 'pgoutput')")
    publish("3", partition_key="a")
    deliver()
    assert in_wal() == ["1", "2", "3"]


def test_a_slot_of_another_database_of_the_server_refuses_events(
    postgres: OwnDatabase, debezium: str
) -> None:
    """Names of slots are those of the server, but a slot decodes its own database alone."""
    postgres.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    elsewhere = {**connections["own"].settings_dict, "NAME": "postgres"}
    with as_alias("elsewhere", elsewhere), connections["elsewhere"].cursor() as cursor:
        cursor.execute(f"SELECT pg_create_logical_replication_slot('{debezium}', 'pgoutput')")
        with pytest.raises(RefusedByDatabase, match=debezium):
            publish()
        assert not slots("own", backends.slots())["default"].keeps_events
        cursor.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    assert statuses() == []


def test_a_slot_that_is_being_created_refuses_events(postgres: OwnDatabase, debezium: str) -> None:
    """The server waits for open transactions; the slot would skip what is committed meanwhile."""
    postgres.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    creates = f"SELECT pg_create_logical_replication_slot('{debezium}', 'pgoutput')"
    is_there = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{debezium}'"

    def create() -> None:
        try:
            postgres.execute(creates)
        finally:
            connections["own"].close()

    with as_alias("open", connections["own"].settings_dict), ThreadPoolExecutor(1) as pool:
        with transaction.atomic("open"), connections["open"].cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
            created = pool.submit(create)
            wait_until(lambda: bool(postgres.execute(is_there)), 30, "the slot appears")
            with pytest.raises(RefusedByDatabase, match=debezium), transaction.atomic("own"):
                publish()
            assert not slots("own", backends.slots())["default"].keeps_events
        created.result(30)
    publish()
    assert statuses() == ["published"]


def test_an_event_that_kafka_would_refuse_is_refused_before_any_sql(settings: Settings) -> None:
    """Such a record would stop the connector, and with it all events after it."""
    use(settings, topic="shop.{key}", max_message_bytes=1000)
    with transaction.atomic("own"):
        with pytest.raises(InvalidEvent, match="over the limit of 1000"):
            publish(data="x" * 1000)
        with pytest.raises(InvalidEvent, match="topic: has"):
            publish(partition_key="k" * 250)
        with pytest.raises(InvalidPublisherConfig, match="topic"):
            publish(publisher_config={"topic": "no topic"})
        publish()
    assert statuses() == ["published"]


def test_other_databases_are_refused(database: str, settings: Settings) -> None:
    """The error names the setting and the database, unless it is PostgreSQL."""
    use(settings)
    error = RefusedByDatabase if connections[database].vendor == "postgresql" else Exception
    with pytest.raises(error, match=r"replication slot|needs PostgreSQL") as raised:
        publish(using=database)
    assert "default" in str(raised.value)
    assert not OutboxEvent.objects.using(database).exists()


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_any_text_gets_through(
    mode: str, settings: Settings, postgres: OwnDatabase, debezium: str
) -> None:
    """Whatever characters JSON may hold; the WAL has ASCII alone."""
    use(settings, content_mode=mode)
    text = "\0 \x1f ' \" \\ % %s é € 😀 \u2028 \ud7ff"
    publish(data={"text": text.replace("\0", "")}, partition_key="ключ €", subject="é😀")
    (record,) = records_in_wal(postgres, debezium)
    assert record["key"] == "ключ €"
    data = json.loads(record["value"])
    assert (data if mode == "binary" else data["data"]) == {"text": text.replace("\0", "")}
    publish(data=text.encode(), data_content_type="text/plain")
    *_, record = records_in_wal(postgres, debezium)
    if mode == "binary":
        assert record["value"] == text
    else:
        assert base64.b64decode(json.loads(record["value"])["data_base64"]) == text.encode()
