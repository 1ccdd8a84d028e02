"""What `opentelemetry-instrument` finds, and turns on with everything else that is installed.

Needs the package `opentelemetry-instrumentation`, which that command comes with.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from . import instrument, uninstrument


class BroadcasterInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # it is not typed
    """Turns the instrumentation on and off by OpenTelemetry's own interface."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what has to be installed: this package itself."""
        return ("django-broadcaster",)

    def _instrument(self, **options: Any) -> None:
        instrument(
            tracer_provider=options.get("tracer_provider"),
            meter_provider=options.get("meter_provider"),
        )

    def _uninstrument(self, **options: Any) -> None:
        uninstrument()
