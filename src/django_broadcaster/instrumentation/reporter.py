"""The thread that reports the health of a relay every second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from django_broadcaster.relay.health import Health

logger = logging.getLogger("django_broadcaster.relay")

REPORT_SECONDS = 1.0


class Reporter(Protocol):
    """A receiver of the health of a relay."""

    def report(self, health: Health) -> None:
        """Receive the current health."""

    def end(self) -> None:
        """Receive the end of the reports."""


@contextmanager
def reporting(
    source: Callable[[], Health], reporters: Sequence[Reporter], seconds: float = REPORT_SECONDS
) -> Iterator[None]:
    """Report the health at once and then every `seconds`, for the time of the block."""
    ended = threading.Event()

    def run() -> None:
        failed: set[int] = set()
        while True:
            health = source()
            for number, reporter in enumerate(reporters):
                _report(reporter, number, health, failed)
            if ended.wait(seconds):
                return

    thread = threading.Thread(target=run, name="relay-health", daemon=True)
    if reporters:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if reporters:
            thread.join(2 * seconds)
        for reporter in reporters:
            reporter.end()


def _report(reporter: Reporter, number: int, health: Health, failed: set[int]) -> None:
    """Report to one receiver; log its first error and continue."""
    try:
        reporter.report(health)
    except OSError as error:
        if number not in failed:
            logger.warning("Could not write the health file: %s; retrying every second.", error)
        failed.add(number)
    else:
        failed.discard(number)
