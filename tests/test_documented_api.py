"""The documented API of version 0.1, row by row, and code written against it, unchanged."""

from __future__ import annotations

import inspect
import json
import logging
import textwrap
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

from django_broadcaster.backends import PublisherBackend, RedisStreamBackend
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import OutboxPublisher, publisher
from django_broadcaster.registry import (
    EventHandlerRegistry,
    event_created,
    event_published,
    event_registry,
)
from tests.support.redis_server import shared_url
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings


class Mailbox(PublisherBackend):
    """A custom backend as the documentation shows one; what it gets is kept in a list."""

    received: list[OutboxEvent] = []
    answer: Callable[[OutboxEvent], bool] = staticmethod(lambda event: True)

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def publish(self, event: OutboxEvent) -> bool:
        """Keep the event, if the answer is True."""
        done = type(self).answer(event)
        if done:
            self.received.append(event)
        return done

    def health_check(self) -> bool:
        """Be healthy."""
        return True


MAILBOX = f"{__name__}.Mailbox"


@pytest.fixture
def outbox(database: str, settings: Settings) -> Iterator[str]:
    """A project whose events go to the mailbox and to handlers, on each database in turn."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": MAILBOX, "OPTIONS": {"box": "in"}}}
    settings.OUTBOX_ROUTES = None  # as where a project does not know of it
    settings.OUTBOX_WORKER = {
        "BATCH_SIZE": 100,
        "SLEEP_TIME": 5,
        "MAX_RETRIES": 3,
        "RETRY_BACKOFF": True,
    }
    settings.OUTBOX_RETENTION = {
        "CLEANUP_PUBLISHED": True,
        "PUBLISHED_RETENTION_DAYS": 7,
        "FAILED_RETENTION_DAYS": 30,
    }
    known = list(event_registry)
    event_registry.clear_handlers()
    Mailbox.received, Mailbox.answer = [], staticmethod(lambda event: True)
    default = connections["default"]
    connections["default"] = connections[database]  # for a `transaction.atomic()` of the project's
    yield database
    connections["default"] = default
    event_registry.clear_handlers()
    for handler in known:
        for pattern in handler.patterns:
            event_registry.register(pattern, name=handler.name)(handler.function)


def deliver() -> None:
    """Deliver all that is due, as a relay does."""
    call_command("outbox_worker", "--drain")


# --- Signatures --------------------------------------------------------------------------------

PUBLISH = "backend=None, scheduled_at=None, max_retries=3, publisher_config=None"
SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (
        CloudEvent,
        "event_type, source, data=None, subject='', data_content_type, data_schema='', "
        "spec_version='1.0'",
    ),
    (CloudEvent.to_dict, "self"),
    (EventHandlerRegistry, ""),
    (EventHandlerRegistry.register, "self, event_type=None"),
    (EventHandlerRegistry.handle_event, "self, event"),
    (EventHandlerRegistry.get_handlers, "self, event_type=None"),
    (EventHandlerRegistry.clear_handlers, "self, event_type=None"),
    (OutboxEvent.to_cloud_event, "self"),
    (OutboxEvent.mark_as_published, "self"),
    (OutboxEvent.mark_as_failed, "self, error_message"),
    (OutboxEvent.increment_retry, "self, error_message=''"),
    (PublisherBackend.publish, "self, event"),
    (PublisherBackend.health_check, "self"),
    (PublisherBackend.get_name, "self"),
    (OutboxPublisher, ""),
    (OutboxPublisher._load_backends, "self"),
    (
        OutboxPublisher.publish_event,
        f"self, event_type, source, data=None, subject='', {PUBLISH}",
    ),
    (OutboxPublisher.publish_cloud_event, f"self, cloud_event, {PUBLISH}"),
    (OutboxPublisher.process_pending_events, "self, batch_size=100"),
    (OutboxPublisher._process_single_event, "self, event"),
    (OutboxPublisher._get_default_backend, "self"),
    (OutboxPublisher.get_backend_health, "self"),
]


@pytest.mark.parametrize(
    ("function", "documented"), SIGNATURES, ids=[f.__qualname__ for f, _ in SIGNATURES]
)
def test_signature_is_the_documented_one(function: Callable[..., Any], documented: str) -> None:
    """The documented parameters come first, by position, in their order; what else is optional."""
    parameters = list(inspect.signature(function).parameters.values())
    wanted = documented.split(", ") if documented else []
    for parameter, text in zip(parameters, wanted, strict=False):
        name, _, default = text.partition("=")
        assert parameter.name == name
        assert parameter.kind in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.POSITIONAL_ONLY,
        )
        if default:
            assert repr(parameter.default) == default
    assert len(parameters) >= len(wanted)
    for parameter in parameters[len(wanted) :]:
        assert parameter.default is not inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        )


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("events", ["CloudEvent"]),
        (
            "registry",
            ["EventHandlerRegistry", "event_registry", "event_created", "event_published"],
        ),
        ("models", ["OutboxEvent", "OutboxEventStatus"]),
        ("backends", ["PublisherBackend", "RedisStreamBackend"]),
        ("publishers", ["OutboxPublisher", "publisher"]),
    ],
)
def test_documented_names_are_where_they_were(module: str, names: list[str]) -> None:
    """Each import of the documentation works."""
    assert all(hasattr(import_module(f"django_broadcaster.{module}"), name) for name in names)


# --- CloudEvent --------------------------------------------------------------------------------


def test_cloud_event_takes_everything_by_position() -> None:
    """All parameters can be positional, and are attributes of the same names."""
    values = {
        "event_type": "order.completed",
        "source": "order-service",
        "data": {"id": 1},
        "subject": "order/1",
        "data_content_type": "application/json",
        "data_schema": "https://example.com/order.json",
        "spec_version": "1.0",
    }
    for event in (CloudEvent(*values.values()), CloudEvent(**values)):  # type: ignore[arg-type]
        assert {name: getattr(event, name) for name in values} == values
        assert (
            event.to_dict().items()
            >= {
                "specversion": "1.0",
                "type": "order.completed",
                "source": "order-service",
                "data": {"id": 1},
                "subject": "order/1",
                "datacontenttype": "application/json",
                "dataschema": "https://example.com/order.json",
            }.items()
        )


def test_an_empty_string_is_not_set() -> None:
    """`subject` and `data_schema` read as empty, and are no members of the JSON."""
    for event in (CloudEvent("a", "b"), CloudEvent("a", "b", None, "", "application/json", "")):
        assert (event.subject, event.data_schema) == ("", "")
        assert event.data is None
        assert event.data_content_type == "application/json"
        assert event.spec_version == "1.0"
        assert not event.to_dict().keys() & {"subject", "dataschema", "data"}


# --- Registry ----------------------------------------------------------------------------------


def test_handlers_of_a_type_and_of_every_type() -> None:
    """`register` returns the function, stacks, and `get_handlers` adds those of every event."""
    registry = EventHandlerRegistry()

    def typed(event: Any) -> None:
        """Handle two types."""

    def every(event: Any) -> None:
        """Handle all."""

    assert registry.register("a")(registry.register("b")(typed)) is typed
    assert registry.register()(every) is every
    assert registry.get_handlers() == [every]
    assert registry.get_handlers("a") == registry.get_handlers("b") == [typed, every]
    assert registry.get_handlers("c") == [every]
    registry.clear_handlers("a")
    assert (registry.get_handlers("a"), registry.get_handlers("b")) == ([every], [typed, every])
    registry.clear_handlers()
    assert registry.get_handlers("b") == registry.get_handlers() == []


def test_handle_event_runs_all_and_says_whether_none_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that raises is logged by `django_broadcaster`, and the others still run."""
    registry = EventHandlerRegistry()
    ran: list[str] = []

    @registry.register("a")
    def fail(event: Any) -> None:
        raise RuntimeError("no")

    @registry.register()
    def note(event: Any) -> None:
        ran.append(event.event_type)

    with caplog.at_level(logging.ERROR, "django_broadcaster"):
        assert registry.handle_event(OutboxEvent(event_type="a", source="s")) is False
    assert registry.handle_event(OutboxEvent(event_type="b", source="s")) is True
    assert ran == ["a", "b"]
    (record,) = caplog.records
    assert record.name == "django_broadcaster"
    assert "fail" in record.getMessage()


def test_signals_have_the_documented_arguments(outbox: str) -> None:
    """Both are sent by the class, with the event as the database holds it."""
    heard: list[tuple[str, Any, Any]] = []

    def created(sender: Any, event: OutboxEvent, **_: Any) -> None:
        heard.append(("created", sender, event.event_type))

    def published(sender: Any, event: OutboxEvent, **_: Any) -> None:
        heard.append(("published", sender, event.status))

    event_created.connect(created)
    event_published.connect(published)
    try:
        publisher.publish_event("user.created", "user-service")
        deliver()
    finally:
        event_created.disconnect(created)
        event_published.disconnect(published)
    assert heard == [
        ("created", OutboxEvent, "user.created"),
        ("published", OutboxEvent, "published"),
    ]


# --- OutboxEvent -------------------------------------------------------------------------------

FIELDS = (
    *("id", "spec_version", "event_type", "source", "subject", "data_content_type"),
    *("data_schema", "data", "status", "created_at", "updated_at", "scheduled_at"),
    *("published_at", "retry_count", "max_retries", "last_error", "publisher_backend"),
    "publisher_config",
)


def test_model_has_the_documented_fields_and_states() -> None:
    """Queries by these names work."""
    assert {field.name for field in OutboxEvent._meta.get_fields()} >= set(FIELDS)
    names = ("PENDING", "PROCESSING", "PUBLISHED", "FAILED", "RETRY")
    assert all(OutboxEventStatus[name] == name.lower() for name in names)


def test_an_event_of_two_attributes_is_pending_and_delivered(outbox: str) -> None:
    """`objects.create` with a type and a source is enough, and `str` is as documented."""
    event = OutboxEvent.objects.create(event_type="user.created", source="user-service")
    assert event.status == OutboxEventStatus.PENDING
    assert str(event) == f"user.created - {event.id}"
    assert (event.retry_count, event.max_retries, event.last_error) == (0, 3, "")
    deliver()
    assert [each.event_type for each in Mailbox.received] == ["user.created"]
    event.refresh_from_db()
    assert event.status == OutboxEventStatus.PUBLISHED
    assert event.published_at is not None


def test_events_that_are_written_at_once_are_delivered(outbox: str) -> None:
    """`bulk_create` fills in and delivers each of them, in order."""
    OutboxEvent.objects.bulk_create(
        [
            OutboxEvent(event_type=f"t{number}", source="s", data={"n": number})
            for number in range(5)
        ]
    )
    deliver()
    assert [each.data for each in Mailbox.received] == [{"n": number} for number in range(5)]


def test_to_cloud_event_is_the_json_with_id_and_time(outbox: str) -> None:
    """A dictionary of the CloudEvents members, that `json` can write."""
    event = publisher.publish_event("user.created", "user-service", {"id": 1}, "user/1")
    members = event.to_cloud_event()
    assert type(members) is dict
    assert members["specversion"] == "1.0"
    assert (members["type"], members["source"]) == ("user.created", "user-service")
    assert (members["subject"], members["data"]) == ("user/1", {"id": 1})
    assert members["id"]
    assert datetime.fromisoformat(members["time"]).tzinfo is not None
    assert json.loads(json.dumps(members)) == members
    assert OutboxEvent.objects.get(pk=event.pk).to_cloud_event() == members


def test_an_event_can_be_marked_by_hand(outbox: str) -> None:
    """`mark_as_published` and `mark_as_failed` say what becomes of it, and no relay takes it."""
    done, failed = (publisher.publish_event("a", "s", max_retries=2) for _ in range(2))
    done.mark_as_published()
    failed.mark_as_failed("broken")
    deliver()
    assert Mailbox.received == []
    done.refresh_from_db()
    failed.refresh_from_db()
    assert (done.status, done.published_at is not None) == (OutboxEventStatus.PUBLISHED, True)
    assert (failed.status, failed.last_error) == (OutboxEventStatus.FAILED, "broken")


def test_retries_are_spent_by_hand(outbox: str) -> None:
    """Each `increment_retry` spends one, and the last one makes the event a failed one."""
    event = publisher.publish_event("a", "s", max_retries=2)
    event.increment_retry("first")
    event.refresh_from_db()
    assert (event.status, event.retry_count, event.last_error) == ("retry", 1, "first")
    assert event.scheduled_at > timezone.now()
    event.increment_retry()
    event.refresh_from_db()
    assert (event.status, event.retry_count, event.last_error) == ("failed", 2, "first")


# --- Backends ----------------------------------------------------------------------------------


def test_a_custom_backend_is_loaded_and_delivers(outbox: str) -> None:
    """Its constructor gets OPTIONS as one dictionary, and `publish` the event of the outbox."""
    publisher.publish_event(
        "user.created", "user-service", {"id": 1}, "user/1", publisher_config={"priority": "high"}
    )
    deliver()
    (event,) = Mailbox.received
    assert isinstance(event, OutboxEvent)
    assert (event.event_type, event.source, event.subject) == (
        *("user.created", "user-service", "user/1"),
    )
    assert event.data == {"id": 1}
    assert event.publisher_config == {"priority": "high"}
    assert event.to_cloud_event()["id"] == str(event.id)
    backend = publisher._backends["default"]
    assert isinstance(backend, Mailbox)
    assert backend.config == {"box": "in"}
    assert backend.get_name() == "Mailbox"
    assert publisher.get_backend_health() == {"default": True}


def test_a_backend_can_be_put_in_by_hand(outbox: str) -> None:
    """`publisher._backends[alias] = instance` makes an alias that events can go to."""
    instance = Mailbox({"box": "other"})
    publisher._backends["my_custom"] = instance
    try:
        event = publisher.publish_event("user.created", "user-service", backend="my_custom")
        assert publisher.process_pending_events() == 1
        assert publisher._backends["my_custom"] is instance
    finally:
        del publisher._backends["my_custom"]
    event.refresh_from_db()
    assert (event.status, event.publisher_backend) == ("published", "my_custom")
    assert len(Mailbox.received) == 1


def _raise(event: OutboxEvent) -> bool:
    raise ConnectionError("no route")


@pytest.mark.parametrize("answer", [lambda event: False, _raise], ids=["False", "an exception"])
def test_a_failed_attempt_is_retried_and_at_last_given_up(
    outbox: str, settings: Settings, answer: Callable[[OutboxEvent], bool]
) -> None:
    """False or an exception spends a retry; without any left the event has failed."""
    settings.OUTBOX_RETRY = {"initial": 0.001, "maximum": 0.001}
    Mailbox.answer = staticmethod(answer)
    tried = publisher.publish_event("a", "s", max_retries=2)
    once = publisher.publish_event("a", "s", max_retries=0)
    for _ in range(3):
        deliver()
    tried.refresh_from_db()
    once.refresh_from_db()
    assert (tried.status, once.status) == ("failed", "failed")
    assert (tried.retry_count, once.retry_count) == (2, 0)
    assert tried.last_error
    assert Mailbox.received == []


def test_an_incomplete_backend_can_not_be_made() -> None:
    """`PublisherBackend` is abstract in `publish` and `health_check`."""

    class Unfinished(PublisherBackend):
        """Lacks both."""

    with pytest.raises(TypeError, match="abstract"):
        Unfinished({})  # type: ignore[abstract]


# --- Redis -------------------------------------------------------------------------------------


@pytest.fixture
def stream() -> Iterator[str]:
    """The name of a stream that nobody else uses."""
    name = f"test-{uuid4()}"
    yield name
    with redis.Redis.from_url(shared_url()) as client:
        client.delete(name)


def entries(stream: str) -> list[dict[str, str]]:
    """The fields of the stream's entries."""
    with redis.Redis.from_url(shared_url(), decode_responses=True) as client:
        return [fields for _, fields in client.xrange(stream)]


def redis_options(stream: str) -> dict[str, Any]:
    """Every option that is documented, for the shared server."""
    with redis.Redis.from_url(shared_url()) as client:
        place = client.connection_pool.connection_kwargs
    return {
        "host": place.get("host", "localhost"),
        "port": place.get("port", 6379),
        "db": place.get("db", 0),
        "password": place.get("password"),
        "stream_name": stream,
        "max_len": 10000,
        "connect_timeout": 5,
        "socket_timeout": 5,
    }


def test_redis_entry_has_the_documented_fields(
    outbox: str, settings: Settings, stream: str
) -> None:
    """The five fields, and the items of `publisher_config` as further ones."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
            "OPTIONS": redis_options(stream),
        }
    }
    event = publisher.publish_event(
        "user.created", "user-service", {"id": 1}, publisher_config={"priority": "high"}
    )
    deliver()
    (entry,) = entries(stream)
    assert entry.keys() == {
        *("event_id", "event_type", "source", "timestamp", "cloud_event", "priority"),
    }
    assert (entry["event_type"], entry["source"]) == ("user.created", "user-service")
    assert entry["priority"] == "high"
    assert datetime.fromisoformat(entry["timestamp"]).tzinfo is not None
    members = json.loads(entry["cloud_event"])
    assert entry["event_id"] == members["id"] == event.to_cloud_event()["id"]
    assert members == event.to_cloud_event()


def test_redis_backend_is_made_of_one_dictionary(outbox: str, stream: str) -> None:
    """`RedisStreamBackend(config)` publishes, and can be put in by hand."""
    publisher._backends["redis"] = RedisStreamBackend(redis_options(stream))
    try:
        publisher.publish_event("user.created", "user-service", backend="redis")
        deliver()
        assert publisher.get_backend_health()["redis"] is True
    finally:
        del publisher._backends["redis"]
    assert [entry["event_type"] for entry in entries(stream)] == ["user.created"]


def test_redis_options_have_their_documented_defaults() -> None:
    """Without options the stream is `events` on this machine, of about 10000 entries."""
    backend = RedisStreamBackend({})
    assert (backend.stream_name, backend.max_len) == ("events", 10000)
    assert (backend.connect_timeout, backend.socket_timeout) == (5, 5)


# --- Settings and command ----------------------------------------------------------------------


def test_events_go_to_the_alias_of_the_call(outbox: str, settings: Settings) -> None:
    """Of several aliases each gets what names it, and `default` the rest."""
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": MAILBOX, "OPTIONS": {}} for alias in ("default", "analytics")
    }
    publisher.publish_event("a", "s")
    publisher.publish_event("b", "s", backend="analytics")
    deliver()
    assert {each.event_type: each.publisher_backend for each in Mailbox.received} == {
        "a": "default",
        "b": "analytics",
    }


def test_the_worker_takes_the_documented_options(outbox: str) -> None:
    """So many iterations of so many events, and then it ends."""
    for number in range(5):
        publisher.publish_event(f"t{number}", "s")
    call_command("outbox_worker", "--batch-size", "2", "--interval", "1", "--max-iterations", "2")
    assert [each.event_type for each in Mailbox.received] == ["t0", "t1", "t2", "t3"]
    call_command("outbox_worker", batch_size=100, interval=5, max_iterations=1)
    assert len(Mailbox.received) == 5


# --- Code of a user of version 0.1 -------------------------------------------------------------


def run(code: str) -> dict[str, Any]:
    """Run a module of the project; return its names."""
    names: dict[str, Any] = {"__name__": "shop.code"}
    exec(textwrap.dedent(code), names)  # noqa: S102  # as the project has written it
    return names


def test_code_that_publishes(outbox: str) -> None:
    """In a transaction, as a CloudEvent, and for later."""
    run(
        """
        from datetime import timedelta

        from django.db import transaction
        from django.utils import timezone

        from django_broadcaster.events import CloudEvent
        from django_broadcaster.publishers import publisher

        with transaction.atomic():
            event = publisher.publish_event(
                event_type="user.created",
                source="user-service",
                data={"user_id": 123, "email": "user@example.com"},
            )

        cloud_event = CloudEvent(
            event_type="order.completed",
            source="order-service",
            data={"order_id": "ORD-1", "total": 99.5},
            subject="orders/ORD-1",
        )
        publisher.publish_cloud_event(cloud_event, max_retries=5)
        publisher.publish_cloud_event(CloudEvent("order.paid", "order-service", {"id": 2}))

        publisher.publish_event(
            event_type="reminder.due",
            source="scheduler",
            data={"reminder_id": 456},
            scheduled_at=timezone.now() + timedelta(hours=1),
        )
        """
    )
    deliver()
    assert [(each.event_type, each.data) for each in Mailbox.received] == [
        ("user.created", {"user_id": 123, "email": "user@example.com"}),
        ("order.completed", {"order_id": "ORD-1", "total": 99.5}),
        ("order.paid", {"id": 2}),
    ]
    later = OutboxEvent.objects.get(event_type="reminder.due")
    assert later.status not in ("published", "failed")
    OutboxEvent.objects.filter(pk=later.pk).update(scheduled_at=timezone.now() - timedelta(1))
    deliver()
    assert Mailbox.received[-1].data == {"reminder_id": 456}


def test_code_that_handles(outbox: str) -> None:
    """Handlers of a type and of all events read the documented attributes, after the commit."""
    names = run(
        """
        from django_broadcaster.registry import event_registry

        created, audit = [], []

        @event_registry.register("user.created")
        def handle_user_created(event):
            created.append(event.data["user_id"])

        @event_registry.register()
        def log_all_events(event):
            audit.append((event.event_type, event.source, event.subject, str(event.id)))

        @event_registry.register("order.paid")
        @event_registry.register("order.completed")
        def handle_orders(event):
            created.append(event.event_type)
        """
    )
    with transaction.atomic():
        user = publisher.publish_event("user.created", "user-service", {"user_id": 1}, "user/1")
        publisher.publish_event("order.paid", "order-service")
        assert names["audit"] == []
    assert names["audit"] == [], "no handler runs in the process that publishes"
    deliver()
    assert names["created"] == [1, "order.paid"]
    assert names["audit"] == [
        ("user.created", "user-service", "user/1", user.to_cloud_event()["id"]),
        ("order.paid", "order-service", "", names["audit"][1][3]),
    ]
    assert [each.event_type for each in Mailbox.received] == ["user.created", "order.paid"]


def test_code_of_a_custom_backend(outbox: str) -> None:
    """A backend with a client and settings of its own, and an event that it does not take."""
    names = run(
        """
        import json

        from django_broadcaster.backends import PublisherBackend
        from django_broadcaster.models import OutboxEvent
        from django_broadcaster.publishers import publisher

        class QueueBackend(PublisherBackend):
            def __init__(self, config):
                self.queue_name = config.get("queue_name", "default")
                self.sent = []

            def publish(self, event: OutboxEvent) -> bool:
                message = json.dumps(event.to_cloud_event())
                if event.publisher_config.get("refuse"):
                    return False
                self.sent.append((self.queue_name, str(event.id), message, event.retry_count))
                return True

            def health_check(self) -> bool:
                return True

        backend = QueueBackend({"queue_name": "orders"})
        publisher._backends["queue"] = backend
        publisher.publish_event("order.paid", "order-service", {"n": 1}, backend="queue")
        published = publisher.process_pending_events(batch_size=100)
        publisher.publish_event(
            "order.paid", "order-service", backend="queue", publisher_config={"refuse": True}
        )
        publisher.process_pending_events(batch_size=100)
        """
    )
    try:
        assert names["published"] == 1
        ((queue, event_id, message, attempts),) = names["backend"].sent
        assert (queue, attempts) == ("orders", 0)
        assert json.loads(message)["id"] == event_id
        assert json.loads(message)["data"] == {"n": 1}
        assert set(OutboxEvent.objects.values_list("status", flat=True)) == {"published", "retry"}
    finally:
        del publisher._backends["queue"]


def test_code_that_asks_the_model(outbox: str) -> None:
    """Queries by the documented fields and states."""
    publisher.publish_event("a", "s")
    found = run(
        """
        from datetime import timedelta

        from django.utils import timezone

        from django_broadcaster.models import OutboxEvent, OutboxEventStatus

        pending = OutboxEvent.objects.filter(
            status__in=[OutboxEventStatus.PENDING, OutboxEventStatus.RETRY],
            scheduled_at__lte=timezone.now(),
            created_at__gte=timezone.now() - timedelta(hours=1),
        ).order_by("created_at")
        count = pending.count()
        failed = OutboxEvent.objects.filter(status="failed", retry_count__gte=3).count()
        """
    )
    assert (found["count"], found["failed"]) == (1, 0)


# --- What must not come back -------------------------------------------------------------------


def test_what_is_rolled_back_reaches_no_handler_and_no_backend(outbox: str) -> None:
    """An event of a transaction that did not commit was never there."""
    handled: list[Any] = []
    event_registry.register()(handled.append)
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012  # it is one block
        publisher.publish_event("a", "s")
        OutboxEvent.objects.create(event_type="b", source="s")
        raise ZeroDivisionError
    deliver()
    assert handled == Mailbox.received == []


def test_nothing_of_a_cloud_event_is_lost(outbox: str) -> None:
    """Its id, time and schema arrive, and so do dates in its data."""
    event = CloudEvent(
        "order.paid",
        "order-service",
        {"on": date(2026, 1, 31), "at": datetime(2026, 1, 31, 12, 0)},  # noqa: DTZ001
        data_schema="https://example.com/order.json",
    )
    publisher.publish_cloud_event(event)
    deliver()
    (arrived,) = Mailbox.received
    members = arrived.to_cloud_event()
    assert (members["id"], members["dataschema"]) == (event.id, event.data_schema)
    assert event.time is not None
    assert datetime.fromisoformat(members["time"]) == event.time
    assert members["data"] == {"on": "2026-01-31", "at": "2026-01-31T12:00:00"}


def test_no_statement_of_a_publish_call_runs_a_handler(outbox: str) -> None:
    """Handlers are run by the relay: saving a row runs none."""
    handled: list[Any] = []
    event_registry.register()(handled.append)
    OutboxEvent.objects.create(event_type="a", source="s")
    publisher.publish_event("b", "s")
    assert handled == []
    assert connections[outbox].get_autocommit()
    deliver()
    assert sorted(event.event_type for event in handled) == ["a", "b"]
