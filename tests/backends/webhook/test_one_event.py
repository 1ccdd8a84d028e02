"""One endpoint, and one event that it answers as if it were away, on every database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING

import pytest

from django_broadcaster.relay import doubts
from django_broadcaster.relay.loop import DeliveryLoop
from tests.relay.conftest import turn
from tests.support.events import publish, row
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until
from tests.support.webhook_server import Reply, Request, WebhookServer

from .test_relay import backend, names

if TYPE_CHECKING:
    from pytest_django import Settings

WAIT = 30.0
ANSWERS = ["no answer", "401", "403", "404", "429", "503"]


@pytest.fixture
def using(database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of the test; pauses are short, and failures in quick succession count."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_RETRY = {"initial": 0.01, "maximum": 0.01, "jitter": 0.0}
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.05}
    monkeypatch.setattr(doubts, "SPACING_SECONDS", 0.0)
    return database


@pytest.fixture
def never() -> Iterator[Event]:
    """Set at the end of the test, so that the server can stop."""
    event = Event()
    yield event
    event.set()


def answer_badly(server: WebhookServer, answer: str, name: str, never: Event) -> None:
    """Let the endpoint answer the event of that name so, and take all others."""

    def reply(request: Request) -> Reply:
        if json.loads(request.body)["subject"] != name:
            return Reply()
        return Reply(hold=never) if answer == "no answer" else Reply(int(answer))

    server.answer = reply


@pytest.mark.parametrize("answer", ANSWERS)
def test_one_event_and_its_key_stop_no_other(
    using: str, server: WebhookServer, settings: Settings, never: Event, answer: str
) -> None:
    """The others arrive, the event spends its retries and is given up, and its key goes on."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, timeout=0.2)
    answer_badly(server, answer, "a1", never)
    publish(*(f"a{number}" for number in range(1, 15)), using=using, max_retries=1)
    with DeliveryLoop(using, "default") as loop:
        turn(loop)
        assert row("a1", using).retry_count == 0, "nothing gets through yet"
        others = [f"{key}1" for key in "bcdefgh"]
        publish(*others, using=using)

        def arrived() -> bool:
            turn(loop)
            return set(others) <= set(names(server))

        wait_until(arrived, WAIT, "the events of other keys")
        numbers = iter(range(10_000))

        def is_given_up() -> bool:
            publish(f"x{next(numbers)}", using=using)
            turn(loop)
            return row("a1", using).status == "failed" and "a14" in names(server)

        wait_until(is_given_up, WAIT, "the dead letter, and its key")
    assert row("a1", using).retry_count == 1
    arrived_of_key = [name for name in dict.fromkeys(names(server)) if name.startswith("a")]
    assert arrived_of_key == [f"a{number}" for number in range(1, 15)]


@pytest.mark.parametrize("answer", ["404", "503"])
def test_one_event_of_many_keys_holds_up_nobody(
    using: str, server: WebhookServer, settings: Settings, never: Event, answer: str
) -> None:
    """A backlog goes out within a few batches, although one event looks like an outage."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url)
    answer_badly(server, answer, "-13", never)
    count = 400
    publish(*(f"-{number}" for number in range(count)), using=using)
    with DeliveryLoop(using, "default") as loop:
        for _ in range(20):
            turn(loop, limit=count)
            if len(set(names(server))) == count:
                break
    assert len(set(names(server))) == count
