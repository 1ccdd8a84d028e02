"""Handlers of a project whose settings name no backend that runs them, as in version 0.1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction

from django_broadcaster.backends import LocalBackend, locmem
from django_broadcaster.backends.handler import HANDLERS, backends
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidPublisherConfig
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from tests.relay.conftest import Join, drain
from tests.support.events import publish

if TYPE_CHECKING:
    from pytest_django import Settings

BACKENDS = "django_broadcaster.backends"
LOCMEM = f"{BACKENDS}.LocMemBackend"
DICTIONARY = "tests.backends.test_event_backend.Shelf"


@pytest.fixture
def handled(settings: Settings) -> Iterator[list[CloudEvent]]:
    """What a handler of `order.*` was given, in a project with one broker and without routes."""
    settings.OUTBOX_PUBLISHERS = {"redis": {"BACKEND": LOCMEM}}
    settings.OUTBOX_ROUTES = None
    settings.OUTBOX_RETRY = {"initial": 0.01, "maximum": 0.01, "jitter": 0.0}
    locmem.clear()
    found: list[CloudEvent] = []
    event_registry.register("order.*", name="alias.orders")(found.append)
    yield found
    if any(handler.name == "alias.orders" for handler in event_registry):
        event_registry.unregister("alias.orders")
    locmem.clear()


def aliases(database: str) -> list[str]:
    """Where the rows of the outbox go, in their order."""
    rows = OutboxEvent.objects.using(database).order_by("id")
    return list(rows.values_list("publisher_backend", flat=True))


@pytest.mark.parametrize("way", ["one", "many", "cloud event", "model"])
def test_event_with_handlers_goes_to_its_broker_and_to_them(
    database: str, handled: list[CloudEvent], join: Join, way: str
) -> None:
    """However it is published, it is sent once, and its handlers run once, after the commit."""
    event = CloudEvent("order.placed", "/shop", {"id": 7})
    if way == "one":
        assert publish("a1", using=database)[0].publisher_backend == "redis"
    elif way == "many":
        publisher.publish_events([event], using=database)
    elif way == "cloud event":
        publisher.publish_cloud_event(event, backend="redis", using=database)
    else:
        OutboxEvent.objects.using(database).create(event_type="order.placed", source="/shop")
    assert aliases(database) == ["redis", HANDLERS]
    assert handled == []
    for alias in backends.aliases():
        drain(join(alias))
    assert len(handled) == len(locmem.outbox("redis")) == 1
    assert handled[0].id == locmem.outbox("redis")[0].event_id


@pytest.mark.parametrize("way", ["one", "many", "model"])
def test_options_of_an_event_are_for_its_broker(
    database: str, handled: list[CloudEvent], settings: Settings, join: Join, way: str
) -> None:
    """The row for the handlers has no `publisher_config`, which their backend would refuse."""
    settings.OUTBOX_PUBLISHERS = {"audit": {"BACKEND": DICTIONARY}}
    event = {"event_type": "order.placed", "source": "/shop", "publisher_config": {"region": "eu"}}
    if way == "one":
        publisher.publish_event(**event, backend="audit", using=database)  # type: ignore[arg-type]
    elif way == "many":
        publisher.publish_events([event], backend="audit", using=database)
    else:
        event["publisher_backend"] = "audit"
        OutboxEvent.objects.using(database).create(**event)
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert list(rows.values_list("publisher_backend", "publisher_config")) == [
        ("audit", {"region": "eu"}),
        (HANDLERS, {}),
    ]
    drain(join(HANDLERS))
    assert len(handled) == 1


def test_options_of_an_event_for_handlers_alone_are_refused(
    database: str, handled: list[CloudEvent]
) -> None:
    """A call that names the alias of handlers is judged by it."""
    with pytest.raises(InvalidPublisherConfig):
        publish("a1", using=database, backend=HANDLERS, publisher_config={"region": "eu"})


def test_rolled_back_event_reaches_no_handler(
    database: str, handled: list[CloudEvent], join: Join
) -> None:
    """Version 0.1 ran handlers while the transaction was open."""
    with transaction.atomic(using=database):
        publisher.publish_event("order.placed", "/shop", using=database)
        transaction.set_rollback(True, using=database)
    for alias in backends.aliases():
        drain(join(alias))
    assert handled == []


def test_event_without_handlers_is_written_once(database: str, handled: list[CloudEvent]) -> None:
    """Only what somebody handles is written for handlers."""
    publisher.publish_event("invoice.paid", "/shop", using=database)
    assert aliases(database) == ["redis"]


@pytest.mark.parametrize(
    ("publishers", "routes"),
    [
        ({"redis": {"BACKEND": LOCMEM}}, {}),
        ({"redis": {"BACKEND": LOCMEM}, "here": {"BACKEND": f"{BACKENDS}.LocalBackend"}}, None),
        ({"redis": {"BACKEND": LOCMEM}, "queue": {"BACKEND": f"{BACKENDS}.TasksBackend"}}, None),
        ({"redis": {"BACKEND": LOCMEM}, HANDLERS: {"BACKEND": LOCMEM}}, None),
    ],
    ids=["routes are set", "a backend runs them", "a queue runs them", "the alias is taken"],
)
def test_settings_that_say_where_handlers_run_are_left_alone(
    database: str,
    handled: list[CloudEvent],
    settings: Settings,
    publishers: dict[str, Any],
    routes: Any,
) -> None:
    """Nothing is added to what a project has written down."""
    settings.OUTBOX_PUBLISHERS, settings.OUTBOX_ROUTES = publishers, routes
    assert backends.aliases() == tuple(publishers)
    publish("a1", using=database, backend="redis")
    assert aliases(database) == ["redis"]


def test_backend_put_in_by_hand_may_run_them(database: str, handled: list[CloudEvent]) -> None:
    """An instance of LocalBackend counts like a configured one."""
    publisher._backends["mine"] = LocalBackend({})
    try:
        assert backends.aliases() == ("redis", "mine")
        publish("a1", using=database)
        assert aliases(database) == ["redis"]
    finally:
        del publisher._backends["mine"]


def test_handlers_run_beside_the_only_backend_put_in_by_hand(
    database: str, handled: list[CloudEvent], settings: Settings, join: Join
) -> None:
    """Without OUTBOX_PUBLISHERS, a backend that is put in takes no handler its events."""
    del settings.OUTBOX_PUBLISHERS
    publisher._backends["mine"] = locmem.LocMemBackend({"alias": "mine"})
    try:
        assert backends.aliases() == ("mine", HANDLERS)
        publish("a1", using=database)
        for alias in backends.aliases():
            drain(join(alias))
    finally:
        del publisher._backends["mine"]
    assert len(handled) == len(locmem.outbox("mine")) == 1


def test_project_without_handlers_has_no_such_alias(handled: list[CloudEvent]) -> None:
    """Whoever only publishes has no further backend to look after."""
    assert backends.aliases() == ("redis", HANDLERS)
    event_registry.unregister("alias.orders")
    assert backends.aliases() == ("redis",)


def test_event_whose_handler_the_relay_lacks_is_no_success(
    database: str, handled: list[CloudEvent], join: Join
) -> None:
    """It is retried, and then a dead letter that says what to do; it never counts as handled."""
    publish("a1", using=database, max_retries=1)
    event_registry.unregister("alias.orders")
    event_registry.register("other", name="alias.orders")(handled.append)
    loop = join(HANDLERS)
    events = OutboxEvent.objects.using(database).filter(publisher_backend=HANDLERS)
    while events.exclude(status="failed").exists():
        drain(loop)
    assert "AppConfig.ready()" in events.get().last_error
