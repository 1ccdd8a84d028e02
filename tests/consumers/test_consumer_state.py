"""An operator sees consumers by one judgement: in commands, health checks and metrics."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from django_broadcaster.instrumentation.health import outbox_health
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.store import ConsumerState, Level, consumer_judgements

CONSUMER = "tests.support.memory_broker.MemoryConsumer"


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    """One consumer, for one local backend."""
    settings.OUTBOX_PUBLISHERS = {
        "handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    settings.OUTBOX_CONSUMERS = {"orders": {"CONSUMER": CONSUMER}}


def receiver(database: str, *, age: float = 0, **values: Any) -> None:
    """Insert a receiver whose last heartbeat was `age` seconds ago."""
    now = timezone.now()
    beat = now - timedelta(seconds=age)
    OutboxReceiver.objects.using(database).create(
        name="web-1:7", consumer="orders", started_at=now, heartbeat_at=beat, **values
    )


def ago(seconds: float) -> Any:
    """Return a moment."""
    return timezone.now() - timedelta(seconds=seconds)


READING = {"reads": "orders", "lag": 0, "received": 7}
SCENES = [
    ([], ConsumerState.NO_RECEIVER, Level.RED, "No receiver is running"),
    ([{**READING, "age": 60}], ConsumerState.NO_RECEIVER, Level.RED, "No receiver is running"),
    (
        [{"reads": "orders", "error": "connection refused", "unavailable_since": ago(90)}],
        ConsumerState.UNAVAILABLE,
        Level.RED,
        "connection refused",
    ),
    (
        [{**READING, "lag": 5, "lag_grows_since": ago(30)}],
        ConsumerState.NOT_READING,
        Level.RED,
        "Nothing received for",
    ),
    (
        [{**READING, "error": "no progress for 130 s: receiving"}],
        ConsumerState.NOT_READING,
        Level.RED,
        "no progress for 130 s",
    ),
    (
        [{"stands_by": True}, {"stands_by": True}],
        ConsumerState.NOT_READING,
        Level.RED,
        "All receivers stand by",
    ),
    ([{**READING, "malformed": 2}], ConsumerState.MALFORMED, Level.AMBER, "2 messages became"),
    ([{**READING, "lag": 5}], ConsumerState.BEHIND, Level.BLUE, ""),
    ([READING, {"lag": None, "stands_by": True}], ConsumerState.UP_TO_DATE, Level.GREEN, ""),
]


@pytest.mark.parametrize(("rows", "state", "level", "reason"), SCENES)
def test_state_of_a_consumer_says_what_is_wrong(
    database: str, rows: list[dict[str, Any]], state: ConsumerState, level: Level, reason: str
) -> None:
    """The worst state that applies, with its reason; the health fails where it is red."""
    for row in rows:
        receiver(database, **row)
    (found,) = consumer_judgements(database, ["orders"])
    assert (found.state, found.level) == (state, level)
    assert reason in found.text
    health = outbox_health(database, [], receiving=["orders"])
    failing = [check.name for check in health.failing]
    assert failing == (["receivers"] if level == Level.RED else [])
    assert "connection refused" not in str(health.as_dict())


def test_commands_show_consumers(database: str) -> None:
    """`outbox_status` has a row and the reason, and `outbox_health` a check."""
    receiver(database, **READING, malformed=2)
    out = StringIO()
    call_command("outbox_status", "--database", database, stdout=out)
    assert "malformed messages" in out.getvalue()
    assert "consumer orders: 2 messages became dead letters" in out.getvalue()
    out = StringIO()
    call_command("outbox_status", "--json", "--database", database, stdout=out)
    (entry,) = [each for each in json.loads(out.getvalue()) if "consumer" in each]
    assert (entry["consumer"], entry["state"], entry["received"]) == (
        "orders",
        "malformed messages",
        7,
    )
    out = StringIO()
    call_command("outbox_health", "--consumer", "orders", "--database", database, stdout=out)
    assert "consumer orders" in out.getvalue()


def test_metrics_show_consumers(database: str) -> None:
    """Lag, receivers and state are gauges with the label `consumer`."""
    from django_broadcaster.instrumentation.prometheus import OverviewCollector

    receiver(database, **{**READING, "lag": 5})
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in OverviewCollector(database).collect()
        for sample in family.samples
    }
    assert samples["outbox_consumer_lag", "orders"] == 5
    assert samples["outbox_receivers", "orders"] == 1
    assert samples["outbox_consumer_state", "orders", "behind"] == 1
