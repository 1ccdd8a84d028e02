"""Traces and metrics by OpenTelemetry's conventions for messaging.

====================== ======== ==========================================================
span                   kind     covers
====================== ======== ==========================================================
`create {alias}`       PRODUCER a call that publishes one event
`publish {alias}`      PRODUCER a call of `publish_events`
`send {alias}`         CLIENT   a relay's exchange with a broker about one batch
`process {event type}` CONSUMER one handler for one event, with its transaction
====================== ======== ==========================================================

A publish call has a span if it is made within one, and its events carry it in the extensions
`traceparent` and `tracestate`. An event that has a `traceparent` keeps it. The span `send` links to
the spans of up to 128 events, and is a child where all have the same. The span `process` is a child
of its event's, whatever else goes on, and has links to the event's and to the one around it.

===================================== ========= ===================================================
metric                                kind      meaning
===================================== ========= ===================================================
`messaging.client.sent.messages`      counter   events that were sent, or failed (`error.type`)
`messaging.client.operation.duration` histogram how long `send` took, in seconds
`messaging.client.consumed.messages`  counter   events that a handler was called for
`messaging.process.duration`          histogram how long `process` took, in seconds
`outbox.up`                           gauge     1 if the database could be asked for what follows
`outbox.backlog`                      gauge     events that wait, and dead letters, by `status`
`outbox.lag`                          gauge     the most seconds that an event has been due
`outbox.retry_age`                    gauge     seconds since the oldest in retry was published
`outbox.relays`                       gauge     relays that hold a lease
`outbox.free_partitions`              gauge     partitions that nobody delivers
`outbox.circuit_open`                 gauge     1 while a relay counts its broker as away
`outbox.paused`                       gauge     1 while an operator has paused the backend
===================================== ========= ===================================================

The gauges come from the processes of relays, and have the label `backend`.

https://opentelemetry.io/docs/specs/semconv/messaging/ (names as of version 1.40)
"""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from django_broadcaster import __version__, tracing
from django_broadcaster.signals import relay_started

from .gauges import Gauges
from .measures import Measures
from .spans import SpanTracer

__all__ = ["instrument", "uninstrument"]

_NAME = "django_broadcaster"


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Trace and measure what this process publishes, sends and handles from now on.

    Without providers, those of the process, which may be set later. May be called before Django is
    set up, and again: the last call counts.
    """
    meter = get_meter(_NAME, __version__, meter_provider)
    tracer = get_tracer(_NAME, __version__, tracer_provider)
    uninstrument()
    tracing.install(SpanTracer(tracer, Measures(meter)))
    _Place.gauges = Gauges(meter)
    relay_started.connect(_Place.gauges.begin, dispatch_uid=_NAME, weak=False)


def uninstrument() -> None:
    """Stop it."""
    tracing.install(None)
    relay_started.disconnect(dispatch_uid=_NAME)
    if _Place.gauges is not None:
        _Place.gauges.end()
        _Place.gauges = None


class _Place:
    gauges: Gauges | None = None
