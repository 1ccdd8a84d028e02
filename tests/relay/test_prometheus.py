"""Metrics, scraped over HTTP and read by prometheus-client's own parser."""

from __future__ import annotations

import urllib.request
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from django_broadcaster import __version__
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Rejected, TransientError
from django_broadcaster.instrumentation import prometheus
from django_broadcaster.models import OutboxBackendState, OutboxEvent
from django_broadcaster.store import pause
from tests.support.backends import Script
from tests.support.clock import Clock
from tests.support.events import publish, publish_many
from tests.support.registered import only_handlers
from tests.support.waiting import wait_until
from tests.support.workers import Workers
from tools.launch import free_port

from .conftest import Join, drain

if TYPE_CHECKING:
    from pytest_django import Settings

Labels = frozenset[tuple[str, str]]


def parsed(text: str) -> dict[str, dict[Labels, float]]:
    """Return every sample by its name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = frozenset(sample.labels.items())
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def scrape(port: int) -> dict[str, dict[Labels, float]]:
    """Return what a relay serves; nothing while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return parsed(answer.read().decode())
    except OSError:
        return {}


def total(found: dict[str, dict[Labels, float]], name: str, **labels: str) -> float:
    """Return the sum of the samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for key, value in found.get(name, {}).items() if wanted <= key)


def test_a_relay_counts_what_it_does(
    database: str, scripted: Script, join: Join, settings: Settings
) -> None:
    """Attempts by outcome, and the time of each batch."""
    prometheus.install()
    before = parsed(prometheus.generate_latest(prometheus.REGISTRY).decode())
    scripted.fail("a1", TransientError("busy"))
    scripted.fail("b1", Rejected("never"))
    publish("a1", "a2", "b1", "c1", "d1", using=database)
    drain(join())
    after = parsed(prometheus.generate_latest(prometheus.REGISTRY).decode())
    counted = {
        outcome: total(after, "outbox_events_total", outcome=outcome)
        - total(before, "outbox_events_total", outcome=outcome)
        for outcome in prometheus.OUTCOMES
    }
    assert counted == {"published": 2, "retried": 1, "failed": 1, "held": 1, "expired": 0}
    assert total(after, "outbox_batch_seconds_count") > total(before, "outbox_batch_seconds_count")


def test_a_relay_times_its_handlers(routed: str, join: Join, settings: Settings) -> None:
    """The duration of each call, by the handler and whether it succeeded."""
    prometheus.install()
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }

    def handle(event: CloudEvent) -> None:
        if event.subject == "b1":
            raise ValueError("no")

    with only_handlers({"timed": handle}):
        before = parsed(prometheus.generate_latest(prometheus.REGISTRY).decode())
        publish("a1", "b1", "c1", using=routed)
        drain(join())
        after = parsed(prometheus.generate_latest(prometheus.REGISTRY).decode())
    name, labels = "outbox_handler_seconds_count", {"handler": "timed"}
    counted = {
        outcome: total(after, name, outcome=outcome, **labels)
        - total(before, name, outcome=outcome, **labels)
        for outcome in ("succeeded", "failed")
    }
    # After the failure, a1 was handled once more in another transaction.
    assert counted == {"succeeded": 3, "failed": 1}


def test_latency_is_a_histogram_from_due_to_delivered(
    database: str, scripted: Script, join: Join, clock: Clock
) -> None:
    """Each event of a measured batch is in the bucket of its wait, retried ones from the retry."""
    prometheus.install()
    name = "outbox_delivery_latency_seconds"

    def below(seconds: str) -> float:
        text = prometheus.generate_latest(prometheus.REGISTRY).decode()
        return total(parsed(text), f"{name}_bucket", le=seconds)

    before = {le: below(le) for le in ("300.0", "600.0", "+Inf")}
    scripted.fail("b1", TransientError("busy"), times=1)
    publish("a1", "b1", "c1", using=database)
    rows = OutboxEvent.objects.using(database)
    rows.filter(subject="c1").update(scheduled_at=timezone.now() - timedelta(seconds=400))
    loop = join()
    drain(loop)
    assert {le: below(le) - before[le] for le in before} == {"300.0": 1, "600.0": 2, "+Inf": 2}
    clock.advance(1)
    rows.filter(subject="b1").update(scheduled_at=timezone.now() - timedelta(seconds=500))
    drain(loop)
    assert below("600.0") - before["600.0"] == 3


def test_the_version_is_a_metric(routed: str) -> None:
    """A rollout can be followed."""
    found = parsed(prometheus.metrics(RequestFactory().get("/metrics")).content.decode())
    assert found["outbox_build_info"] == {frozenset({("version", __version__)}): 1}


def test_arrivals_are_counted_without_a_relay(routed: str) -> None:
    """What is published raises the counter, and what is purged does not lower it."""

    def arrivals() -> dict[Labels, float]:
        text = prometheus.metrics(RequestFactory().get("/metrics")).content.decode()
        return parsed(text).get("outbox_arrivals_total", {})

    publish("a1", using=routed)
    before = arrivals()[frozenset()]
    publish("b1", "c1", using=routed)
    assert arrivals() == {frozenset(): before + 2}
    OutboxEvent.objects.using(routed).all().delete()
    assert arrivals() == {}, "a counter of 0 would look like a reset"


def test_the_view_shows_the_outbox(routed: str, settings: Settings) -> None:
    """What waits, for how long, who delivers, and what is paused, without a relay."""
    publish("a1", "b1", using=routed)
    pause(OutboxBackendState.objects.using(routed).all(), "default")
    response = prometheus.metrics(RequestFactory().get("/metrics"))
    assert response["Content-Type"].startswith("text/plain")
    found = parsed(response.content.decode())
    assert total(found, "outbox_up") == 1
    assert total(found, "outbox_backlog", backend="default", status="pending") == 2
    assert total(found, "outbox_backlog", backend="default", status="failed") == 0
    assert total(found, "outbox_lag_seconds", backend="default") > 0
    assert total(found, "outbox_relays", backend="default") == 0
    assert total(found, "outbox_paused", backend="default") == 1
    assert total(found, "outbox_retry_age_seconds", backend="default") == 0
    assert found["outbox_circuit_open"] == {frozenset({("backend", "default")}): 0}


def test_what_fails_and_what_nobody_delivers_is_a_metric(routed: str) -> None:
    """The age of an event in retry, and the backlog of a backend that was taken out."""
    publish("a1", using=routed)
    rows = OutboxEvent.objects.using(routed)
    ago = timezone.now() - timedelta(hours=1)
    rows.update(status="retry", publisher_backend="audit", created_at=ago)
    found = parsed(prometheus.metrics(RequestFactory().get("/metrics")).content.decode())
    assert total(found, "outbox_retry_age_seconds", backend="audit") > 3599
    assert total(found, "outbox_backlog", backend="audit", status="retry") == 1
    assert ("backend", "audit") not in set().union(*found["outbox_relays"]), "none is expected"


def test_a_database_that_is_away_is_a_metric(
    committing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scrape does not fail: `outbox_up` says why the rest is missing."""
    connection = connections["default"]
    connection.close()
    if connection.vendor == "sqlite":
        pytest.skip("a file is never away")
    urls = ModuleType("urls")
    urls.urlpatterns = [path("metrics", prometheus.metrics)]  # type: ignore[attr-defined]
    with monkeypatch.context() as patch, override_settings(ROOT_URLCONF=urls):
        patch.setitem(connection.settings_dict, "PORT", str(free_port()))
        patch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
        found = parsed(Client().get("/metrics").content.decode())
    connection.close()
    assert total(found, "outbox_up") == 0
    assert total(found, "outbox_build_info") == 1
    assert "outbox_backlog" not in found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_relay_serves_what_all_of_its_processes_count(
    database: str, workers: Workers, processes: int
) -> None:
    """One port has the sum, whichever process delivered."""
    publish_many(300, database, keys=50)
    port = free_port()
    worker = workers.start(
        database,
        *("--database", database, "--batch-size", "20", "--metrics-port", str(port)),
        *("--processes", str(processes)),
        OUTBOX_PUBLISHERS={
            "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"},
        },
    )

    def has_all() -> bool:
        found = scrape(port)
        delivered = total(found, "outbox_events_total", outcome="published")
        return (delivered, total(found, "outbox_relays")) == (300, processes)

    wait_until(has_all, 30, "every event to be counted, and each process to be there")
    found = scrape(port)
    assert total(found, "outbox_backlog", status="pending") == 0
    assert total(found, "outbox_delivery_latency_seconds_count") > 0
    assert [name for name in found if name.endswith("_created")] == []
    worker.stop()
    assert worker.end() == 0


def test_counters_of_a_receiver_start_at_0(database: str, workers: Workers) -> None:
    """So the first malformed message is an increase, which an alert sees."""
    port = free_port()
    worker = workers.start(
        database,
        *("--database", database, "--metrics-port", str(port)),
        command="outbox_consumer",
        OUTBOX_PUBLISHERS={"handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
        OUTBOX_CONSUMERS={"orders": {"CONSUMER": "tests.support.memory_broker.MemoryConsumer"}},
    )
    wait_until(lambda: "outbox_received_total" in scrape(port), 30, "the counters to be served")
    counters = scrape(port)["outbox_received_total"]
    outcomes = [{*dict(labels).items()} for labels in counters]
    assert {("consumer", "orders"), ("outcome", "malformed")} in outcomes
    assert set(counters.values()) == {0}
    worker.stop()
    assert worker.end() == 0


def test_a_broker_that_is_away_is_a_metric(database: str, workers: Workers) -> None:
    """Also one that no relay has reached since it began."""
    publish_many(20, database, keys=20)
    port = free_port()
    away = {"port": free_port(), "connect_timeout": 0.5}
    redis = {"BACKEND": "django_broadcaster.backends.RedisStreamBackend", "OPTIONS": away}
    options = ("--database", database, "--metrics-port", str(port), "--processes", "2")
    worker = workers.start(database, *options, OUTBOX_PUBLISHERS={"default": redis})
    wait_until(lambda: total(scrape(port), "outbox_circuit_open") == 1, 30, "the circuit to open")
    counted = scrape(port)["outbox_events_total"]
    assert {outcome for labels in counted for outcome in labels} >= {("outcome", "failed")}
    assert set(counted.values()) == {0}, "an alert on the first dead letter needs the 0 before it"
    worker.stop()
    assert worker.end() == 0


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus-client, the option says what to install."""
    monkeypatch.setitem(
        __import__("sys").modules, "django_broadcaster.instrumentation.prometheus", None
    )
    with pytest.raises(CommandError, match=r"pip install 'django-broadcaster\[prometheus\]'"):
        call_command("outbox_worker", "--metrics-port", "9000")
