"""How many retries an event gets: by the call, its handlers, its backend, or all backends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from tests.support.databases import ANY
from tests.support.registered import only_handlers

if TYPE_CHECKING:
    from pytest_django import Settings

LOCAL = "django_broadcaster.backends.LocalBackend"
LOCMEM = "django_broadcaster.backends.LocMemBackend"

WAYS = ("one", "many", "cloud event", "model")


def handle(event: CloudEvent) -> None:
    """Process an event."""


@pytest.fixture
def own_handlers(settings: Settings) -> Iterator[None]:
    """No handlers but those of the test; a backend that runs them, and two that do not."""
    settings.OUTBOX_PUBLISHERS = {
        "local": {"BACKEND": LOCAL},
        "broker": {"BACKEND": LOCMEM},
        "patient": {"BACKEND": LOCMEM, "RETRY": {"max_retries": 20}},
    }
    settings.OUTBOX_ROUTES = {}
    with only_handlers():
        yield


def retries(database: str, way: str, backend: str, **own: int) -> int:
    """Publish an event in one of the ways; return the retries of its row."""
    event = CloudEvent("order.placed", "/shop")
    if way == "one":
        publisher.publish_event("order.placed", "/shop", backend=backend, using=database, **own)  # type: ignore[arg-type]
    elif way == "many":
        publisher.publish_events([event], backend=backend, using=database, **own)  # type: ignore[arg-type]
    elif way == "cloud event":
        publisher.publish_cloud_event(event, backend=backend, using=database, **own)  # type: ignore[arg-type]
    else:
        OutboxEvent.objects.using(database).create(
            event_type="order.placed", source="/shop", publisher_backend=backend, **own
        )
    found = OutboxEvent.objects.using(database).order_by("-id").values_list("max_retries")
    return int(found[0][0])


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("way", WAYS)
def test_closest_setting_of_max_retries_wins(database: str, settings: Settings, way: str) -> None:
    """The call wins over the handler, that over RETRY, OUTBOX_RETRY and OUTBOX_MAX_RETRIES."""
    assert retries(database, way, "broker") == 3
    settings.OUTBOX_MAX_RETRIES = 4
    assert retries(database, way, "broker") == 4
    settings.OUTBOX_RETRY = {"max_retries": 7}
    assert retries(database, way, "broker") == retries(database, way, "local") == 7
    assert retries(database, way, "patient") == 20
    event_registry.register("order.*", max_retries=11)(handle)
    assert retries(database, way, "local") == 11
    assert retries(database, way, "patient") == 20  # does not run handlers
    for backend in ("local", "broker", "patient"):
        assert retries(database, way, backend, max_retries=0) == 0


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("database", ANY, indirect=True)
def test_event_with_several_handlers_gets_the_most_retries(database: str) -> None:
    """The largest number applies; a handler without one counts with that of the settings."""
    event_registry.register("order.*", name="hasty", max_retries=0)(lambda event: None)
    assert retries(database, "one", "local") == 0
    event_registry.register("invoice.*", name="other", max_retries=50)(lambda event: None)
    assert retries(database, "one", "local") == 0
    event_registry.register("order.*", name="plain")(lambda event: None)
    assert retries(database, "one", "local") == 3
    event_registry.register("order.placed", name="patient", max_retries=9)(lambda event: None)
    assert retries(database, "one", "local") == 9


@pytest.mark.parametrize("wrong", [-1, 32_768, 1.5, "3", True])
def test_handler_with_a_wrong_number_of_retries_is_refused(wrong: object) -> None:
    """`max_retries` of a handler is a whole number that the column can hold."""
    with pytest.raises(ValueError, match="max_retries: must be a whole number of retries"):
        event_registry.register("order.placed", max_retries=wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("own_handlers")
def test_handler_is_registered_with_one_number_of_retries() -> None:
    """For another pattern, the same function cannot have another `max_retries`."""
    event_registry.register("order.placed", max_retries=5)(handle)
    event_registry.register("order.paid", max_retries=5)(handle)
    with pytest.raises(ValueError, match="max_retries: must be 5, as in another registration"):
        event_registry.register("order.shipped")(handle)


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("database", ANY, indirect=True)
def test_wrong_number_in_a_policy_is_an_error_of_the_call(
    database: str, settings: Settings
) -> None:
    """A process that ignored the system checks writes no such row."""
    settings.OUTBOX_RETRY = {"max_retries": -1}
    with pytest.raises(InvalidEvent, match="max_retries"):
        retries(database, "one", "broker")
