"""An MQTT server that ends the connection over one event, on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from django_broadcaster.relay import doubts
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.events import publish, row
from tests.support.scripted_mqtt import Publish, ScriptedMQTT, puback
from tests.support.waiting import wait_until

from .conftest import turn

if TYPE_CHECKING:
    from pytest_django import Settings

WAIT = 30.0


def name_of(message: Publish) -> str:
    """The name of the event of a message."""
    return message.payload.partition(b'"subject":"')[2].partition(b'"')[0].decode()


def test_an_event_over_which_the_server_hangs_up_stops_no_other(
    database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other keys arrive, and it spends its retries; the events behind it follow in order."""
    monkeypatch.setattr(doubts, "SPACING_SECONDS", 0.0)
    settings.OUTBOX_RETRY = {"initial": 0.01, "maximum": 0.01, "jitter": 0.0}
    settings.OUTBOX_CIRCUIT = {"initial": 0.01, "maximum": 0.05}

    def answer(message: Publish) -> bytes | None:
        return None if name_of(message) == "a1" else puback(message)

    with ScriptedMQTT(answer) as server:
        path = "django_broadcaster.backends.MQTTBackend"
        options = {"host": "127.0.0.1", "port": server.port}
        settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": path, "OPTIONS": options}}
        publish(*(f"a{number}" for number in range(1, 15)), using=database, max_retries=1)
        others = ["b1", "c1", "b2", "d1"]
        with DeliveryLoop(database, "default") as loop:
            turn(loop)
            publish(*others, using=database)

            def arrived() -> bool:
                turn(loop)
                return set(others) <= set(map(name_of, server.received))

            wait_until(arrived, WAIT, "the events of other keys")
            numbers = iter(range(10_000))

            def is_given_up() -> bool:
                publish(f"x{next(numbers)}", using=database)
                turn(loop)
                return row("a14", database).status == "published"

            wait_until(is_given_up, WAIT, "the dead letter, and its key")
        assert row("a1", database).status == "failed"
        names = [name for name in dict.fromkeys(map(name_of, server.received)) if name[0] == "a"]
    assert names == [f"a{number}" for number in range(1, 15)]
