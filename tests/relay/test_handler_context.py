"""What a handler sets for itself ends with it: language, time zone, context variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from django.urls import get_urlconf, set_urlconf
from django.utils import timezone, translation

from django_broadcaster.events import CloudEvent
from django_broadcaster.inbox import dispatch
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from tests.support.databases import ANY
from tests.support.waiting import wait_until
from tests.test_inbox import EVENT

from .conftest import working

if TYPE_CHECKING:
    from pytest_django import Settings

LOCAL = "django_broadcaster.backends.LocalBackend"
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

pytestmark = pytest.mark.parametrize("database", ANY, indirect=True)


def state() -> dict[str, Any]:
    """Return what a handler may have set in its thread."""
    return {
        "language": translation.get_language(),
        "time zone": timezone.get_current_timezone_name(),
        "context variable": tenant.get(),
        "urlconf": get_urlconf(),
    }


def leave(event: CloudEvent) -> None:
    """Set all of it, and leave it so."""
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    tenant.set("tenant-1")
    set_urlconf("tests.urls")


@pytest.fixture
def seen(settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """What a second handler finds, after one that has set everything."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    found: list[dict[str, Any]] = []
    with _registered("leave", leave), _registered("look", lambda event: found.append(state())):
        yield found


@contextmanager
def _registered(name: str, function: Callable[[CloudEvent], object]) -> Iterator[None]:
    event_registry.register("order.*", name=name)(function)
    try:
        yield
    finally:
        event_registry.unregister(name)


def test_handlers_of_a_relay_begin_with_its_own_context(
    routed: str, seen: list[dict[str, Any]]
) -> None:
    """Neither the next handler nor the next event's sees what a handler has set."""
    for _ in range(2):
        publisher.publish_event("order.placed", "/shop")
    with working(routed):
        wait_until(lambda: len(seen) == 2, 20, "the handlers")
    assert seen == [state()] * 2


def test_caller_of_process_pending_events_keeps_its_context(
    routed: str, seen: list[dict[str, Any]]
) -> None:
    """Handlers begin with the caller's context, and change nothing of it."""
    for _ in range(2):
        publisher.publish_event("order.placed", "/shop")
    with translation.override("fr"), timezone.override("Europe/Paris"):
        before = state()
        publisher.process_pending_events()
        assert state() == before
    assert seen == [before] * 2
    assert set(OutboxEvent.objects.values_list("status", flat=True)) == {"published"}


def test_consumer_keeps_its_context(routed: str, seen: list[dict[str, Any]]) -> None:
    """The same for a consumer that calls `dispatch`."""
    before = state()
    for number in range(2):
        dispatch(EVENT.replace(id=str(number)))
    assert state() == before
    assert seen == [before] * 2
