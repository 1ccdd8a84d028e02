"""Records in Avro by a schema registry, as the consumer receives them, on real servers.

They are sent by KafkaBackend, by Confluent's own serializer, and as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from django_broadcaster.backends import KafkaBackend, Message
from django_broadcaster.backends.kafka.schemas import avro
from django_broadcaster.consumers import Delivery, KafkaConsumer, ReceivedMessage
from django_broadcaster.consumers.kafka import consumer as kafka_consumer
from django_broadcaster.consumers.rows import Writer, redeliver
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Rejected,
    TransientError,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.typed_events import (
    event_types,
    from_cloud_event,
    to_cloud_event,
    typed_event,
)
from tests.support.kafka_server import make_topic, produce, shared_servers
from tests.support.protobuf_classes import MODULE, generated
from tests.support.registry_proxy import registry_proxy
from tests.support.schema_registry import ORDER, shared_registry, through
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tools.schema_registry import Registry

pytestmark = pytest.mark.timeout(300)  # the first time, the registry is fetched

WAIT = 30.0
TYPE = "order.placed"

HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"/shop",
    "ce_type": TYPE.encode(),
    "content-type": b"application/avro",
}
"""Headers of an event by any producer."""

Make = Callable[..., KafkaConsumer]


@dataclass(frozen=True)
class OrderPlaced:
    """An event with types that JSON does not have."""

    order_id: int
    total: Decimal
    placed: datetime
    note: str | None = None


@pytest.fixture
def typed() -> Iterator[None]:
    """Declare the class for the time of a test: other tests have other classes of the type."""
    before = event_types.find_type(TYPE)
    if before is not None:
        event_types.remove(before.event_class)
    typed_event(TYPE, source="/shop/orders", key="order_id")(OrderPlaced)
    yield
    event_types.remove(OrderPlaced)
    if before is not None:
        event_types.add(before)


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The registry of the process."""
    return shared_registry()


@pytest.fixture
def client(registry: Registry) -> Iterator[SchemaRegistryClient]:
    """Confluent's own client of the registry."""
    with SchemaRegistryClient({"url": registry.url, "timeout": 10}) as client:
        yield client


@pytest.fixture(scope="module")
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of one partition."""
    return make_topic(servers)


@pytest.fixture
def make(servers: str, topic: str, registry: Registry) -> Iterator[Make]:
    """Make consumers of the topic, which are closed at the end."""
    with ExitStack() as made:

        def make(*, decode: Any = None, **options: Any) -> KafkaConsumer:
            consumer = KafkaConsumer(
                alias="shop",
                bootstrap_servers=servers,
                topics=topic,
                group=topic,
                timeout=5,
                schema_registry={"url": registry.url, **options},
                decode=decode,
            )
            made.callback(consumer.close)
            return consumer

        yield make


def send(servers: str, topic: str, schemas: dict[str, Any], *events: CloudEvent) -> None:
    """Send events by the backend."""
    options = {"url": shared_registry().url, "schemas": schemas, "subject": "record"}
    backend = KafkaBackend(
        alias="default", bootstrap_servers=servers, topic=topic, schema_registry=options
    )
    messages = [Message.of(each, partition_key="7") for each in events]
    assert backend.send_batch(messages) == [None] * len(events)
    backend.close()


def receive(consumer: KafkaConsumer, count: int) -> list[Delivery]:
    """Return what an open consumer receives."""
    found: list[Delivery] = []

    def is_complete() -> bool:
        found.extend(consumer.receive(count, 0.2))
        return len(found) >= count

    wait_until(is_complete, WAIT, f"{count} records are received")
    return found


def received(consumer: KafkaConsumer, count: int) -> list[Delivery]:
    """Open a consumer, and return what it receives."""
    consumer.open()
    return receive(consumer, count)


def data_of(delivery: Delivery) -> Any:
    """Return the data of a valid event."""
    assert delivery.event is not None, delivery.problem
    return delivery.event.data


@pytest.mark.usefixtures("typed")
def test_typed_event_comes_back_as_its_class(make: Make, servers: str, topic: str) -> None:
    """A Decimal and a datetime are equal on both sides, whatever the offset from UTC was."""
    placed = datetime(2026, 11, 30, 12, 0, 0, 123456, timezone(timedelta(hours=2)))
    event = OrderPlaced(7, Decimal("19.9"), placed)
    send(servers, topic, {TYPE: ORDER}, to_cloud_event(event))
    (delivery,) = received(make(), 1)
    assert delivery.event is not None
    assert from_cloud_event(OrderPlaced, delivery.event) == event
    assert delivery.event.data_content_type == "application/json"
    assert delivery.event.source == "/shop/orders"
    assert delivery.message.body[0] == 0  # as it was at the broker, for a dead letter


def kind(name: str, logical: str = "", /, **more: Any) -> dict[str, Any]:
    """Return a schema of Avro."""
    return {"type": name, **({"logicalType": logical} if logical else {}), **more}


def record(name: str, /, **fields: Any) -> dict[str, Any]:
    """Return the schema of a record."""
    return kind("record", name=name, fields=[{"name": n, "type": t} for n, t in fields.items()])


LOGICAL: dict[str, tuple[Any, Any, Any]] = {
    "decimal": (kind("bytes", "decimal", precision=30, scale=3), "1.5", "1.500"),
    "small decimal": (kind("bytes", "decimal", precision=12, scale=9), "1E-9", "0.000000001"),
    "fixed decimal": (
        kind("fixed", "decimal", name="Money", size=8, precision=12, scale=2),
        -3,
        "-3.00",
    ),
    "date": (kind("int", "date"), "2026-11-30", "2026-11-30"),
    "time-millis": (kind("int", "time-millis"), "12:00:00.123456", "12:00:00.123000"),
    "time-micros": (kind("long", "time-micros"), "12:00:00.123456", "12:00:00.123456"),
    "timestamp-millis": (
        kind("long", "timestamp-millis"),
        "2026-11-30T12:00:00.123456+02:00",
        "2026-11-30T10:00:00.123000+00:00",
    ),
    "timestamp-micros": (
        kind("long", "timestamp-micros"),
        "2026-11-30T12:00:00.123456Z",
        "2026-11-30T12:00:00.123456+00:00",
    ),
    "local-timestamp-millis": (
        kind("long", "local-timestamp-millis"),
        "2026-11-30T12:00:00.5",
        "2026-11-30T12:00:00.500000",
    ),
    "local-timestamp-micros": (
        kind("long", "local-timestamp-micros"),
        "2026-11-30T12:00:00",
        "2026-11-30T12:00:00",
    ),
    "uuid": (
        kind("string", "uuid"),
        "C9842238-0B28-4D1B-815E-E272640646EB",
        "c9842238-0b28-4d1b-815e-e272640646eb",
    ),
    "bytes": ("bytes", "AP8=", "AP8="),
    "fixed": (kind("fixed", name="Hash", size=2), "AP8=", "AP8="),
    "enum": (kind("enum", name="Size", symbols=["S", "M"]), "M", "M"),
    "null": ("null", None, None),
    "boolean": ("boolean", True, True),
    "int": ("int", -(2**31), -(2**31)),
    "long": ("long", 2**63 - 1, 2**63 - 1),
    "float": ("float", 0.5, 0.5),
    "double": ("double", 1, 1.0),
    "string": ("string", "süß", "süß"),
    "array": (kind("array", items="int"), [1, 2], [1, 2]),
    "map": (kind("map", values="long"), {"a": 1}, {"a": 1}),
    "union": (["null", "int", "string"], "x", "x"),
    "union of a date and a timestamp": (
        ["null", kind("int", "date"), kind("long", "timestamp-micros")],
        "2026-11-30T12:00:00+00:00",
        "2026-11-30T12:00:00+00:00",
    ),
    "array of such a union": (
        kind("array", items=[kind("long", "timestamp-millis"), kind("int", "date")]),
        ["2026-11-30", "2026-11-30T12:00:00+00:00"],
        ["2026-11-30", "2026-11-30T12:00:00+00:00"],
    ),
    "union of times": (
        [kind("int", "time-millis"), kind("long", "timestamp-millis")],
        "12:00:00",
        "12:00:00",
    ),
    "union of decimals": (
        [
            kind("fixed", "decimal", name="Few", size=4, precision=5, scale=1),
            kind("bytes", "decimal", precision=9, scale=2),
        ],
        "1.25",
        "1.25",
    ),
    "union of a fixed and bytes": ([kind("fixed", name="Two", size=2), "bytes"], "AP8A", "AP8A"),
    "union of an enum and a string": (
        ["string", kind("enum", name="Colour", symbols=["RED"])],
        "RED",
        "RED",
    ),
    "union of a double and a long": (["double", "long"], 2**53 + 1, 2**53 + 1),
    "union of a float and an int": (["float", "int"], 2**24 + 1, 2**24 + 1),
    "union of records": (
        [record("Card", id="string"), record("Cash", id="string", sum=["null", "int"])],
        {"id": "x", "sum": 2},
        {"id": "x", "sum": 2},
    ),
    "default": (
        kind("record", name="Part", fields=[{"name": "n", "type": "int", "default": 5}]),
        {},
        {"n": 5},
    ),
    "defaults": (
        kind(
            "record",
            name="Defaults",
            fields=[
                {"name": name, "type": each, "default": default}
                for name, each, default in (
                    ("raw", "bytes", "\xff"),
                    ("price", kind("bytes", "decimal", precision=4, scale=2), "\x01"),
                    ("hash", kind("fixed", name="Pair", size=2), "ab"),
                    ("either", ["bytes", "string", "null"], "a"),
                    ("none", ["null", "int", "string"], None),
                    ("many", kind("array", items="bytes"), ["a"]),
                    ("by_name", kind("map", values="Pair"), {"x": "cd"}),
                    (
                        "part",
                        kind(
                            "record",
                            name="Inner",
                            fields=[
                                {"name": "raw", "type": "bytes"},
                                {"name": "n", "type": "int", "default": 4},
                            ],
                        ),
                        {"raw": "a"},
                    ),
                    ("placed", kind("long", "timestamp-micros"), 0),
                    ("size", kind("enum", name="Width", symbols=["S"]), "S"),
                )
            ],
        ),
        {},
        {
            "raw": "/w==",
            "price": "0.01",
            "hash": "YWI=",
            "either": "YQ==",
            "none": None,
            "many": ["YQ=="],
            "by_name": {"x": "Y2Q="},
            "part": {"raw": "YQ==", "n": 4},
            "placed": "1970-01-01T00:00:00+00:00",
            "size": "S",
        },
    ),
    "uuid in a fixed": (
        kind("fixed", "uuid", name="Uuid", size=16),
        "yYQiOAsoTRuBXuJyZAZG6w==",
        "yYQiOAsoTRuBXuJyZAZG6w==",
    ),
    "recursion": (
        record("Node", next=["null", "Node"]),
        {"next": {"next": None}},
        {"next": {"next": None}},
    ),
    "unknown logical type": (kind("string", "iban"), "x", "x"),
}
"""For each type of Avro its schema, a value of JSON, and the value that is received."""


@pytest.mark.parametrize("is_recursive", [False, True])
def test_every_type_of_avro_is_received_as_json(
    is_recursive: bool, make: Make, servers: str, topic: str
) -> None:
    """Types that JSON does not have are text, in the form that typed events read.

    Types that contain themselves have another reader than all the rest.
    """
    kinds = {
        name.replace(" ", "_").replace("-", "_"): each
        for name, each in LOGICAL.items()
        if is_recursive or name != "recursion"
    }
    schema = {
        "type": "record",
        "name": f"All_{topic.replace('-', '_')}",
        "fields": [{"name": name, "type": kind} for name, (kind, _, _) in kinds.items()],
    }
    data = {name: value for name, (_, value, _) in kinds.items()}
    send(servers, topic, {"a": schema}, CloudEvent("a", "/shop", data))
    (delivery,) = received(make(), 1)
    assert data_of(delivery) == {name: each for name, (_, _, each) in kinds.items()}


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        (LOGICAL["date"][0], 20422, "data: must be a date (ISO 8601), not an integer"),
        (LOGICAL["time-millis"][0], "12:00+02:00", "data: must have no offset from UTC"),
        (LOGICAL["local-timestamp-millis"][0], "2026-11-30T12:00Z", "data: must have no offset"),
        (LOGICAL["uuid"][0], "x", "data: must be a UUID"),
        (["null", "bytes"], "ä", "data: must be text in base64"),
        (LOGICAL["fixed"][0], "AP8A", "data: must be 2 bytes in base64"),
        (LOGICAL["enum"][0], "L", "data: must be one of 'S', 'M'"),
        (
            ["null", LOGICAL["decimal"][0]],
            "1E+30",
            "data: must have at most 27 digits before the point",
        ),
        (["null", LOGICAL["decimal"][0]], "1E-9999", "data: must have at most 3 decimal places"),
        ("int", 2**31, "data: must be an integer of 32 bits"),
        ("int", True, "data: must be an integer, not a boolean"),
        ("float", 1e39, "data: must be a number of 32 bits"),
        ("float", 2**24 + 1, "data: must be an integer that a number of 32 bits has exactly"),
        ("double", 2**53 + 1, "data: must be an integer that a number of 64 bits has exactly"),
        (LOGICAL["array"][0], [1, "x"], "data[1]: must be an integer, not text"),
        (LOGICAL["map"][0], {"a": "x"}, "data.a: must be an integer, not text"),
        (["int", "string"], [], "data: must be one of int, string"),
        (["null", "string"], 5, "data: must be text, not an integer"),
        (LOGICAL["recursion"][0], {"next": {}}, "data.next.next: is missing"),
    ],
)
def test_error_of_a_type_names_the_field_and_the_rule(
    schema: Any, value: Any, problem: str, servers: str, topic: str
) -> None:
    """What a type does not take is rejected before it is sent."""
    options = {"url": shared_registry().url, "schemas": {"a": json.dumps(schema)}}
    backend = KafkaBackend(
        alias="default", bootstrap_servers=servers, topic=topic, schema_registry=options
    )
    (failure,) = backend.send_batch([Message.of(CloudEvent("a", "/shop", value))])
    backend.close()
    assert str(failure).startswith(problem)


def test_records_of_confluents_serializer_are_received(
    make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """With headers of CloudEvents they are events; without, `decode` gets their JSON."""
    serialize = AvroSerializer(
        client, json.dumps(ORDER), conf={"subject.name.strategy": lambda *_: f"{topic}-value"}
    )
    order = {"order_id": 7, "total": Decimal("19.90"), "placed": datetime(2026, 11, 30, tzinfo=UTC)}
    value = serialize(order, SerializationContext(topic, MessageField.VALUE))
    produce(servers, topic, [(b"7", value, HEADERS), (b"7", value, {})])
    expected = {**order, "total": "19.90", "placed": "2026-11-30T00:00:00+00:00", "note": None}

    def decode(message: ReceivedMessage) -> CloudEvent:
        assert message.content_type == "application/json"
        return CloudEvent(TYPE, "/legacy", json.loads(message.body), id=message.position)

    plain = make()
    first, second = received(plain, 2)
    plain.close()
    assert data_of(first) == expected
    assert "no header for 'specversion'" in second.problem
    consumer = make(decode=decode)
    assert [data_of(each) for each in received(consumer, 2)] == [expected] * 2


def test_schema_with_references_is_read(
    make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """A schema may refer to other ones in the registry."""
    size = {"type": "enum", "name": "Size", "namespace": "shop", "symbols": ["S", "M"]}
    client.register_schema(f"{topic}-size", Schema(json.dumps(size), "AVRO"))
    version = client.get_latest_version(f"{topic}-size").version
    shirt = {"type": "record", "name": "Shirt", "fields": [{"name": "size", "type": "shop.Size"}]}
    references = [SchemaReference("shop.Size", f"{topic}-size", version)]
    schema = Schema(json.dumps(shirt), "AVRO", references)
    serialize = AvroSerializer(
        client, schema, conf={"subject.name.strategy": lambda *_: f"{topic}-value"}
    )
    value = serialize({"size": "M"}, SerializationContext(topic, MessageField.VALUE))
    produce(servers, topic, [(b"7", value, HEADERS)])
    (delivery,) = received(make(), 1)
    assert data_of(delivery) == {"size": "M"}


def test_json_in_the_topic_is_read_as_before(make: Make, servers: str, topic: str) -> None:
    """A topic can be moved to Avro while it has JSON in both content modes, and tombstones."""
    whole = CloudEvent(TYPE, "/shop", {"n": 1}).to_json()
    records = [
        (b"7", whole, {"content-type": b"application/cloudevents+json"}),
        (b"7", b'{"n":2}', {**HEADERS, "content-type": b"application/json"}),
        (b"7", None, HEADERS),
    ]
    produce(servers, topic, records)
    one, two, three = received(make(), 3)
    assert (data_of(one), data_of(two)) == ({"n": 1}, {"n": 2})
    assert three.event is not None
    assert not three.event.has_data


BINARY = {name: text for name, text in HEADERS.items() if name != "content-type"}


@pytest.mark.parametrize(
    ("value", "headers", "data"),
    [
        (b"hello", {"content-type": b"text/plain"}, "hello"),
        (b"hello", {"content-type": b"Text/Plain; charset=utf-8"}, "hello"),
        (b'{"n":2}', {"Content-Type": b"application/json"}, {"n": 2}),
        (b'{"n":2}', {"ce_datacontenttype": b"application/json"}, {"n": 2}),
        (b"hello", {}, b"hello"),
        (b"", {}, None),
    ],
    ids=["text", "charset", "capitals", "attribute", "none", "empty"],
)
def test_other_values_in_the_topic_are_read_as_before(
    value: bytes, headers: dict[str, bytes], data: Any, make: Make, servers: str, topic: str
) -> None:
    """The option makes no dead letters of events that had been received without it."""
    produce(servers, topic, [(b"7", value, {**BINARY, **headers})])
    (delivery,) = received(make(), 1)
    assert data_of(delivery) == data


def test_legacy_json_without_a_content_type_is_left_to_decode(
    make: Make, servers: str, topic: str
) -> None:
    """The function gets its bytes, those of tombstones and those of text, as before."""
    produce(servers, topic, [(b"7", each, {}) for each in (b'{"n":1}', None, b"", b"hello")])

    def decode(message: ReceivedMessage) -> CloudEvent:
        data = [message.body.decode(), message.has_body]
        return CloudEvent(TYPE, "/legacy", data, id=message.position)

    found = [data_of(each) for each in received(make(decode=decode), 4)]
    assert found == [['{"n":1}', True], ["", False], ["", True], ["hello", True]]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": b"application/avro"},
        {"CONTENT-TYPE": b"avro/binary", "CE_DataContentType": b"application/avro"},
        {"content-type": b"application/avro", "ce_datacontenttype": b"application/avro"},
    ],
    ids=["none", "capitals", "all capitals", "attribute"],
)
def test_headers_may_have_capitals(
    headers: dict[str, bytes], client: SchemaRegistryClient, make: Make, servers: str, topic: str
) -> None:
    """The event has one content type, that of the decoded value."""
    number = client.register_schema(f"{topic}-value", Schema('"long"', "AVRO"))
    value = b"\0" + number.to_bytes(4) + b"\x02"
    produce(servers, topic, [(b"7", value, {**BINARY, **headers})])
    (delivery,) = received(make(), 1)
    assert data_of(delivery) == 1
    assert delivery.event is not None
    assert delivery.event.data_content_type == "application/json"


UNKNOWN = b"\0\x7f\0\0\0\x02"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"hello", "not in the wire format of a schema registry, which begins with 00"),
        (b"", "the value begins with empty"),
        (b"\0\0", "the value begins with 00 00"),
        (UNKNOWN, "the schema 2130706432 can't be used: the schema registry at"),
        (b"\0\xff\xff\xff\xff\x02", "can't be used: the id must be from 1 to 2147483647"),
    ],
)
def test_unreadable_values_are_malformed(
    value: bytes, problem: str, make: Make, servers: str, topic: str
) -> None:
    """Each has a problem that says why; the record after it is received."""
    whole = CloudEvent(TYPE, "/shop", {"n": 1}).to_json()
    later = (b"7", whole, {"content-type": b"application/cloudevents+json"})
    produce(servers, topic, [(b"7", value, HEADERS), later])
    bad, good = received(make(), 2)
    assert bad.event is None
    assert problem in bad.problem
    assert bad.message.body == value
    assert data_of(good) == {"n": 1}


def test_unknown_schema_is_asked_for_once(
    make: Make, registry: Registry, servers: str, topic: str
) -> None:
    """Records of another registry can't keep the receiver busy; after `open` it asks again."""
    produce(servers, topic, [(b"7", UNKNOWN, HEADERS)] * 50)
    with registry_proxy(registry) as proxy:
        consumer = make(url=proxy.url)
        found = received(consumer, 50)
        assert all("the schema 2130706432 can't be used" in each.problem for each in found)
        assert len(proxy.asked) == 1
        received(consumer, 1)
        assert len(proxy.asked) == 2


def decoded(registry: Registry, schema: Any, data: bytes) -> Delivery:
    """Return the delivery of data of a schema, decoded without a broker."""
    with SchemaRegistryClient({"url": registry.url, "timeout": 10}) as client:
        number = client.register_schema(uuid4().hex, Schema(json.dumps(schema), "AVRO"))
    consumer = KafkaConsumer(
        alias="shop", topics="a", group="b", schema_registry={"url": registry.url}
    )
    headers = {name: text.decode() for name, text in HEADERS.items()}
    return consumer.delivery(
        ReceivedMessage(
            body=b"\0" + number.to_bytes(4) + data,
            headers=headers,
            content_type=headers["content-type"],
        )
    )


NODE = LOGICAL["recursion"][0]
PAIR = record("Pair", left=["null", record("Left", right="Pair")])
FOREST = kind("array", items=kind("map", values=NODE))


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (NODE, b"\x02" * 5000 + b"\0"),
        (NODE, b"\x02" * 5_000_000 + b"\0"),
        (PAIR, b"\x02" * 5000 + b"\0"),
        (FOREST, b"\x02\x02\0" + b"\x02" * 5000 + b"\0\0\0"),
    ],
    ids=["node", "long", "indirect", "inside"],
)
def test_data_that_are_nested_deeply_are_malformed(
    schema: Any, data: bytes, registry: Registry
) -> None:
    """A record can't end the process, whatever it holds."""
    assert "RecursionError" in decoded(registry, schema, data).problem


def test_recursive_data_are_received(registry: Registry) -> None:
    """As deep as messages usually are, and by way of another type."""
    nested: Any = {"next": None}
    for _ in range(50):
        nested = {"next": nested}
    assert data_of(decoded(registry, NODE, b"\x02" * 50 + b"\0")) == nested
    found = data_of(decoded(registry, PAIR, b"\x02\0"))
    assert found == {"left": {"right": {"left": None}}}


EMPTY = record("Empty", nothing="null", none=record("None_"))


@pytest.mark.parametrize(
    "schema",
    [
        kind("array", items="null"),
        kind("array", items=EMPTY),
        record("Outer", first=EMPTY, many=["null", kind("array", items="Empty")]),
        kind("map", values=kind("array", items=record("Nothing"))),
    ],
    ids=["null", "record", "name", "map"],
)
def test_few_bytes_can_not_become_millions_of_items(schema: Any, registry: Registry) -> None:
    """Arrays of values that take no bytes are refused, whatever their length."""
    problem = decoded(registry, schema, b"\0" * 9).problem
    assert "can't be used: an array has values of " in problem
    assert "which take no bytes" in problem


def test_values_that_take_no_bytes_are_read_outside_of_arrays(registry: Registry) -> None:
    """Names, maps and unions of them have a bound: that of the record."""
    schema = record("Some", one=EMPTY, by_name=kind("map", values="null"), many=["null", "Empty"])
    empty: dict[str, Any] = {"nothing": None, "none": {}}
    found = data_of(decoded(registry, schema, b"\x02\x02a\0\x02"))
    assert found == {"one": empty, "by_name": {"a": None}, "many": empty}


@pytest.mark.parametrize("schema", ["long", NODE], ids=["long", "node"])
def test_bytes_after_the_value_are_malformed(schema: Any, registry: Registry) -> None:
    """They show that the data are not of that schema."""
    assert "2 bytes follow the value" in decoded(registry, schema, b"\0\0\0").problem


def test_registry_is_asked_once_for_the_schema_of_each_failure(registry: Registry) -> None:
    """The record may be gone meanwhile: the group is joined although the login lacks permission."""
    with registry_proxy(registry) as proxy:
        proxy.forbidden = "2130706432"
        consumer = KafkaConsumer(
            alias="shop", topics="a", group="b", schema_registry={"url": proxy.url}
        )
        values = consumer._values
        assert values is not None
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match="answered 403"):
                values.as_json(UNKNOWN, TYPE)
            with pytest.raises(BackendUnavailable, match="answered 403"):
                values.open()
            values.open()
        assert len(proxy.asked) == 4


def test_unknown_schemas_are_remembered_within_bounds(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr(avro, "_MOST_PROBLEMS", 2)
    with registry_proxy(registry) as proxy:
        consumer = KafkaConsumer(
            alias="shop", topics="a", group="b", schema_registry={"url": proxy.url}
        )
        for number in (1, 2, 3, 3, 2, 1):
            value = b"\0\x7f\0\0" + bytes([number])
            message = ReceivedMessage(body=value, content_type="application/avro")
            assert "can't be used" in consumer.delivery(message).problem
        assert len(proxy.asked) == 4


def test_records_that_take_long_to_decode_are_received_in_several_calls(
    make: Make, servers: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka hears of the receiver in between; none is lost, and the order stays."""
    monkeypatch.setattr(kafka_consumer, "DECODE_SECONDS", 0.0)
    data = {"order_id": 7, "total": "1.00", "placed": "2026-11-30T12:00:00+00:00", "note": None}
    send(servers, topic, {TYPE: ORDER}, *(CloudEvent(TYPE, "/shop", data, id=n) for n in "12345"))
    consumer = make()
    consumer.open()
    found: list[Delivery] = []

    def is_complete() -> bool:
        deliveries = consumer.receive(5, 0.2)
        assert len(deliveries) <= 1
        consumer.acknowledge(deliveries)
        found.extend(deliveries)
        return len(found) == 5

    wait_until(is_complete, WAIT, "all records are received")
    assert [each.event and each.event.id for each in found] == list("12345")
    assert consumer.lag() == 0


def test_every_whole_schema_can_be_read(
    make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """Also of values without a byte after the id, and bytes as Confluent's clients write them."""
    schemas = {"nothing": record("Nothing"), "text": '{"type": "string"}'}
    data: dict[str, Any] = {"nothing": {}, "text": "a"}
    send(servers, topic, schemas, *(CloudEvent(name, "/shop", data[name]) for name in schemas))
    null = b"\0" + client.register_schema(f"{topic}-null", Schema('"null"', "AVRO")).to_bytes(4)
    serialize = AvroSerializer(
        client, '"bytes"', conf={"subject.name.strategy": lambda *_: f"{topic}-bytes"}
    )
    raw = serialize(b"\x00\xff", SerializationContext(topic, MessageField.VALUE))
    produce(servers, topic, [(b"7", null, HEADERS), (b"7", raw, HEADERS)])
    found = received(make(), 4)
    assert [data_of(each) for each in found] == [{}, "a", None, "AP8="]
    assert [len(each.message.body) for each in found] == [5, 7, 5, 7]


def test_values_that_json_does_not_have_are_malformed(
    make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """A truncated value is malformed, too; the good one between them is received."""
    kind = {"type": "record", "name": "Sample", "fields": [{"name": "x", "type": "double"}]}
    serialize = AvroSerializer(
        client, json.dumps(kind), conf={"subject.name.strategy": lambda *_: f"{topic}-value"}
    )
    context = SerializationContext(topic, MessageField.VALUE)
    values = [serialize({"x": each}, context) for each in (float("nan"), 0.5)]
    produce(servers, topic, [(b"7", each, HEADERS) for each in (*values, values[1][:-2])])
    first, second, third = received(make(), 3)
    assert "has nan at data['x']" in first.problem
    assert data_of(second) == {"x": 0.5}
    assert "can't be decoded by the schema" in third.problem


def test_receiver_waits_for_an_unavailable_registry(
    make: Make, registry: Registry, servers: str, topic: str
) -> None:
    """Records are neither lost nor malformed; after the outage they are received in order."""
    data = {"order_id": 7, "total": "1.00", "placed": "2026-11-30T12:00:00+00:00", "note": None}
    send(servers, topic, {TYPE: ORDER}, *(CloudEvent(TYPE, "/shop", data, id=n) for n in "123"))
    with TcpProxy("127.0.0.1", registry.port) as proxy:
        consumer = make(url=through(proxy))
        with proxy.away():
            consumer.open()
            with pytest.raises(BackendUnavailable, match="the schema registry at"):
                receive(consumer, 1)
            with pytest.raises(BackendUnavailable, match="the schema registry at"):
                consumer.open()  # does not join the group in vain
        found = received(consumer, 3)
        assert [each.event and each.event.id for each in found] == ["1", "2", "3"]
        with proxy.away():  # the schema is known by now
            send(servers, topic, {TYPE: ORDER}, CloudEvent(TYPE, "/shop", data, id="4"))
            (last,) = receive(consumer, 1)
    assert data_of(last) == data


def configure_replay(settings: Any, url: str) -> None:
    """Configure the consumer "shop" with a registry, and a backend that runs handlers."""
    options = {"topics": "a", "group": "b", "schema_registry": {"url": url}}
    path = "django_broadcaster.consumers.KafkaConsumer"
    settings.OUTBOX_CONSUMERS = {"shop": {"CONSUMER": path, "OPTIONS": options}}
    local = "django_broadcaster.backends.LocalBackend"
    settings.OUTBOX_PUBLISHERS = {"handlers": {"BACKEND": local}}


def dead_letter(database: str, body: bytes | None, event_id: str = "1") -> Message:
    """Return the dead letter of a record, as it is stored, for a replay."""
    headers = {**{name: text.decode() for name, text in HEADERS.items()}, "ce_id": event_id}
    message = ReceivedMessage(
        body=body or b"",
        headers=headers,
        content_type=headers["content-type"],
        origin="a",
        position=f"0/{event_id}",
        has_body=body is not None,
    )
    writer = Writer(database, "shop", "handlers")
    (entry,) = writer.entries([Delivery(message, problem="it was malformed")])
    event = CloudEvent("malformed", "/shop", message.body)
    return Message.of(event, config=json.loads(entry.row.publisher_config))


def test_replay_waits_for_an_unavailable_registry(database: str, settings: Any) -> None:
    """The dead letter is retried without spending a retry, and holds up nothing else."""
    configure_replay(settings, "http://127.0.0.1:1")
    message = dead_letter(database, UNKNOWN)
    with pytest.raises(TransientError) as caught:
        redeliver(message, database)
    assert not caught.value.spends_retry


def test_replay_asks_once_for_a_schema(
    database: str, settings: Any, client: SchemaRegistryClient, registry: Registry
) -> None:
    """Thousands of dead letters are replayed without a call of the registry for each."""
    number = client.register_schema(uuid4().hex, Schema('"long"', "AVRO"))
    with registry_proxy(registry) as proxy:
        configure_replay(settings, proxy.url)
        for event_id in "123":
            value = b"\0" + number.to_bytes(4) + b"\x02"
            redeliver(dead_letter(database, value, event_id), database)
        assert len(proxy.asked) == 1
        configure_replay(settings, "http://127.0.0.1:1")  # a new setting counts at once
        with pytest.raises(TransientError):
            redeliver(dead_letter(database, value, "4"), database)
    assert OutboxEvent.objects.using(database).filter(event_type=TYPE).count() == 3


def test_replayed_tombstone_is_an_event_without_data(database: str, settings: Any) -> None:
    """The dead letter says that the record had no value, not even an empty one."""
    configure_replay(settings, "http://127.0.0.1:1")
    redeliver(dead_letter(database, None), database)
    event = OutboxEvent.objects.using(database).get().cloud_event
    assert not event.has_data
    with pytest.raises(Rejected, match="not in the wire format"):
        redeliver(dead_letter(database, b""), database)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"subject": "topic"}, ": has the unknown key"),
        ({"timeout": 61}, ": 'timeout' must be a number of seconds from 0.1 to 60"),
        ({"timeout": 0.01}, ": 'timeout' must be a number of seconds from 0.1 to 60"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], problem: str) -> None:
    """Each error names the setting and the key."""
    with pytest.raises(BackendConfigurationError) as caught:
        KafkaConsumer(alias="shop", topics="a", group="b", schema_registry=options)
    beginning = f"OUTBOX_CONSUMERS['shop']['OPTIONS']['schema_registry']{problem}"
    assert str(caught.value).startswith(beginning)


# --- Protobuf ------------------------------------------------------------------------------------


@pytest.fixture
def orders() -> Any:
    """The module of the generated classes."""
    return generated()


def send_protobuf(servers: str, topic: str, message: type[Any], *events: CloudEvent) -> None:
    """Send events of one class by the backend."""
    options = {
        "url": shared_registry().url,
        "format": "protobuf",
        "schemas": {each.type: message for each in events},
    }
    backend = KafkaBackend(
        alias="default", bootstrap_servers=servers, topic=topic, schema_registry=options
    )
    assert backend.send_batch([Message.of(each) for each in events]) == [None] * len(events)
    backend.close()


@pytest.mark.usefixtures("typed")
def test_typed_event_comes_back_from_protobuf(
    orders: Any, make: Make, servers: str, topic: str
) -> None:
    """A Decimal is a string in the message, and a datetime a Timestamp; the registry is not asked.

    A field without a value has its default.
    """
    placed = datetime(2026, 11, 30, 12, 0, 0, 123456, timezone(timedelta(hours=2)))
    events = [OrderPlaced(7, Decimal("19.90"), placed, "x"), OrderPlaced(0, Decimal(0), placed)]
    send_protobuf(servers, topic, orders.OrderPlaced, *map(to_cloud_event, events))
    path = f"{MODULE}.OrderPlaced"
    consumer = make(format="protobuf", schemas={TYPE: path}, url="http://127.0.0.1:1")
    found = received(consumer, 2)
    assert [from_cloud_event(OrderPlaced, each.event) for each in found if each.event] == events


def test_every_type_of_protobuf_is_received_as_json(
    orders: Any, make: Make, servers: str, topic: str
) -> None:
    """Integers of 64 bits are numbers, bytes are base64, and missing values are the defaults."""
    data = {
        "lines": [{"sku": "a", "amount": 2**60}],
        "counts": {"a": 1},
        "raw": "AP8=",
        "size": "LARGE",
        "big": -(2**62),
        "price": {"amount": "1.50", "currency": "EUR"},
        "small": 3,
        "numbers": [2**63],
        "paid": True,
        "weight": 0.5,
    }
    least = {
        "lines": [],
        "counts": {},
        "raw": "",
        "size": "SMALL",
        "small": 0,
        "numbers": [],
        "paid": False,
        "weight": 0.0,
    }
    send_protobuf(
        servers, topic, orders.Order, CloudEvent("a", "/shop", data), CloudEvent("a", "/shop", {})
    )
    full, empty = received(make(format="protobuf", schemas={"a": orders.Order}), 2)
    assert data_of(full) == data
    assert data_of(empty) == least


def test_null_is_received_where_protobuf_has_it(
    orders: Any, make: Make, servers: str, topic: str
) -> None:
    """Null is a value of JSON in messages, and the lack of one for optional fields."""
    data = {
        "note": None,
        "part": None,
        "wrapped": None,
        "name": None,
        "left": None,
        "any": None,
        "anys": [None, {"x": None}],
        "nothing": None,
    }
    send_protobuf(servers, topic, orders.Values, CloudEvent("a", "/shop", data))
    (found,) = received(make(format="protobuf", schemas={"a": orders.Values}), 1)
    assert data_of(found) == {
        "a_long": 0,
        "text": "",
        "raw": "",
        "parts": [],
        "by_name": {},
        "any": None,
        "anys": [None, {"x": None}],
        "nothing": None,
    }


def test_records_without_a_type_are_read_by_the_only_class(
    orders: Any, make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """`decode` gets their JSON; if there are several classes, the problem says so."""
    config = {"subject.name.strategy": lambda context, name: f"{topic}-{name}"}
    context = SerializationContext(topic, MessageField.VALUE)
    placed = orders.OrderPlaced(order_id=7, total="1.00")
    value = ProtobufSerializer(orders.OrderPlaced, client, config)(placed, context)
    assert value is not None
    produce(servers, topic, [(b"7", value, {})])

    def decode(message: ReceivedMessage) -> CloudEvent:
        return CloudEvent(TYPE, "/legacy", json.loads(message.body), id=message.position)

    one = make(format="protobuf", schemas={TYPE: orders.OrderPlaced}, decode=decode)
    (found,) = received(one, 1)
    assert data_of(found) == {"order_id": 7, "total": "1.00"}
    one.close()
    schemas = {TYPE: orders.OrderPlaced, "line": orders.Order.Line}
    (lost,) = received(make(format="protobuf", schemas=schemas, decode=decode), 1)
    assert "the record has no header 'ce_type', so its class is only known if" in lost.problem


def test_records_of_confluents_protobuf_serializer_are_received(
    orders: Any, make: Make, client: SchemaRegistryClient, servers: str, topic: str
) -> None:
    """Another message of the file, bytes that are no message, and an unknown type are malformed."""
    config = {"subject.name.strategy": lambda context, name: f"{topic}-{name}"}
    context = SerializationContext(topic, MessageField.VALUE)
    placed = orders.OrderPlaced(order_id=7, total="1.00")
    value = ProtobufSerializer(orders.OrderPlaced, client, config)(placed, context)
    line = orders.Order.Line(sku="a")
    other = ProtobufSerializer(orders.Order.Line, client, config)(line, context)
    assert value is not None
    unknown = {**HEADERS, "ce_type": b"order.unknown"}
    capitals = {name.title(): text for name, text in HEADERS.items()}
    records = [(value, capitals), (other, HEADERS), (value[:-2], HEADERS), (value, unknown)]
    produce(servers, topic, [(b"7", each, headers) for each, headers in records])
    good, wrong, cut, lost = received(
        make(format="protobuf", schemas={TYPE: orders.OrderPlaced}), 4
    )
    assert data_of(good) == {"order_id": 7, "total": "1.00"}
    assert "its indexes are [1, 0], not [0]; if the file has changed" in wrong.problem
    assert "can't be decoded as shop.OrderPlaced" in cut.problem
    assert "'order.unknown' has no class; add it to 'schemas'" in lost.problem
