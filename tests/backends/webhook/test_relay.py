"""From a publish call to an endpoint, by the relay, on every database."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from standardwebhooks.webhooks import Webhook

from django_broadcaster import endpoints as endpoints_module
from django_broadcaster.backends import pauses as pauses_module
from django_broadcaster.models import OutboxAttempt, OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from tests.relay.conftest import drain, turn, working
from tests.support.events import publish, row, statuses
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.support.webhook_server import Reply, Request, WebhookServer

from .helpers import HMAC

if TYPE_CHECKING:
    from pytest_django import Settings

WAIT = 20.0  # seconds, at the most


@pytest.fixture
def using(database: str, settings: Settings) -> str:
    """The database of the test, where the table of endpoints is, too."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_RETRY = {"initial": 0.01, "factor": 2.0, "jitter": 0.0}
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.05}
    return database


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the table each time, and leave nobody alone for long."""
    monkeypatch.setattr(endpoints_module, "REREAD_SECONDS", 0.0)
    monkeypatch.setattr(pauses_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pauses_module, "LONGEST_PAUSE", 0.02)


def backend(**options: Any) -> dict[str, Any]:
    """OUTBOX_PUBLISHERS with one webhook backend."""
    path = "django_broadcaster.backends.WebhookBackend"
    return {"default": {"BACKEND": path, "OPTIONS": {"allow_private": True, **options}}}


def names(server: WebhookServer) -> list[str]:
    """The names of the events that came, in order."""
    return [json.loads(request.body)["subject"] for request in server.requests]


@pytest.fixture
def refusing(server: WebhookServer) -> dict[str, int]:
    """Events that are refused: their names, and the status of the answer."""
    refused: dict[str, int] = {}

    def answer(request: Request) -> Reply:
        return Reply(refused.get(json.loads(request.body)["subject"], 204))

    server.answer = answer
    return refused


def test_what_commits_arrives_and_nothing_else(
    using: str, server: WebhookServer, settings: Settings
) -> None:
    """A worker delivers the events of committed transactions, signed and in order per key."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, secrets=[HMAC])
    with working(using):
        publish("a1", "b1", "-1", using=using)
        with transaction.atomic(using=using):
            publish("a2", using=using)
            transaction.set_rollback(True, using=using)
        publish("a3", "b2", using=using)
        wait_until(lambda: len(server.requests) == 5, WAIT, "all events to arrive")
        wait_until(lambda: set(statuses(using).values()) == {"published"}, WAIT, "the settle")
    assert sorted(names(server)) == ["-1", "a1", "a3", "b1", "b2"]
    for key in "ab":
        own = [name for name in names(server) if name.startswith(key)]
        assert own == sorted(own)
    for request in server.requests:
        Webhook(HMAC).verify(request.body, request.headers)


def test_outage_of_the_only_endpoint_costs_nothing(
    using: str, server: WebhookServer, settings: Settings
) -> None:
    """While it is away everything waits without spending a retry, and then goes on by itself."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url)
    with DeliveryLoop(using, "default") as loop:
        with server.away():
            publish("a1", "a2", "b1", using=using, max_retries=0)
            for _ in range(5):
                wait_until(lambda: loop.circuit.seconds_left() == 0, WAIT, "the next probe")
                turn(loop)
            assert set(statuses(using).values()) == {"pending"}
            assert row("a1", using).retry_count == 0
        wait_until(lambda: loop.circuit.seconds_left() == 0, WAIT, "the next probe")
        drain(loop)
    assert sorted(names(server)) == ["a1", "a2", "b1"]


def test_outage_of_one_of_many_costs_nothing(
    using: str, server: WebhookServer, other: WebhookServer, settings: Settings
) -> None:
    """Its events wait without spending a retry, the others arrive, and the circuit stays closed."""
    settings.OUTBOX_PUBLISHERS = backend(event_urls=True, allow_http=True)
    with DeliveryLoop(using, "default") as loop:
        with server.away():
            for name, endpoint in (("a1", server), ("a2", other), ("b1", other)):
                config = {"url": endpoint.url}
                publish(name, using=using, max_retries=0, publisher_config=config)
            for _ in range(5):
                turn(loop)
                OutboxEvent.objects.using(using).hasten()
            assert loop.circuit.is_closed
            assert names(other) == ["b1"], "an event of the key of one that waits, waits"
            assert row("a1", using).retry_count == 0

        def arrived() -> bool:
            turn(loop)
            return names(other) == ["b1", "a2"]

        wait_until(arrived, WAIT, "the events that waited")
    assert names(server) == ["a1"]


def test_events_that_wait_for_one_of_many_are_left_alone_until_it_is_back(
    using: str, server: WebhookServer, settings: Settings
) -> None:
    """What was not sent is no attempt and no row is written at each pause; then all arrive."""
    settings.OUTBOX_PUBLISHERS = backend(event_urls=True, allow_http=True, max_in_flight=8)
    sent = [f"-{number}" for number in range(60)]
    events = OutboxEvent.objects.using(using)
    attempts = OutboxAttempt.objects.using(using)
    with DeliveryLoop(using, "default") as loop:
        with server.away():
            publish(*sent, using=using, publisher_config={"url": server.url})
            turn(loop)
            tried = set(attempts.values_list("row", flat=True))
            assert 0 < len(tried) <= 8
            waits = dict(events.exclude(pk__in=tried).values_list("pk", "scheduled_at"))
            before = attempts.count()

            def was_tried_again() -> bool:
                turn(loop)
                return attempts.count() >= before + 8

            wait_until(was_tried_again, WAIT, "attempts after several pauses")
            now = dict(events.filter(pk__in=waits).values_list("pk", "scheduled_at"))
            assert sum(now[pk] == moment for pk, moment in waits.items()) >= len(waits) - 4
            assert len(set(attempts.values_list("row", flat=True))) <= 12
            assert not events.filter(retry_count__gt=0).exists()

        def arrived() -> bool:
            turn(loop)
            return len(server.requests) == len(sent)

        wait_until(arrived, WAIT, "all events once the endpoint is back")
    assert sorted(names(server)) == sorted(sent)


def test_retry_after_is_waited_for(using: str, server: WebhookServer, settings: Settings) -> None:
    """An event is not tried again before its endpoint wants it to be."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, event_urls=True)
    server.answer = lambda request: Reply(500, {"Retry-After": "120"})
    (event,) = publish("a1", using=using)
    with DeliveryLoop(using, "default") as loop:
        drain(loop)
    event.refresh_from_db(using=using)
    assert event.status == "retry"
    assert 110 < (event.scheduled_at - event.created_at).total_seconds() < 140


def test_gone_makes_dead_letters_that_can_be_replayed(
    using: str, server: WebhookServer, settings: Settings
) -> None:
    """Its events are given up at once; after it is enabled, a replay delivers them, in order."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, event_urls=True)
    server.answer = lambda request: Reply(410)
    publish("a1", "a2", "a3", using=using)
    with DeliveryLoop(using, "default") as loop:
        drain(loop)
        assert len(server.requests) == 1
        assert set(statuses(using).values()) == {"failed"}
        assert "410 Gone" in row("a3", using).last_error
        server.answer = lambda request: Reply()
        OutboxWebhookEndpoint.objects.using(using).all().delete()
        assert OutboxEvent.objects.using(using).dead_letters().replay() == 3
        drain(loop)
    assert names(server)[1:] == ["a1", "a2", "a3"]


def test_response_and_time_are_in_the_stored_error(
    using: str, server: WebhookServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The event, its attempt and its endpoint have them; no line of the log does."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, event_urls=True)
    server.answer = lambda request: Reply(422, body=b'{"error":\n  "ledger is locked"}')
    publish("a", using=using)
    with caplog.at_level(logging.DEBUG), DeliveryLoop(using, "default") as loop:
        drain(loop)

    expected = r'answered 422 Unprocessable \w+\nTook \d+\.\d\d s\. Response: {"error": "ledger is'
    event = OutboxEvent.objects.using(using).get()
    assert re.search(expected, event.last_error)
    assert re.search(expected, OutboxAttempt.objects.using(using).get().error)
    assert "dead-lettered" in caplog.text
    assert "ledger" not in caplog.text


def test_endpoint_that_is_disabled_has_its_response(
    using: str, server: WebhookServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The row has the last response, which later events and the log do not repeat."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, event_urls=True)
    server.answer = lambda request: Reply(410, body=b'{"error":\n  "ledger is locked"}')
    publish("a1", "a2", using=using)
    with caplog.at_level(logging.DEBUG), DeliveryLoop(using, "default") as loop:
        drain(loop)
        publish("b1", using=using)
        drain(loop)

    assert "ledger is locked" in OutboxWebhookEndpoint.objects.using(using).get().last_error
    errors = OutboxEvent.objects.using(using).order_by("id").values_list("last_error", flat=True)
    assert ["ledger is locked" in error for error in errors] == [True, False, False]
    assert "Disabled webhook endpoint" in caplog.text
    assert "ledger" not in caplog.text


def test_refused_event_is_a_dead_letter_and_its_key_goes_on(
    using: str, server: WebhookServer, settings: Settings, refusing: dict[str, int]
) -> None:
    """413 gives up one event; those behind it are delivered in order."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url)
    refusing["a2"] = 413
    publish("a1", "a2", "a3", "b1", using=using)
    with DeliveryLoop(using, "default") as loop:
        drain(loop)
    assert statuses(using) == {
        "a1": "published",
        "a2": "failed",
        "a3": "published",
        "b1": "published",
    }
    assert [name for name in names(server) if name.startswith("a")] == ["a1", "a2", "a3"]


def test_process_pending_events_delivers_in_the_callers_process(
    using: str, server: WebhookServer, settings: Settings
) -> None:
    """No relay has to run, and a second call has nothing to do."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url)
    publish("a1", "a2", using=using)
    assert publisher.process_pending_events() == 2
    assert publisher.process_pending_events() == 0
    assert names(server) == ["a1", "a2"]
