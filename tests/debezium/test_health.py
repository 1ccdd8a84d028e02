"""The health, the status and the metrics of a backend whose events Kafka Connect takes."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from django_broadcaster.backends.handler import backends
from django_broadcaster.dashboard.state import state
from django_broadcaster.instrumentation.gauges import FIGURES, current_judgements, labelled
from django_broadcaster.instrumentation.health import outbox_health
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.purging import Purge
from django_broadcaster.store import slots
from tests.debezium.conftest import use
from tests.support.own_servers import OwnDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.usefixtures("debezium")


def status(*arguments: str) -> str:
    """Return what `outbox_status` prints."""
    printed = StringIO()
    call_command("outbox_status", "--database", "own", *arguments, stdout=printed)
    return printed.getvalue()


def slot_check() -> tuple[bool, str]:
    """Return whether the check of the slot is passed, and its detail."""
    (check,) = [check for check in outbox_health("own").checks if check.name == "slot"]
    return check.ok, check.detail


def test_a_slot_that_nobody_reads_is_red_everywhere(debezium: str) -> None:
    """In the health, the status and the dashboard, each with the slot's lag."""
    publisher.publish_event("order.placed", "/shop", "x" * 5000, using="own")
    ok, detail = slot_check()
    assert (ok, detail) == (False, f"Kafka Connect does not read the replication slot {debezium}")
    assert not outbox_health("own").is_ready
    assert "slot failing" in status()
    assert detail in status()
    (shown,) = json.loads(status("--json"))
    assert (shown["state"], shown["level"]) == ("slot failing", "red")
    assert shown["slot_lag_bytes"] >= 5000
    (card,) = state("own", ["default"])["backends"]
    assert card["status"]["text"] == "slot failing"
    assert card["slot_lag"].endswith(" kB")


def test_a_slot_that_does_not_exist_is_red(postgres: OwnDatabase, debezium: str) -> None:
    """Then events are refused, and a relay purges none: they may have to be replayed."""
    publisher.publish_event("order.placed", "/shop", using="own")
    old = timezone.now() - timedelta(days=400)
    OutboxEvent.objects.using("own").update(created_at=old, scheduled_at=old)
    postgres.execute(f"SELECT pg_drop_replication_slot('{debezium}')")
    ok, detail = slot_check()
    assert (ok, detail) == (
        False,
        f"The replication slot {debezium} does not exist; events are refused",
    )
    Purge("own", "default").run()
    assert OutboxEvent.objects.using("own").count() == 1


def test_retention_purges_what_the_slot_keeps() -> None:
    """An event counts as delivered since its commit: the WAL has it until Kafka does."""
    publisher.publish_event("order.placed", "/shop", using="own")
    old = timezone.now() - timedelta(days=400)
    OutboxEvent.objects.using("own").update(created_at=old, scheduled_at=old)
    publisher.publish_event("order.placed", "/shop", using="own")
    Purge("own", "default").run()
    assert OutboxEvent.objects.using("own").count() == 1


def test_metrics_have_the_slot() -> None:
    """Its lag, what it retains, and whether it is read; other backends have no such gauge."""

    def gauges() -> dict[str, Any]:
        (judgement, *_) = current_judgements("own") or []
        return {
            figure.name: value
            for figure in FIGURES
            if figure.name.startswith("outbox_slot_")
            for _, value in labelled(figure, judgement)
        }

    publisher.publish_event("order.placed", "/shop", "x" * 5000, using="own")
    found = gauges()
    assert found["outbox_slot_lag_bytes"] >= 5000
    assert found["outbox_slot_retained_bytes"] >= found["outbox_slot_lag_bytes"]
    assert found["outbox_slot_active"] == 0


def test_outboxes_of_other_databases_have_no_slot(database: str) -> None:
    """Their status, health and retention work; another PostgreSQL lacks the slot."""
    call_command("outbox_status", "--database", database, stdout=StringIO())
    outbox_health(database)
    Purge(database, "default").run()
    found = slots(database, backends.slots())
    assert bool(found) == (connections[database].vendor == "postgresql")


def test_other_backends_have_no_slot(settings: Settings) -> None:
    """No query asks for one, and nothing shows one."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}
    }
    backends.reset()
    assert backends.slots() == {}
    assert "slot" not in status()
    assert "slot" not in {check.name for check in outbox_health("own").checks}
    use(settings)
    assert backends.slots() == {"default": ("broadcaster_default", 2**30)}
