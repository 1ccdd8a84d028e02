"""The trace context in the extensions of an event.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from django_broadcaster.events import TRACEPARENT, TRACESTATE, CloudEvent

# The global propagator may use another format; the extensions are defined by W3C.
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def stamped(event: CloudEvent) -> CloudEvent:
    """Return the event with the current span, unless it already has a trace context."""
    if TRACEPARENT in event.extensions:
        return event
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    # A `tracestate` without a `traceparent` is invalid.
    kept = {name: value for name, value in event.extensions.items() if name != TRACESTATE}
    return event.replace(extensions={**kept, **carrier})


def carried(extensions: Mapping[str, Any]) -> SpanContext:
    """Return the trace context of an event, or an invalid one if it has none."""
    parent = extensions.get(TRACEPARENT)
    if not isinstance(parent, str):
        return INVALID_SPAN_CONTEXT
    carrier = {TRACEPARENT: parent, TRACESTATE: str(extensions.get(TRACESTATE, ""))}
    # Extract into an empty context: the current span is not the event's.
    return get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
