"""The entry point of `opentelemetry-instrument`, which enables all installed instrumentations.

The command is part of the package `opentelemetry-instrumentation`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from . import instrument, uninstrument


class BroadcasterInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # it is not typed
    """Enables and disables the instrumentation by OpenTelemetry's interface."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the required packages: this one."""
        return ("django-broadcaster",)

    def _instrument(self, **options: Any) -> None:
        instrument(
            tracer_provider=options.get("tracer_provider"),
            meter_provider=options.get("meter_provider"),
        )

    def _uninstrument(self, **options: Any) -> None:
        uninstrument()
