"""Several worker processes from one command: started, restarted when they die, and stopped."""

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
"""Seconds before a worker that keeps dying is started again, at the most."""

STEADY_SECONDS = 60.0
"""How long a worker has to live for its earlier deaths to be forgotten."""

GRACE_SECONDS = 5.0
"""What a worker gets beyond SHUTDOWN_TIMEOUT before it is killed."""

_MARK = "DJANGO_BROADCASTER_SUPERVISED"
"""Tells a process that it is one of several, by the id of the one above it. Its command line can't:
that is its parent's, whose option may be abbreviated there, or stand in a script that calls the
command."""


class Supervisor:
    """Runs `count` processes of a command until it is stopped or, if `finite`, they are done.

    A process that dies is started again, later each time. Its partitions go to the others
    meanwhile. Where the work has an end, a process that exits with 0 has come to it. Where it has
    none, that is a death like any other: a handler may call `os._exit(0)`.
    """

    def __init__(self, command: Sequence[str], count: int, *, finite: bool) -> None:
        self._command = list(command)
        self._finite = finite
        self._places = [_Place() for _ in range(count)]
        self._stopping = threading.Event()
        self.activity = Activity()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def processes(self) -> list[tuple[int | None, float]]:
        """Return the id of each process and the seconds since its start; None: there is none now.

        Those that have come to the end of their work are left out. May be asked from any thread.
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
        """Supervise; return whether every process ended well."""
        while not self._stopping.is_set() and not all(place.is_done for place in self._places):
            self.activity.begin("supervising")
            for place in self._places:
                self._tend(place)
            # Not `_stopping.wait`: a signal handler that interrupts it can't call `stop`.
            time.sleep(CHECK_SECONDS)
        return self._end()

    def _tend(self, place: _Place) -> None:
        """Start the process of a place, or start it again when it has died."""
        process, now = place.process, time.monotonic()
        if process is None:
            if now >= place.start_at:
                self._start(place, now)
        elif (code := process.poll()) == 0 and self._finite:
            place.is_done = True
        elif code is not None:
            pause = place.died(now)
            logger.error(
                "relay process %d ended with %d, another starts in %.0f s", process.pid, code, pause
            )

    def _start(self, place: _Place, now: float) -> None:
        """Start a process; one that can't be started now is tried again, as one that died."""
        place.started_at = now
        try:
            environment = {**os.environ, _MARK: str(os.getpid())}
            place.process = subprocess.Popen(self._command, env=environment)
        except OSError as error:  # no memory or no process to be had: the others must not end
            pause = place.died(now)
            logger.error("a relay process can't start, tried again in %.0f s: %s", pause, error)

    def _end(self) -> bool:
        """Ask every process to end, and kill what does not."""
        self.activity.begin("stopping", pause=conf.SHUTDOWN_TIMEOUT + GRACE_SECONDS)
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
        # One that dies of the signal had not begun: a worker that has begun ends with 0.
        return all(process.returncode in (0, -signal.SIGTERM) for process in running)


class _Place:
    """One of the processes that there should be."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.is_done = False
        self.started_at = 0.0
        self.start_at = 0.0
        self._backoff = Backoff(MAX_BACKOFF, initial=FIRST_BACKOFF)

    def died(self, now: float) -> float:
        """Note that its process has died; return the seconds until the next is to start."""
        if now >= self.started_at + STEADY_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next()
        self.process = None
        self.start_at = now + pause
        return pause


def is_supervised() -> bool:
    """Tell whether a supervisor started this process, which then must not supervise in turn."""
    return _MARK in os.environ


def is_orphaned() -> bool:
    """Tell whether a supervisor started this process, and has gone."""
    return is_supervised() and os.environ[_MARK] != str(os.getppid())
