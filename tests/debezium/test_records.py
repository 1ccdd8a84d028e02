"""What real Kafka Connect makes of events: the records that the Kafka backend writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from confluent_kafka import Message as Record

from django_broadcaster.backends import KafkaBackend, Message
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.publishers import publisher
from tests.debezium.conftest import SLOT, remove_connector, start_connector, use
from tests.support.kafka_connect import ConnectServer, kafka_connect
from tests.support.kafka_server import headers_of, make_topic, records, shared_servers
from tests.support.own_servers import OwnDatabase
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("debezium")]

SECONDS = 60.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectServer]:
    """A worker of Kafka Connect, beside the shared broker."""
    with kafka_connect(tmp_path_factory.mktemp("connect"), shared_servers()) as server:
        yield server


@pytest.fixture
def started(connect: ConnectServer, settings: Settings) -> Iterator[Any]:
    """Return a function that starts the connector by the command; it is deleted after the test."""

    yield lambda: start_connector(connect)
    use(settings)
    remove_connector(connect)


def events() -> list[tuple[CloudEvent, str | None]]:
    """Return events of every kind, each with its key."""

    def event(data: Any = None, **more: Any) -> CloudEvent:
        return CloudEvent("order.placed", "/shop", data, id=str(uuid4()), **more)

    traced = {"traceparent": TRACE, "tracestate": "vendor=1"}
    return [
        (event({"order": 7, "price": 1.5, "note": "é € 😀"}, subject="7"), "7"),
        (event([1, None, {"a": []}]), None),
        (event(), "no data"),
        (event(JSON_NULL), "null"),
        (event("text", data_content_type="text/plain"), "ключ"),
        (event(b"\xff\x00bytes", data_content_type="application/octet-stream"), "7"),
        (event(b"bytes of text", data_content_type="application/octet-stream"), "7"),
        (event({"traced": True}, extensions=traced, data_schema="https://a.example/1"), "7"),
        (event({}, extensions={"tenant": "acme", "priority": 3, "urgent": True}), "7"),
        (event({}, extensions={"unlisted": "x"}), "7"),
    ]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_records_are_those_of_the_kafka_backend(
    mode: str, settings: Settings, started: Any, postgres: OwnDatabase
) -> None:
    """In both modes: topic, key, value and headers, also those of traces; no key stays no key."""
    servers = shared_servers()
    ours, theirs = make_topic(servers), make_topic(servers)
    use(settings, topic=theirs, content_mode=mode, extensions=["tenant", "priority", "urgent"])
    started()
    sent = events()
    for event, key in sent:
        publisher.publish_cloud_event(event, partition_key=key, using="own")
    found = taken(theirs, len(sent))
    kafka = KafkaBackend(alias="kafka", bootstrap_servers=servers, topic=ours, content_mode=mode)
    outcomes = kafka.send_batch([Message.of(event, partition_key=key) for event, key in sent])
    kafka.close()
    assert outcomes == [None] * len(sent)
    for (event, _), theirs_is, ours_is in zip(sent, found, records(servers, ours), strict=True):
        expected = readable(ours_is)
        if mode == "binary" and ("unlisted" in event.extensions or event.data == b"\xff\x00bytes"):
            assert readable(theirs_is) == structured(event, expected)
        else:
            assert readable(theirs_is) == expected


def test_templates_and_events_name_the_topic(settings: Settings, started: Any) -> None:
    """As for the Kafka backend, characters that no topic may have are escaped."""
    name = f"test-{uuid4()}"
    own = make_topic(shared_servers())
    use(settings, topic=f"{name}.{{type}}")
    started()
    publisher.publish_event("order placed", "/shop", using="own")
    publisher.publish_event("x", "/shop", publisher_config={"topic": own}, using="own")
    assert len(taken(f"{name}.order_20placed", 1)) == 1
    assert len(taken(own, 1)) == 1


def test_changes_and_deletes_of_rows_are_ignored(
    settings: Settings, started: Any, postgres: OwnDatabase
) -> None:
    """Connect takes what is published, and nothing that happens to the rows afterwards."""
    topic = make_topic(shared_servers())
    use(settings, topic=topic)
    started()
    publisher.publish_event("order.placed", "/shop", 1, using="own")
    postgres.execute("UPDATE django_broadcaster_outboxevent SET last_error = 'changed'")
    postgres.execute("DELETE FROM django_broadcaster_outboxevent")
    publisher.publish_event("order.placed", "/shop", 2, using="own")
    values = [json.loads(record.value() or b"")["data"] for record in taken(topic, 2)]
    assert values == [1, 2]


def test_heartbeats_free_wal_that_other_tables_write(started: Any, postgres: OwnDatabase) -> None:
    """Without any event, too, the slot's position moves past what others have written."""
    started()
    postgres.execute("CREATE TABLE other AS SELECT generate_series(1, 100000) AS n")
    ((end,),) = postgres.execute("SELECT pg_current_wal_lsn()")
    confirmed = (
        f"SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots "
        f"WHERE slot_name = '{SLOT}'"
    )
    wait_until(lambda: postgres.execute(confirmed) == [(True,)], SECONDS, "the position moves")
    postgres.execute("DROP TABLE other")


def test_the_role_can_read_no_table(postgres: OwnDatabase) -> None:
    """It may connect and replicate; with that alone, all of the above works."""
    ((rights,),) = postgres.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND "
        f"relkind = 'r' AND has_table_privilege('{SLOT}', oid, 'SELECT, INSERT, UPDATE, DELETE')"
    )
    ((role,),) = postgres.execute(
        "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles "
        f"WHERE rolname = '{SLOT}'"
    )
    assert (rights, role) == (0, False)


def taken(topic: str, count: int) -> list[Record]:
    """Return the records of a topic once there are so many."""
    found: list[Record] = []

    def are_there() -> bool:
        found[:] = records(shared_servers(), topic)
        return len(found) >= count

    wait_until(are_there, SECONDS, f"{count} records")
    return found


def readable(record: Record) -> tuple[bytes | None, Any, dict[str, bytes]]:
    """Return a record's key, value and headers; JSON is parsed."""
    value: Any = record.value()
    headers = dict(headers_of(record))
    if b"json" in headers.get("content-type", b""):
        value = json.loads(value)
    return record.key(), value, headers


def structured(
    event: CloudEvent, expected: tuple[bytes | None, Any, dict[str, bytes]]
) -> tuple[bytes | None, Any, dict[str, bytes]]:
    """Return an event that binary mode can't carry as it is expected in the other mode."""
    message = Message.of(event, partition_key="7")
    header = {"content-type": b"application/cloudevents+json"}
    return expected[0], json.loads(message.to_json()), header
