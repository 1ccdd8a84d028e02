"""A backend whose module instruments the process that imports it, as a project's settings would.

Spans go to the file of the setting EXPORTED_SPANS, one line of JSON each.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from django_broadcaster.backends import DummyBackend
from django_broadcaster.instrumentation.opentelemetry import instrument

_file = Path(settings.EXPORTED_SPANS).open("a", buffering=1)  # noqa: SIM115  # as long as we live
_provider = TracerProvider()
_provider.add_span_processor(
    SimpleSpanProcessor(
        ConsoleSpanExporter(out=_file, formatter=lambda span: span.to_json(indent=None) + "\n")
    )
)
instrument(tracer_provider=_provider)


class TracedBackend(DummyBackend):
    """Delivers nowhere."""
