"""The places where a tracer goes along: it can break nothing, whatever it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster import tracing
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent, Rejected
from django_broadcaster.inbox import process
from django_broadcaster.models import InboxEvent, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import Handler
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.events import statuses

if TYPE_CHECKING:
    from pytest_django import Settings

STEPS = ("call", "enter", "value", "exit")


class Broken:
    """Fails at one step of each of its methods."""

    def __init__(self, step: str) -> None:
        self.step = step

    def publishing(self, *_: Any) -> AbstractContextManager[Any]:
        """Fail in one of its ways."""
        return self._go_along()

    sending = processing = publishing

    def _go_along(self) -> AbstractContextManager[Any]:
        self._fail("call")
        return self._manager()

    @contextmanager
    def _manager(self) -> Iterator[Callable[[Any], Any]]:
        self._fail("enter")
        try:
            yield self._value
        finally:
            self._fail("exit")

    def _value(self, argument: Any) -> Any:
        self._fail("value")
        return argument

    def _fail(self, step: str) -> None:
        if step == self.step:
            raise OSError(f"broken at {step}")


@pytest.fixture(params=STEPS)
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    """A tracer that fails, at each step."""
    tracing.install(Broken(request.param))
    yield str(request.param)
    tracing.install(None)


def test_a_broken_tracer_breaks_no_delivery(
    database: str, broken: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Events are published, one and many, and delivered; the log says what is wrong."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}
    }
    with caplog.at_level(logging.WARNING, "django_broadcaster.tracing"):
        publisher.publish_event("a", "/s", subject="one", using=database)
        publisher.publish_events(
            [{"event_type": "a", "source": "/s", "subject": "many"}], using=database
        )
        with DeliveryLoop(database, "default") as loop:
            loop.turn(10)
    assert statuses(database) == {"one": "published", "many": "published"}
    assert len([each for each in caplog.records if f"broken at {broken}" in each.message]) == 3


def test_a_broken_tracer_breaks_no_handler(database: str, broken: str) -> None:
    """A handler runs once, and what it changed commits."""
    ran: list[str] = []
    handler = Handler("handler", lambda event: ran.append(event.id), ("*",))
    event = CloudEvent(event_type="a", source="/s", id="1")
    assert process(event, handler, using=database) is True
    assert process(event, handler, using=database) is False
    assert ran == ["1"]
    assert InboxEvent.objects.using(database).count() == 1


def test_a_broken_tracer_hides_no_error(database: str, broken: str) -> None:
    """What goes wrong in a call or a handler is raised as it is, and is undone."""
    with pytest.raises(InvalidEvent, match="source"):
        publisher.publish_events([{"event_type": "a", "source": ""}], using=database)

    def refuse(event: CloudEvent) -> None:
        raise Rejected("never")

    with pytest.raises(Rejected, match="never"):
        process(
            CloudEvent(event_type="a", source="/s"), Handler("h", refuse, ("*",)), using=database
        )
    assert not OutboxEvent.objects.using(database).exists()
    assert not InboxEvent.objects.using(database).exists()
