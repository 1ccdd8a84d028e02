"""Has the health of a relay reported every second, by a thread of its own."""

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
    """Whom the health is reported to."""

    def report(self, health: Health) -> None:
        """Take the health of now."""

    def end(self) -> None:
        """Take note that there will be no more of it."""


@contextmanager
def reporting(
    source: Callable[[], Health], reporters: Sequence[Reporter], seconds: float = REPORT_SECONDS
) -> Iterator[None]:
    """Report the health at once and then every so many seconds, for the time of the block."""
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
    """Report to one, and go on if that is not possible; say so the first time."""
    try:
        reporter.report(health)
    except OSError as error:
        if number not in failed:
            logger.warning("the relay's health could not be written down: %s", error)
        failed.add(number)
    else:
        failed.discard(number)
