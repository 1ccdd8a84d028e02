"""OpenTelemetry's SDK in memory: what a process would export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from django_broadcaster.instrumentation.opentelemetry import instrument, uninstrument


class Telemetry:
    """Providers of their own, not the process's; spans and metrics as they would be exported."""

    def __init__(self, **options: Any) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False, **options)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("tests")

    def spans(self, start: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended, whose name begins so, in order."""
        return [span for span in self._spans.get_finished_spans() if span.name.startswith(start)]

    def span(self, start: str) -> ReadableSpan:
        """Return the one span whose name begins so."""
        (span,) = self.spans(start)
        return span

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Return every metric's points: their labels, and the figure or the count of a histogram.

        Asks for them once, as an exporter does.
        """
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        (dict(point.attributes or {}), _figure(point))
                        for point in metric.data.data_points
                    ]
        return found

    def close(self) -> None:
        """Shut the providers down."""
        self.tracers.shutdown()
        self.meters.shutdown()


def _figure(point: Any) -> Any:
    return point.count if hasattr(point, "count") else point.value


def context_of(span: ReadableSpan) -> SpanContext:
    """Return a span's own context."""
    context = span.get_span_context()
    assert context is not None
    return context


def trace_of(span: ReadableSpan) -> int:
    """Return the id of a span's trace."""
    return context_of(span).trace_id


def traceparent(span: ReadableSpan) -> str:
    """Return what an event carries that was published in a span (W3C Trace Context, version 00)."""
    context = context_of(span)
    flags = int(context.trace_flags)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"


def links_of(span: ReadableSpan) -> list[int]:
    """Return the ids of the spans that a span links to."""
    return [link.context.span_id for link in span.links]


@contextmanager
def instrumented(**options: Any) -> Iterator[Telemetry]:
    """Have this process instrumented for the time of the block."""
    telemetry = Telemetry(**options)
    instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
    try:
        yield telemetry
    finally:
        uninstrument()
        telemetry.close()
