"""A backend whose module instruments the process that imports it, as a project's settings would.

Spans go to files that begin with the setting EXPORTED_SPANS, one line of JSON each: a file of its
own for each process, for not every file system appends for two without a loss.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.conf import settings
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from django_broadcaster.backends import DummyBackend
from django_broadcaster.instrumentation.opentelemetry import instrument

_path = Path(f"{settings.EXPORTED_SPANS}-{os.getpid()}")
_file = _path.open("a", buffering=1)  # as long as we live
_provider = TracerProvider()
_provider.add_span_processor(
    SimpleSpanProcessor(
        ConsoleSpanExporter(out=_file, formatter=lambda span: span.to_json(indent=None) + "\n")
    )
)
instrument(tracer_provider=_provider)


class TracedBackend(DummyBackend):
    """Delivers nowhere."""
