"""The metrics of OpenTelemetry's conventions for messaging.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.metrics import Meter

from django_broadcaster.instrumentation import latency

BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds, as the conventions recommend."""

ERROR_TYPE: Final = "error.type"


class Measures:
    """Counts messages and times operations."""

    def __init__(self, meter: Meter) -> None:
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        self._processing = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        self._latency = meter.create_histogram(
            "outbox.delivery.latency",
            "s",
            latency.MEANING,
            explicit_bucket_boundaries_advisory=latency.BUCKETS,
        )

    def sent(
        self, labels: Mapping[str, str], seconds: float, counts: Mapping[str, int], error: str
    ) -> None:
        """Record a call to a broker.

        Args:
            labels: The attributes of all measurements.
            seconds: The duration of the call.
            counts: The number of messages by the type of their error; "" for success.
            error: The type of the call's error, or "".
        """
        for kind, number in counts.items():
            self._sent.add(number, _with(labels, kind))
        self._duration.record(seconds, _with(labels, error))

    def processed(self, labels: Mapping[str, str], seconds: float, error: str) -> None:
        """Record a call of a handler."""
        self._consumed.add(1, _with(labels, error))
        self._processing.record(seconds, _with(labels, error))

    def received(self, *, consumer: str, written: Any, seconds: float, **_: Any) -> None:
        """Record a batch that was received; a receiver of `messages_received`."""
        about = {"messaging.operation.name": "receive", "outbox.consumer": consumer}
        self._consumed.add(written.received, about)
        self._duration.record(seconds, {**about, "messaging.operation.type": "receive"})

    def settled(self, *, backend: str, report: Any, **_: Any) -> None:
        """Record a delivery; a receiver of `batch_settled`."""
        labels = {"backend": backend}
        for wait in report.latencies:
            self._latency.record(wait, labels)


def _with(labels: Mapping[str, str], error: str) -> dict[str, str]:
    return {**labels, ERROR_TYPE: error} if error else {**labels}
