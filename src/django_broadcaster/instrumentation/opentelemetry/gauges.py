"""The gauges of the outbox, in the processes of relays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from opentelemetry.metrics import CallbackOptions, Meter, Observation

if TYPE_CHECKING:
    from django_broadcaster.instrumentation.gauges import Figure, Judgements

KEEP_SECONDS: Final = 1.0
"""The time that a result is reused: the gauges are read one after the other."""


class Gauges:
    """Gauges that start with the first relay of the process and query the database when read."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._using: str | None = None
        self._lock = Lock()
        self._found: Judgements | None = None
        self._expires = 0.0
        self._has_ended = False

    def begin(self, *, database: str, **_: Any) -> None:
        """Create the gauges for the outbox in a database; a receiver of `relay_started`."""
        from django_broadcaster.instrumentation.gauges import FIGURES, UP

        with self._lock:
            is_new, self._using = self._using is None, database
        if not is_new:
            return
        self._meter.create_observable_gauge("outbox.up", [self._up], "1", UP)
        for figure in FIGURES:
            self._meter.create_observable_gauge(
                figure.name.removesuffix("_seconds").removesuffix("_bytes").replace("_", ".", 1),
                [self._callback(figure)],
                figure.unit,
                figure.meaning,
            )

    def end(self) -> None:
        """Stop observing; a meter cannot remove its gauges."""
        self._has_ended = True

    def _up(self, _: CallbackOptions) -> Iterable[Observation]:
        if not self._has_ended:
            yield Observation(int(self._current() is not None))

    def _callback(self, figure: Figure) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from django_broadcaster.instrumentation.gauges import labelled

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if self._has_ended:
                return
            for judgement in self._current() or ():
                for labels, value in labelled(figure, judgement):
                    yield Observation(value, labels)

        return observe

    def _current(self) -> Judgements | None:
        with self._lock:
            if time.monotonic() >= self._expires:
                self._found = _ask(self._using)
                self._expires = time.monotonic() + KEEP_SECONDS
            return self._found


def _ask(using: str | None) -> Judgements | None:
    """Read the outbox, and close the database connections that this opened in the thread."""
    from django_broadcaster.instrumentation.gauges import current_judgements

    before = set(connections.all(initialized_only=True))
    try:
        return current_judgements(using)
    finally:
        for connection in connections.all(initialized_only=True):
            if connection not in before:
                connection.close()
