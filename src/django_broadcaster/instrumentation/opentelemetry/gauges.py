"""What stands in the outbox, as gauges that the processes of relays show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from opentelemetry.metrics import CallbackOptions, Meter, Observation

if TYPE_CHECKING:
    from django_broadcaster.instrumentation.gauges import Figure
    from django_broadcaster.store import Overview

KEEP_SECONDS: Final = 1.0
"""How long an answer of the database serves: the gauges are read one right after the other."""


class Gauges:
    """Begins with the first relay of the process; asks the database each time that it is read."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._using: str | None = None
        self._lock = Lock()
        self._found: list[Overview] | None = None
        self._expires = 0.0
        self._has_ended = False

    def begin(self, *, database: str, **_: Any) -> None:
        """Make the gauges, for the outbox in that database; a receiver of `relay_started`."""
        from django_broadcaster.instrumentation.gauges import FIGURES, UP

        with self._lock:
            is_new, self._using = self._using is None, database
        if not is_new:
            return
        self._meter.create_observable_gauge("outbox.up", [self._up], "1", UP)
        for figure in FIGURES:
            self._meter.create_observable_gauge(
                figure.name.removesuffix("_seconds").replace("_", ".", 1),
                [self._callback(figure)],
                figure.unit,
                figure.meaning,
            )

    def end(self) -> None:
        """Show nothing more: what was made can't be taken back from a meter."""
        self._has_ended = True

    def _up(self, _: CallbackOptions) -> Iterable[Observation]:
        if not self._has_ended:
            yield Observation(int(self._look() is not None))

    def _callback(self, figure: Figure) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from django_broadcaster.instrumentation.gauges import labelled

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if self._has_ended:
                return
            for overview in self._look() or ():
                for labels, value in labelled(figure, overview):
                    yield Observation(value, labels)

        return observe

    def _look(self) -> list[Overview] | None:
        with self._lock:
            if time.monotonic() >= self._expires:
                self._found = _ask(self._using)
                self._expires = time.monotonic() + KEEP_SECONDS
            return self._found


def _ask(using: str | None) -> list[Overview] | None:
    """Look at the outbox; leave no connection behind in the thread of whoever reads the metrics."""
    from django_broadcaster.instrumentation.gauges import look

    before = set(connections.all(initialized_only=True))
    try:
        return look(using)
    finally:
        for connection in connections.all(initialized_only=True):
            if connection not in before:
                connection.close()
