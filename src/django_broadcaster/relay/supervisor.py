"""Several worker processes of one command: started, restarted if they crash, and stopped."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from django_broadcaster.backoff import Backoff
from django_broadcaster.conf import conf

from .health import Activity

logger = logging.getLogger("django_broadcaster.relay")

CHECK_SECONDS = 0.2
FIRST_BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds before a process that crashed is restarted: the first pause and the longest."""

STEADY_SECONDS = 60.0
"""How long a process must run for its earlier crashes to be forgotten."""

GRACE_SECONDS = 5.0
"""Seconds beyond SHUTDOWN_TIMEOUT after which a process is killed."""

_MARK = "DJANGO_BROADCASTER_SUPERVISED"
"""Contains the id of the supervisor in the environment of its processes. Their command line cannot
show it: it is the supervisor's own."""


class Supervisor:
    """Runs `count` processes of a command until it is stopped or, if `finite`, they are done.

    A process that ends is restarted, with growing pauses. The others take its partitions meanwhile.
    If the work is finite, a process that exits with status 0 is done. Otherwise that counts as a
    crash, too: a handler may call `os._exit(0)`.
    """

    def __init__(self, command: Sequence[str], count: int, *, finite: bool) -> None:
        self._command = list(command)
        self._finite = finite
        self._places = [_Place() for _ in range(count)]
        self._stopping = threading.Event()
        self.activity = Activity()
        self.failure = ""
        """Why the processes did not end as they should; empty if they did."""

    @property
    def is_stopping(self) -> bool:
        """Whether the supervisor was asked to stop."""
        return self._stopping.is_set()

    def processes(self) -> list[tuple[int | None, float]]:
        """Return the id of each process, None if it is down, and the seconds since its start.

        Processes that are done are left out. Any thread may call this.
        """
        now = time.monotonic()
        return [
            (process.pid if (process := place.process) else None, now - place.started_at)
            for place in self._places
            if not place.is_done
        ]

    def stop(self) -> None:
        """End all processes; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> bool:
        """Supervise; return True if every process ended without an error."""
        while not self._stopping.is_set() and not all(place.is_done for place in self._places):
            self.activity.begin("supervising")
            for place in self._places:
                self._tend(place)
            # Not `_stopping.wait`: a signal handler that interrupts it can't call `stop`.
            time.sleep(CHECK_SECONDS)
        return self._end()

    def _tend(self, place: _Place) -> None:
        """Start the process of a place, or restart it if it ended."""
        process, now = place.process, time.monotonic()
        if process is None:
            if now >= place.start_at:
                self._start(place, now)
        elif (code := process.poll()) == 0 and self._finite:
            place.is_done = True
        elif code is not None:
            pause = place.ended(now)
            logger.error(
                "Relay process %d exited with status %d; restarting it in %.0f s.",
                process.pid,
                code,
                pause,
            )

    def _start(self, place: _Place, now: float) -> None:
        """Start a process; if that fails, retry as after a crash."""
        place.started_at = now
        try:
            environment = {**os.environ, _MARK: str(os.getpid())}
            place.process = subprocess.Popen(self._command, env=environment)
        except OSError as error:  # no memory or process is left: the other processes must not end
            pause = place.ended(now)
            logger.error("Could not start a relay process: %s; retrying in %.0f s.", error, pause)

    def _end(self) -> bool:
        """Terminate every process, and kill those that do not end in time."""
        self.activity.begin("stopping", pause=conf.SHUTDOWN_TIMEOUT + GRACE_SECONDS)
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + conf.SHUTDOWN_TIMEOUT + GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("Relay process %d did not exit in time; killing it.", process.pid)
                process.kill()
                process.wait()
        # A process that the signal ended had not begun: a worker that has begun exits with 0.
        self.failure = "; ".join(
            f"relay process {process.pid} exited with status {process.returncode}"
            for process in running
            if process.returncode not in (0, -signal.SIGTERM)
        )
        return not self.failure


class _Place:
    """One of the processes that should run."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.is_done = False
        self.started_at = 0.0
        self.start_at = 0.0
        self._backoff = Backoff(MAX_BACKOFF, initial=FIRST_BACKOFF)

    def ended(self, now: float) -> float:
        """Note that its process ended; return the seconds until the next one starts."""
        if now >= self.started_at + STEADY_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next()
        self.process = None
        self.start_at = now + pause
        return pause


def is_supervised() -> bool:
    """Return True if a supervisor started this process, which then must not supervise itself."""
    return _MARK in os.environ


def is_orphaned() -> bool:
    """Return True if a supervisor started this process and has ended."""
    return is_supervised() and os.environ[_MARK] != str(os.getppid())
