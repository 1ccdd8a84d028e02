"""Metrics for Prometheus: what a relay does, counted as it does it, and what stands in the outbox.

======================== ================ ====================================================
metric                   labels           meaning
======================== ================ ====================================================
outbox_events_total      backend, outcome attempts by what became of the event: published,
                                          retried, failed, held, expired
outbox_batch_seconds     backend          histogram: from the fetch to the settling of a batch
outbox_up                (none)           1 if the database could be asked for what follows
outbox_backlog           backend, status  events that wait, and dead letters, up to 100,000
outbox_lag_seconds       backend          the longest that an event has been due
outbox_retry_age_seconds backend          how long ago the oldest event in retry was published
outbox_relays            backend          relays that hold a lease
outbox_free_partitions   backend          partitions that nobody delivers
outbox_circuit_open      backend          1 while a relay counts its broker as away
outbox_paused            backend          1 while an operator has paused it
======================== ================ ====================================================

The first two come from a relay (`outbox_worker --metrics-port`). The others come from the
database, and so from anywhere: a relay's port, or the view `metrics` in the application.
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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from django_broadcaster.signals import batch_settled, relay_started

from .gauges import FIGURES, UP, labelled, look

OUTCOMES = ("published", "retried", "failed", "held", "expired")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REGISTRY = CollectorRegistry()
"""What this process has counted."""

EVENTS = Counter("outbox_events", "Attempts by outcome.", ("backend", "outcome"), registry=REGISTRY)
SECONDS = Histogram(
    "outbox_batch_seconds",
    "From the fetch to the settling of a batch.",
    ("backend",),
    buckets=BUCKETS,
    registry=REGISTRY,
)


class OverviewCollector(Collector):
    """Asks the database at each scrape; without an answer there is `outbox_up` alone, at 0."""

    def __init__(self, using: str | None = None) -> None:
        self._using = using

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: a registry must not ask the database to know the names."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of all backends."""
        found = look(self._using)
        yield GaugeMetricFamily("outbox_up", UP, value=int(found is not None))
        if found is None:
            return
        for figure in FIGURES:
            labels = ("backend", *figure.labels)
            family = GaugeMetricFamily(figure.name, figure.meaning, labels=labels)
            for overview in found:
                for values, number in labelled(figure, overview):
                    family.add_metric([values[label] for label in labels], number)
            yield family


_installing = Lock()


def install() -> None:
    """Count what the relay of this process does; may be called more than once."""
    with _installing:
        relay_started.connect(_begin, dispatch_uid="django_broadcaster.prometheus")
        batch_settled.connect(_count, dispatch_uid="django_broadcaster.prometheus")


def _begin(*, backends: Collection[str], **_: Any) -> None:
    """Let each counter begin at 0: an increase of one that begins at 1 is seen by nobody."""
    for backend in backends:
        for outcome in OUTCOMES:
            EVENTS.labels(backend, outcome)


def _count(*, backend: str, report: Any, seconds: float, **_: Any) -> None:
    for outcome in OUTCOMES:
        if number := getattr(report, outcome):
            EVENTS.labels(backend, outcome).inc(number)
    SECONDS.labels(backend).observe(seconds)


def metrics_app(using: str | None = None, folder: Path | None = None) -> Any:
    """Return the WSGI application that a relay serves its metrics with.

    `folder` is where several processes leave what they have counted, by prometheus-client's own
    `PROMETHEUS_MULTIPROC_DIR`.
    """
    registry = CollectorRegistry()
    registry.register(_Together(using, folder))
    return make_wsgi_app(registry)


class _Together(Collector):
    """What has been counted, and the outbox, in a thread that keeps no connection in between."""

    def __init__(self, using: str | None, folder: Path | None) -> None:
        self._counted = REGISTRY
        if folder is not None:
            self._counted = CollectorRegistry()
            MultiProcessCollector(self._counted, path=str(folder))  # type: ignore[no-untyped-call]
        self._outbox = OverviewCollector(using)

    def describe(self) -> Iterable[Any]:
        """Return nothing, as the collector of the outbox does."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Yield everything that there is."""
        yield from self._counted.collect()
        try:
            yield from self._outbox.collect()
        finally:
            connections.close_all()


@transaction.non_atomic_requests  # ATOMIC_REQUESTS would fail before it can tell of it
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the metrics of the outbox, for a scrape of the application.

    It asks nobody who they are: let only the scraper reach it, or wrap it.
    """
    registry = CollectorRegistry()
    registry.register(OverviewCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
