"""Traces and metrics by OpenTelemetry's conventions for messaging.

====================== ======== ==========================================================
span                   kind     covers
====================== ======== ==========================================================
`create {alias}`       PRODUCER a call that publishes one event
`publish {alias}`      PRODUCER a call of `publish_events`
`send {alias}`         CLIENT   a relay's call to a broker for one batch
`process {event type}` CONSUMER one handler for one event, with a transaction of its own
====================== ======== ==========================================================

A publish call within a span has a span of its own, and its events carry that span in the extensions
`traceparent` and `tracestate`. An event that has a `traceparent` keeps it. The span `send` links to
the spans of up to 128 events, and is their child if all have the same. The span `process` is always
a child of its event's span, with links to that span and to the surrounding one. If handlers share a
transaction that is rolled back, those that run again have another span.

===================================== ========= ===================================================
metric                                kind      meaning
===================================== ========= ===================================================
`messaging.client.sent.messages`      counter   events that were sent, or failed (`error.type`)
`messaging.client.operation.duration` histogram duration of `send`, in seconds
`messaging.client.consumed.messages`  counter   events that a handler was called for
`messaging.process.duration`          histogram duration of `process`, in seconds
`outbox.delivery.latency`             histogram from due to delivered, in seconds: a sample
`outbox.up`                           gauge     1 if the database is available
`outbox.backlog`                      gauge     undelivered events and dead letters, by `status`
`outbox.lag`                          gauge     age of the oldest due event, in seconds
`outbox.retry_age`                    gauge     age of the oldest event in retry, in seconds
`outbox.relays`                       gauge     relays that hold a lease
`outbox.free_partitions`              gauge     partitions without a relay
`outbox.circuit_open`                 gauge     1 while a circuit breaker is open
`outbox.paused`                       gauge     1 while the backend is paused
`outbox.slot_lag`                     gauge     WAL that Kafka Connect has not confirmed, in bytes
`outbox.slot_retained`                gauge     WAL that the server keeps for the slot, in bytes
`outbox.slot_active`                  gauge     1 while Kafka Connect reads the replication slot
===================================== ========= ===================================================

The metrics whose names begin with `outbox` come from the processes of relays, and have the label
`backend`. The latency is that of one batch a second of each backend. The instrumentation scope has
the version of the package.

https://opentelemetry.io/docs/specs/semconv/messaging/ (names as of version 1.40)
"""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from django_broadcaster import __version__, tracing
from django_broadcaster.signals import batch_settled, messages_received, relay_started

from .gauges import Gauges
from .measures import Measures
from .spans import SpanTracer

__all__ = ["instrument", "uninstrument"]

_NAME = "django_broadcaster"


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Trace and measure publish calls, deliveries and handlers of this process.

    The function can be called before Django is set up. A further call replaces the first.

    Args:
        tracer_provider: The provider of spans; by default the global one, which may be set later.
        meter_provider: The provider of metrics; by default the global one.
    """
    meter = get_meter(_NAME, __version__, meter_provider)
    tracer = get_tracer(_NAME, __version__, tracer_provider)
    uninstrument()
    measures = Measures(meter)
    tracing.install(SpanTracer(tracer, measures))
    batch_settled.connect(measures.settled, dispatch_uid=_NAME, weak=False)
    messages_received.connect(measures.received, dispatch_uid=_NAME, weak=False)
    _Place.gauges = Gauges(meter)
    relay_started.connect(_Place.gauges.begin, dispatch_uid=_NAME, weak=False)


def uninstrument() -> None:
    """Stop traces and metrics."""
    tracing.install(None)
    batch_settled.disconnect(dispatch_uid=_NAME)
    messages_received.disconnect(dispatch_uid=_NAME)
    relay_started.disconnect(dispatch_uid=_NAME)
    if _Place.gauges is not None:
        _Place.gauges.end()
        _Place.gauges = None


class _Place:
    gauges: Gauges | None = None
