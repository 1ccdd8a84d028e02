"""Several worker processes from one command: started, restarted when they die, and stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence

from django_broadcaster.conf import conf

logger = logging.getLogger("django_broadcaster.relay")

CHECK_SECONDS = 0.2
MAX_BACKOFF = 30.0
"""Seconds before a worker that keeps dying is started again, at the most."""

GRACE_SECONDS = 5.0
"""What a worker gets beyond SHUTDOWN_TIMEOUT before it is killed."""

_MARK = "DJANGO_BROADCASTER_SUPERVISED"
"""Tells a process that it is one of several. Its command line can't: that is its parent's, whose
option may be abbreviated there, or stand in a script that calls the command."""


class Supervisor:
    """Runs `count` processes of a command until they end by themselves or it is stopped.

    A process that ends with 0 is done; one that dies is started again, later each time. Its
    partitions go to the others meanwhile.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = list(command)
        self._places = [_Place() for _ in range(count)]
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End all processes; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> bool:
        """Supervise; return whether every process ended well."""
        while not self._stopping.is_set() and not all(place.is_done for place in self._places):
            for place in self._places:
                self._tend(place)
            # Not `_stopping.wait`: a signal handler that interrupts it can't call `stop`.
            time.sleep(CHECK_SECONDS)
        return self._end()

    def _tend(self, place: _Place) -> None:
        """Start the process of a place, or start it again when it has died."""
        process = place.process
        if process is None:
            if time.monotonic() >= place.start_at:
                place.process = subprocess.Popen(self._command, env={**os.environ, _MARK: "1"})
        elif (code := process.poll()) == 0:
            place.is_done = True
        elif code is not None:
            place.process = None
            place.deaths += 1
            pause = min(MAX_BACKOFF, 2.0 ** (place.deaths - 1))
            place.start_at = time.monotonic() + pause
            logger.error(
                "relay process %d ended with %d, another starts in %.0f s", process.pid, code, pause
            )

    def _end(self) -> bool:
        """Ask every process to end, and kill what does not."""
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + conf.SHUTDOWN_TIMEOUT + GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("relay process %d did not end and is killed", process.pid)
                process.kill()
                process.wait()
        return all(process.returncode == 0 for process in running)


class _Place:
    """One of the processes that there should be."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.is_done = False
        self.deaths = 0
        self.start_at = 0.0


def is_supervised() -> bool:
    """Tell whether a supervisor started this process, which then must not supervise in turn."""
    return _MARK in os.environ
