"""Metrics for Prometheus: counters of a relay, and gauges of the outbox.

=============================== ================ ================================================
metric                          labels           meaning
=============================== ================ ================================================
outbox_events_total             backend, outcome events by outcome: published, retried, failed,
                                                 expired; held (waits for an event of its key)
outbox_batch_seconds            backend          histogram: time from fetch to settle of a batch
outbox_delivery_latency_seconds backend          histogram: time from due to delivered
outbox_handler_seconds          handler, outcome histogram: time of a call of a handler; outcome:
                                                 succeeded, failed
outbox_received_total           consumer,        messages that were received: new, duplicate,
                                outcome          malformed
outbox_receive_seconds          consumer         histogram: time from receive to acknowledge
outbox_build_info               version          always 1
outbox_arrivals_total           (none)           the id of the newest event; its rate is that at
                                                 which events are created
outbox_up                       (none)           1 if the database is available, for the gauges
                                                 below
outbox_backlog                  backend, status  undelivered events and dead letters, up to
                                                 100,000
outbox_lag_seconds              backend          age of the oldest due event
outbox_retry_age_seconds        backend          age of the oldest event in retry, since its
                                                 publication
outbox_relays                   backend          relays that hold a lease
outbox_free_partitions          backend          partitions without a relay
outbox_circuit_open             backend          1 while a circuit breaker is open
outbox_paused                   backend          1 while the backend is paused
outbox_slot_lag_bytes           backend          WAL that Kafka Connect has not confirmed
outbox_slot_retained_bytes      backend          WAL that the server keeps for the replication slot
outbox_slot_active              backend          1 while Kafka Connect reads the replication slot
outbox_backend_state            backend, state   1 for the state of the backend, 0 for the others
outbox_consumer_lag             consumer         messages that wait at the broker
outbox_receivers                consumer         receivers with a recent heartbeat
outbox_consumer_state           consumer, state  1 for the state of the consumer, 0 for the others
=============================== ================ ================================================

A relay with `outbox_worker --metrics-port` has the first six. The gauges come from the database,
so both the port of a relay and the view `metrics` of an application have them.

The rate of arrivals is of the whole outbox: an event for two backends counts twice, and ids
that the database left out count as well, such as those of transactions that were rolled back.

The latency is a sample: a relay measures one batch a second of each backend, with all events that
it delivered. Take quantiles and ratios from it; `outbox_events_total` has the throughput. A
scheduled event is due at `scheduled_at`, and a retried one when its retry is due.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from django_broadcaster import __version__
from django_broadcaster.registry import Handler
from django_broadcaster.signals import (
    batch_settled,
    handler_called,
    messages_received,
    relay_started,
)

from . import latency
from .gauges import FIGURES, UP, current_judgements, labelled, last_id

OUTCOMES = ("published", "retried", "failed", "held", "expired")
RECEIVED_OUTCOMES = ("new", "duplicate", "malformed")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REGISTRY = CollectorRegistry()
"""The counters of this process."""

EVENTS = Counter("outbox_events", "Attempts by outcome.", ("backend", "outcome"), registry=REGISTRY)
SECONDS = Histogram(
    "outbox_batch_seconds",
    "Time from fetch to settle of a batch.",
    ("backend",),
    buckets=BUCKETS,
    registry=REGISTRY,
)
LATENCIES = Histogram(
    "outbox_delivery_latency_seconds",
    latency.MEANING,
    ("backend",),
    buckets=latency.BUCKETS,
    registry=REGISTRY,
)

HANDLERS = Histogram(
    "outbox_handler_seconds",
    "Time of a call of a handler.",
    ("handler", "outcome"),
    buckets=BUCKETS,
    registry=REGISTRY,
)


RECEIVED = Counter(
    "outbox_received", "Messages that were received.", ("consumer", "outcome"), registry=REGISTRY
)
RECEIVE_SECONDS = Histogram(
    "outbox_receive_seconds",
    "Time from receive to acknowledge.",
    ("consumer",),
    buckets=BUCKETS,
    registry=REGISTRY,
)


class OverviewCollector(Collector):
    """Queries the database at each scrape; yields `outbox_up 0` and no gauges if that fails."""

    def __init__(self, using: str | None = None) -> None:
        self._using = using

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not query the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of all backends and consumers."""
        build = GaugeMetricFamily(
            "outbox_build_info", "Always 1; the label has the version.", labels=("version",)
        )
        build.add_metric([__version__], 1)
        yield build
        found = current_judgements(self._using)
        yield GaugeMetricFamily("outbox_up", UP, value=int(found is not None))
        if found is None:
            return
        newest = last_id(self._using)
        if newest is not None:  # a purge must not look like a reset
            yield CounterMetricFamily("outbox_arrivals", "The id of the newest event.", newest)
        for figure in FIGURES:
            labels = (figure.subject, *figure.labels)
            family = GaugeMetricFamily(figure.name, figure.meaning, labels=labels)
            for judgement in found:
                for values, number in labelled(figure, judgement):
                    family.add_metric([values[label] for label in labels], number)
            yield family


_installing = Lock()


def install() -> None:
    """Count the events and batches of this process; repeated calls have no effect."""
    with _installing:
        relay_started.connect(_begin, dispatch_uid="django_broadcaster.prometheus")
        batch_settled.connect(_count, dispatch_uid="django_broadcaster.prometheus")
        messages_received.connect(_count_received, dispatch_uid="django_broadcaster.prometheus")
        handler_called.connect(_time, dispatch_uid="django_broadcaster.prometheus")


def _begin(*, backends: Collection[str], consumers: Collection[str] = (), **_: Any) -> None:
    """Start each counter at 0: Prometheus cannot see the first increase of a new one."""
    for backend in backends:
        for outcome in OUTCOMES:
            EVENTS.labels(backend, outcome)
        LATENCIES.labels(backend)
    for consumer in consumers:
        for outcome in RECEIVED_OUTCOMES:
            RECEIVED.labels(consumer, outcome)


def _count(*, backend: str, report: Any, seconds: float, **_: Any) -> None:
    for outcome in OUTCOMES:
        if number := getattr(report, outcome):
            EVENTS.labels(backend, outcome).inc(number)
    SECONDS.labels(backend).observe(seconds)
    latencies = LATENCIES.labels(backend)
    for wait in report.latencies:
        latencies.observe(wait)


def _time(*, handler: Handler, seconds: float, error: str, **_: Any) -> None:
    HANDLERS.labels(handler.name, "failed" if error else "succeeded").observe(seconds)


def _count_received(*, consumer: str, written: Any, seconds: float, **_: Any) -> None:
    seen = written.duplicates + written.malformed
    numbers = (max(0, written.received - seen), written.duplicates, written.malformed)
    for outcome, number in zip(RECEIVED_OUTCOMES, numbers, strict=True):
        RECEIVED.labels(consumer, outcome).inc(number)
    RECEIVE_SECONDS.labels(consumer).observe(seconds)


def metrics_app(using: str | None = None, folder: Path | None = None) -> Any:
    """Return the WSGI application with the metrics of a relay.

    `folder` has the counters of several processes: prometheus-client's `PROMETHEUS_MULTIPROC_DIR`.
    """
    registry = CollectorRegistry()
    registry.register(_Together(using, folder))
    return make_wsgi_app(registry)


class _Together(Collector):
    """The counters and the gauges; closes the thread's database connections after each scrape."""

    def __init__(self, using: str | None, folder: Path | None) -> None:
        self._counted = REGISTRY
        if folder is not None:
            self._counted = CollectorRegistry()
            MultiProcessCollector(self._counted, path=str(folder))  # type: ignore[no-untyped-call]
        self._outbox = OverviewCollector(using)

    def describe(self) -> Iterable[Any]:
        """Return nothing, so that registration does not query the database."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Yield the counters and the gauges."""
        for family in self._counted.collect():
            # The time when a counter was created is of no use to a query.
            family.samples = [each for each in family.samples if not each.name.endswith("_created")]
            yield family
        try:
            yield from self._outbox.collect()
        finally:
            connections.close_all()


@transaction.non_atomic_requests  # ATOMIC_REQUESTS would fail without a database
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the gauges of the outbox.

    The view is unauthenticated. Restrict access to your monitoring system.
    """
    registry = CollectorRegistry()
    registry.register(OverviewCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
