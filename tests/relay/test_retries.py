"""Retries by the default policy ride out an outage: no dead letters, no operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from tests.support.events import publish, statuses
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase
from tests.support.webhook_server import Reply, Request, webhook_server

from .conftest import Join, drain

if TYPE_CHECKING:
    from pytest_django import Settings

OUTAGE = 600.0  # seconds
NAMES = ("a1", "a2", "b1", "-1")
BACKENDS = "django_broadcaster.backends"


class MailServer:
    """What events need; fails during an outage of ten minutes of simulated time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.attempts = 0
        self.received: list[str] = []

    def take(self, name: str) -> bool:
        """Take a message; return False during the outage."""
        self.attempts += 1
        if self.seconds >= OUTAGE:
            self.received.append(name)
        return self.seconds >= OUTAGE


@pytest.fixture
def mail_server(database: str, settings: Settings) -> MailServer:
    """A server at the begin of its outage, in a project that leaves the retries as they are."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_ROUTES = {}
    del settings.OUTBOX_RETRY
    return MailServer()


@pytest.fixture(params=["handler", "endpoint"])
def destination(
    request: pytest.FixtureRequest, mail_server: MailServer, settings: Settings
) -> Iterator[MailServer]:
    """A handler that sends by the server, or an endpoint that answers 500 without it."""
    if request.param == "endpoint":
        with webhook_server() as server:
            server.answer = lambda call: _answer(mail_server, call)
            options = {"url": server.url, "allow_private": True}
            backend = {"BACKEND": f"{BACKENDS}.WebhookBackend", "OPTIONS": options}
            settings.OUTBOX_PUBLISHERS = {"default": backend}
            yield mail_server
        return
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": f"{BACKENDS}.LocalBackend"}}

    def send(event: CloudEvent) -> None:
        if not mail_server.take(event.subject or ""):
            raise ConnectionRefusedError("the mail server is down")

    with only_handlers({"retries.send": send}):
        yield mail_server


def _answer(mail_server: MailServer, request: Request) -> Reply:
    name = CloudEvent.from_json(request.body).subject or ""
    return Reply(204 if mail_server.take(name) else 500)


def let_time_pass(database: str, mail_server: MailServer) -> None:
    """Let the time pass until the next retry is due."""
    waiting = OutboxEvent.objects.using(database).filter(status="retry")
    due = waiting.order_by("scheduled_at").first()
    if due is not None:
        mail_server.seconds += max(0.0, (due.scheduled_at - timezone.now()).total_seconds())
        waiting.filter(pk=due.pk).hasten()


def test_outage_of_ten_minutes_costs_no_dead_letter(
    database: str, destination: MailServer, join: Join
) -> None:
    """Events that were published at its begin are delivered after it, in order, by themselves."""
    publish(*NAMES, using=database)
    loop = join()
    for _ in range(50):
        drain(loop)
        if set(statuses(database).values()) == {"published"}:
            break
        assert "failed" not in statuses(database).values()
        let_time_pass(database, destination)
    assert set(statuses(database).values()) == {"published"}
    assert sorted(destination.received) == sorted(NAMES)
    assert destination.received.index("a1") < destination.received.index("a2")
    assert destination.seconds >= OUTAGE
    assert destination.attempts <= 4 * len(NAMES)
