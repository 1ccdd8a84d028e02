"""The context of a trace, as an event carries it.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from django_broadcaster.events import TRACEPARENT, TRACESTATE, CloudEvent

# Not the process's own choice, which may be another format: these are the two extensions.
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def stamped(event: CloudEvent) -> CloudEvent:
    """Return the event with the current span; one that carries a trace already is left alone."""
    if TRACEPARENT in event.extensions:
        return event
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    # A `tracestate` that came without a `traceparent` belongs to nothing.
    kept = {name: value for name, value in event.extensions.items() if name != TRACESTATE}
    return event.replace(extensions={**kept, **carrier})


def carried(extensions: Mapping[str, Any]) -> SpanContext:
    """Return the context that an event carries; an invalid one if it has none."""
    parent = extensions.get(TRACEPARENT)
    if not isinstance(parent, str):
        return INVALID_SPAN_CONTEXT
    carrier = {TRACEPARENT: parent, TRACESTATE: str(extensions.get(TRACESTATE, ""))}
    # Into an empty context: what is current here is not the event's.
    return get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
