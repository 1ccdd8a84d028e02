"""The AsyncAPI document has all publishers, consumers and handlers, and no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse

from django_broadcaster.backends.base import Message, MessageBackend, Shown
from django_broadcaster.backends.handler import backends
from django_broadcaster.redaction import endpoint_name
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import make_message
from django_broadcaster.typed_events import event_types, to_cloud_event
from tests.support.javascript import run_javascript

from .conftest import EventsModule, catalogue

if TYPE_CHECKING:
    from pytest_django import Settings

ORDERS = '''
@dataclass
class Line:
    product: str
    price: Decimal

@typed_event("order.placed", source="/shop", key="order_id", subject="order_id")
@dataclass
class OrderPlaced:
    """An order was placed.

    By a customer.
    """
    order_id: int
    at: datetime
    pair: tuple[int, str]
    lines: list[Line]
    discriminator: str = ""

@typed_event("order.paid", source="/shop")
class OrderPaid(BaseModel):
    order_id: int

@typed_event("item.shipped", source="/warehouse")
class ItemShipped(TypedDict):
    item_id: int

@typed_event("Ende gut/Alles gut", source="/shop")
class Odd(Struct):
    node: Odd | None = None
'''

OPAQUE = """
class Opaque:
    pass

@typed_event("order.placed", source="/shop")
class OrderPlaced(BaseModel):
    model_config = dict(arbitrary_types_allowed=True)
    value: Opaque
"""

SECRET = "k7-wonderland"
OF_BACKENDS = "django_broadcaster.backends."
OF_CONSUMERS = "django_broadcaster.consumers."

BACKENDS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "kafka": (
        "KafkaBackend",
        {"topic": "shop.{key}", "username": "u", "password": SECRET},
        "shop.{key}",
    ),
    "kafka-binary": ("KafkaBackend", {"content_mode": "binary"}, "events"),
    "redis": (
        "RedisStreamBackend",
        {"url": f"redis://u:{SECRET}@redis", "content_mode": "binary"},
        "events",
    ),
    "rabbitmq": (
        "RabbitMQBackend",
        {"url": f"amqp://u:{SECRET}@rabbit", "content_mode": "binary"},
        "order.placed",
    ),
    "nats": ("NATSBackend", {"token": SECRET, "content_mode": "binary"}, "events.order.placed"),
    "mqtt": ("MQTTBackend", {"username": "u", "password": SECRET}, "events/order.placed"),
    "sqs": (
        "SQSBackend",
        {
            "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo",
            "username": "u",
            "password": SECRET,
        },
        "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo",
    ),
    "sns": (
        "SNSBackend",
        {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:orders"},
        "arn:aws:sns:eu-west-1:123456789012:orders",
    ),
    "celery": ("CeleryBackend", {"app": "tests.support.celery_app.app"}, "order.placed"),
    "webhook": (
        "WebhookBackend",
        {"url": f"https://hooks.example/{SECRET}", "headers": {"X-Api-Key": SECRET}},
        None,
    ),
    "webhooks": ("WebhookBackend", {"event_urls": True}, None),
    "debezium": ("DebeziumBackend", {}, "events"),
    "dummy": ("DummyBackend", {}, None),
}
"""Each backend: its class, its options, and the address of `order.placed`."""

CONSUMERS: dict[str, tuple[str, dict[str, Any], list[str | None]]] = {
    "kafka": (
        "KafkaConsumer",
        {"topics": ["a", "^b.*"], "group": "g", "password": SECRET, "username": "u"},
        ["a", "^b.*"],
    ),
    "redis": ("RedisStreamConsumer", {"group": "g", "password": SECRET}, ["events"]),
    "rabbitmq": ("RabbitMQConsumer", {"queue": "q", "url": f"amqp://u:{SECRET}@rabbit"}, ["q"]),
    "nats": ("NATSConsumer", {"stream": "S", "durable": "d", "token": SECRET}, ["S"]),
    "nats-subjects": (
        "NATSConsumer",
        {"stream": "S", "durable": "d", "filter_subjects": ["a.>", "b"]},
        ["a.>", "b"],
    ),
    "nats-subject": (
        "NATSConsumer",
        {"stream": "S", "durable": "d", "filter_subjects": "a"},
        ["a"],
    ),
    "mqtt": ("MQTTConsumer", {"topic": "shop/#", "group": "g"}, ["shop/#"]),
    "sqs": (
        "SQSConsumer",
        {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo"},
        ["https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo"],
    ),
}
"""Each consumer: its class, its options, and the addresses of its channels."""


def everything(settings: Settings) -> None:
    """Configure all backends, all consumers, and a backend for handlers."""
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": OF_BACKENDS + name, "OPTIONS": options}
        for alias, (name, options, _) in BACKENDS.items()
    } | {"local": {"BACKEND": f"{OF_CONSUMERS}LocalBackend"}}
    settings.OUTBOX_ROUTES = {"order.placed": [*BACKENDS, "local"], "*": "dummy"}
    settings.OUTBOX_CONSUMERS = {
        alias: {"CONSUMER": OF_CONSUMERS + name, "OPTIONS": options}
        for alias, (name, options, _) in CONSUMERS.items()
    }


def register_handlers() -> None:
    """Register a handler of this project's events, and handlers of each consumer's."""
    event_registry.register("order.placed", name="confirm")(print)
    for alias in CONSUMERS:
        name = f"book-{alias}"
        register = event_registry.register("item.*", name=name, consumer=alias)
        register(lambda event: None)
    event_registry.register("stock.low", name="reorder", consumer="kafka")(repr)


def document(*arguments: str) -> Any:
    """Return the AsyncAPI document that the command prints."""
    status, printed = catalogue(*arguments)
    assert status == 0
    return json.loads(printed)


@pytest.fixture
def whole(events: EventsModule, settings: Settings) -> Any:
    """The document of a project with everything."""
    everything(settings)
    register_handlers()
    events.declare(ORDERS)
    return document("--title", "Shop")


def test_the_parser_of_asyncapi_accepts_the_document(whole: Any) -> None:
    """The official parser finds no error, and in each operation the messages that it has here."""
    found = json.loads(run_javascript("parseAsyncAPI", json.dumps(whole)))
    assert [each for each in found["problems"] if each["severity"] < 2] == []
    operations = {each["id"]: each for each in found["operations"]}
    assert operations.keys() == whole["operations"].keys()
    by_address = {
        (each["action"], each["id"].split(".")[2], address): each["messages"]
        for each in found["operations"]
        for address in each["addresses"]
    }
    for alias, (_, _, address) in BACKENDS.items():
        if address is not None:
            assert by_address["send", alias, address] == ["order.placed"]
    for alias, (_, _, addresses) in CONSUMERS.items():
        expected = ["item.shipped", *(["stock.low"] if alias == "kafka" else [])]
        for address in addresses:
            assert by_address["receive", alias, address] == expected
    assert sorted(by_address["send", "dummy", None]) == [
        "Ende gut/Alles gut",
        "order.paid",
        "order.placed",
    ]


def test_handlers_are_named(whole: Any) -> None:
    """Handlers are those of the backend that runs them, or of the consumer that they name."""
    handlers = {
        name: each["x-handlers"]
        for name, each in whole["operations"].items()
        if "x-handlers" in each
    }
    assert handlers["receive.publisher.local"] == {"order.placed": ["confirm"]}
    assert handlers["receive.consumer.kafka.a"] == {
        "item.shipped": ["book-kafka"],
        "stock.low": ["reorder"],
    }


def test_no_secret_is_written(whole: Any, events: EventsModule, tmp_path: Path) -> None:
    """Passwords, tokens, and the paths and headers of webhooks stay in the settings."""
    assert catalogue("--output", str(tmp_path / "catalogue"))[0] == 0
    texts = [file.read_text() for file in (tmp_path / "catalogue").rglob("*.json")]
    assert len(texts) == 5
    for text in [json.dumps(whole), *texts]:
        assert SECRET not in text


def test_the_address_of_a_webhook_is_not_written(whole: Any) -> None:
    """It differs between environments, and the digest of its URL confirms a guess of a secret."""
    text = json.dumps(whole)
    assert "hooks.example" not in text
    assert endpoint_name("webhook", f"https://hooks.example/{SECRET}") not in text
    assert whole["channels"]["publisher.webhook"]["address"] is None
    assert "x-destination" not in whole["components"]["messages"]["publisher.webhook.order.placed"]


def expanded(schema: Any, schemas: Any) -> Any:
    """Return a schema of the document as one that `jsonschema` reads by itself."""
    return {**schema, "components": {"schemas": schemas}}


@pytest.mark.parametrize("alias", [name for name in BACKENDS if name != "webhooks"])
def test_the_message_of_a_backend_is_as_it_is_sent(
    whole: Any, events: EventsModule, alias: str
) -> None:
    """Headers and body, in both content modes, are valid by the schemas of the document."""
    declared = event_types.find_type("order.placed")
    assert declared is not None
    data = {
        "order_id": 7,
        "at": "2030-01-01T12:00:00+00:00",
        "pair": [1, "a"],
        "lines": [{"product": "Teapot", "price": "19.90"}],
    }
    event = to_cloud_event(declared._codec.load(data))
    shown = backends.create(alias).show(make_message(event))
    message = whole["components"]["messages"][f"publisher.{alias}.order.placed"]
    schemas = whole["components"]["schemas"]
    assert shown.body is not None
    body = orjson.loads(shown.body)
    validator = jsonschema.Draft7Validator(expanded(message["payload"], schemas))
    validator.validate(body)
    headers = {
        name: value for name, value in shown.headers.items() if name.lower() != "content-type"
    }
    expected = message.get("headers", {"properties": {}, "required": []})
    jsonschema.validate(headers, expected)
    assert headers.keys() - {"content_type"} <= expected["properties"].keys()
    broken = json.loads(shown.body.decode().replace('"Teapot"', "12"))
    assert not validator.is_valid(broken)


def test_schemas_are_valid_and_each_has_a_file(events: EventsModule, tmp_path: Path) -> None:
    """The files are JSON Schemas of draft 2020-12; files of events that are gone are removed."""
    events.declare(ORDERS)
    folder = tmp_path / "catalogue"
    assert catalogue("--output", str(folder)) == (0, f"Wrote 5 files to {folder}.\n")
    names = {"order.placed", "order.paid", "item.shipped", "Ende-20gut-2FAlles-20gut"}
    assert {file.stem for file in (folder / "schemas").iterdir()} == names
    for file in (folder / "schemas").iterdir():
        schema = json.loads(file.read_text())
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["x-event"]["type"] in ("Ende gut/Alles gut", file.stem)
    events.declare(ORDERS.partition('@typed_event("order.paid"')[0])
    catalogue("--output", str(folder))
    assert [file.stem for file in (folder / "schemas").iterdir()] == ["order.placed"]


FOREIGN = {
    "schema.json": '{"type": "object"}',
    "list.json": '["x-event"]',
    "text.json": '{"x-event": "order.placed"}',
    "broken.json": "{",
    "bytes.json": "\udcff",
    "notes.txt": "Notes.",
}


def test_files_of_others_are_left(events: EventsModule, tmp_path: Path) -> None:
    """The command removes only schemas that it wrote, as the directory may be shared."""
    events.declare(ORDERS)
    catalogue("--output", str(tmp_path))
    for name, text in FOREIGN.items():
        (tmp_path / "schemas" / name).write_text(text, errors="surrogateescape")
    (tmp_path / "schemas" / "folder.json").mkdir()
    events.declare(ORDERS.partition('@typed_event("order.paid"')[0])
    catalogue("--output", str(tmp_path))
    left = {file.name for file in (tmp_path / "schemas").iterdir()}
    assert left == {*FOREIGN, "folder.json", "order.placed.json"}


def test_the_order_of_imports_and_settings_does_not_matter(
    events: EventsModule, settings: Settings
) -> None:
    """The same project has the same catalogue, so that a committed one changes with a reason."""
    everything(settings)
    events.declare(ORDERS)
    declared = list(event_types)
    one = document()
    for each in declared:
        event_types.remove(each.event_class)
    for each in reversed(declared):
        event_types.add(each)
    settings.OUTBOX_PUBLISHERS = dict(reversed(settings.OUTBOX_PUBLISHERS.items()))
    settings.OUTBOX_CONSUMERS = dict(reversed(settings.OUTBOX_CONSUMERS.items()))
    assert json.dumps(document()) == json.dumps(one)


def test_an_event_is_received_only_if_all_its_handlers_name_consumers(whole: Any) -> None:
    """Classes also describe events of other services, which this project does not publish."""
    sent = {
        message
        for operation in whole["operations"].values()
        if operation["action"] == "send"
        for message in (each["$ref"].rpartition("/")[2] for each in operation["messages"])
    }
    assert "item.shipped" not in sent
    assert "order.placed" in sent


def test_an_event_without_a_schema_is_an_error(events: EventsModule) -> None:
    """The command names the class whose field has no JSON Schema."""
    events.declare(OPAQUE)
    with pytest.raises(CommandError, match="OrderPlaced"):
        catalogue()


WHOLE = {
    "class": "shop.events.E",
    "description": "",
    "version": 1,
    "upcasters": [],
    "source": "/shop",
    "sent": True,
    "schema": {"$ref": "#/components/schemas/e"},
}

EVENT = """
@typed_event("e", source="/shop")
class E(TypedDict):
    order_id: int
"""


ANOTHER = """
@typed_event("{type}", source="/shop")
@dataclass
class {name}:
    line: {line} = None

{line_class}
"""


def declare_two(events: EventsModule, one: str, two: str, line: str = "int") -> None:
    """Declare two events; the first has a field of a type."""
    line_class = f"@dataclass\nclass {line}:\n    item: int" if line != "int" else ""
    first = ANOTHER.format(type=one, name="One", line=line, line_class=line_class)
    events.declare(first + ANOTHER.format(type=two, name="Two", line="int", line_class=""))


@pytest.mark.parametrize(
    ("one", "two", "line", "problem"),
    [
        (
            "order placed",
            "order-20placed",
            "int",
            "event 'order placed' and event 'order-20placed' must not have the same name",
        ),
        (
            "Order",
            "Order.Line",
            "Line",
            "class Line of event 'Order' and event 'Order.Line' must not have the same name",
        ),
    ],
)
def test_names_that_are_the_same_are_an_error(
    events: EventsModule, one: str, two: str, line: str, problem: str
) -> None:
    """The schema of one event must not replace that of another."""
    declare_two(events, one, two, line)
    with pytest.raises(CommandError, match=problem):
        catalogue()


def test_files_that_differ_in_case_alone_are_an_error(events: EventsModule, tmp_path: Path) -> None:
    """One would replace the other where a file system ignores case; nothing is written."""
    declare_two(events, "Order", "order")
    assert catalogue()[0] == 0
    with pytest.raises(CommandError, match="event 'Order' and event 'order' must not have the sa"):
        catalogue("--output", str(tmp_path / "catalogue"))
    assert not (tmp_path / "catalogue").exists()


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        (
            ("a b", "a-20b"),
            "event 'e' of 'publisher.a b' and event 'e' of 'publisher.a-20b' must not",
        ),
        (("a", "a.t"), r"channel \['t.u'\] of 'publisher.a' and channel \['u'\] of 'publis"),
    ],
)
def test_names_of_backends_that_are_the_same_are_an_error(
    events: EventsModule,
    settings: Settings,
    aliases: tuple[str, str],
    problem: str,
) -> None:
    """The channel of one backend must not replace that of another."""
    topics = ("t.u", "u")
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": f"{OF_BACKENDS}KafkaBackend", "OPTIONS": {"topic": topic}}
        for alias, topic in zip(aliases, topics, strict=True)
    }
    settings.OUTBOX_ROUTES = {"*": list(aliases)}
    events.declare(EVENT)
    with pytest.raises(CommandError, match=problem):
        catalogue()


@pytest.mark.django_db
def test_the_page_shows_names_that_are_the_same(events: EventsModule, admin_client: Client) -> None:
    """The page names both events, and does not fail."""
    declare_two(events, "order placed", "order-20placed")
    assert "must not have the same name" in admin_client.get(reverse(PAGE)).content.decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "must be JSON"),
        ("{}", "must be an AsyncAPI document of this command"),
        ('{"x-events": {"e": []}}', "'e' must have 'class'; write the catalogue again"),
        ('{"x-events": {"e": {}}}', "'e' must have 'class'; write the catalogue again"),
        (json.dumps({"x-events": {"e": WHOLE | {"version": "1"}}}), "'e' must have 'version'"),
        (json.dumps({"x-events": {"e": WHOLE}}), "must have #/components/schemas/e, to which"),
    ],
)
def test_a_file_that_is_no_catalogue_is_an_error(
    events: EventsModule, tmp_path: Path, text: str, problem: str
) -> None:
    """A wrong path must not pass for a catalogue without events."""
    events.declare(EVENT)
    file = tmp_path / "asyncapi.json"
    file.write_text(text)
    with pytest.raises(CommandError, match=problem):
        catalogue("--check", str(file))
    with pytest.raises(CommandError, match="can't be read: No such file"):
        catalogue("--check", str(tmp_path / "elsewhere"))


class Foreign(MessageBackend):
    """A third-party backend, whose bodies are those of its option."""

    def __init__(self, *, bodies: str, **options: Any) -> None:
        super().__init__(**options)
        self._bodies = bodies

    def send(self, message: Message) -> None:
        """Accept a message."""

    def show(self, message: Message) -> Shown:
        """Return a body of the kind."""
        number = 1 if message.event_id.endswith("ONE") else 2
        values = {
            "number": number,
            "mixed": 1 if number == 1 else "a",
            "list": [1] if message.subject else [],
            "fields": {message.event_id: 1, "version": 1},
        }
        bodies = {"binary": b"\xff\x00", "text": b"<event/>"}
        body = bodies.get(self._bodies) or json.dumps(values[self._bodies]).encode()
        return Shown({"topic": "t"}, {}, body)


FOREIGN_BODIES = {
    "binary": ("application/octet-stream", None),
    "text": ("application/octet-stream", None),
    "number": ("application/json", {"type": "integer"}),
    "mixed": ("application/json", {}),
    "list": ("application/json", {"type": "array"}),
    "fields": (
        "application/json",
        {"type": "object", "required": ["version"], "properties": {"version": {"const": 1}}},
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize("bodies", FOREIGN_BODIES)
def test_a_third_party_backend_may_have_any_body(
    events: EventsModule, settings: Settings, admin_client: Client, bodies: str
) -> None:
    """A body that is not JSON has no schema; neither the command nor the page fails."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": f"{__name__}.Foreign", "OPTIONS": {"bodies": bodies}}
    }
    events.declare(EVENT.replace('source="/shop"', 'source="/shop", subject="order_id"'))
    message = document()["components"]["messages"]["publisher.default.e"]
    assert (message["contentType"], message.get("payload")) == FOREIGN_BODIES[bodies]
    assert "Backend default: t" in admin_client.get(reverse(PAGE)).content.decode()


PAGE = "admin:django_broadcaster_outboxdashboard_catalogue"


@pytest.mark.django_db
def test_the_admin_has_a_page_of_the_events(
    events: EventsModule, settings: Settings, admin_client: Client
) -> None:
    """The page has each event with its schema, channels and handlers, and no secrets."""
    everything(settings)
    register_handlers()
    events.declare(ORDERS)
    page = admin_client.get(reverse(PAGE)).content.decode()
    for text in (
        "An order was placed.",
        f"{events.file.stem}.OrderPlaced",
        "Backend kafka: shop.{key}",
        "Handlers of backend local",
        "confirm",
        "Consumer rabbitmq: q",
        "book-rabbitmq",
        "&quot;order_id&quot;: {",
    ):
        assert text in page
    assert SECRET not in page
    dashboard = admin_client.get(reverse("admin:django_broadcaster_outboxdashboard_changelist"))
    assert f'href="{reverse(PAGE)}"' in dashboard.content.decode()


@pytest.mark.django_db
def test_the_page_shows_why_there_is_no_schema(events: EventsModule, admin_client: Client) -> None:
    """A wrong class does not make the page fail."""
    assert "No events are declared." in admin_client.get(reverse(PAGE)).content.decode()
    events.declare(OPAQUE)
    page = admin_client.get(reverse(PAGE)).content.decode()
    assert "pydantic has no JSON Schema of OrderPlaced" in page
