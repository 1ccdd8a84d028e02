"""The worker of a service, `manage.py outbox_worker`, as a process that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
PATIENCE = 40.0  # seconds for a clean stop; longer than OUTBOX_SHUTDOWN_TIMEOUT


class WorkerFailed(Exception):
    """A worker ended unexpectedly, or did not stop."""


class Worker:
    """A worker in a session of its own, which does not receive a Ctrl-C in the terminal.

    It runs the relays of a service and, if there is a broker, its receiver.
    """

    def __init__(self, service: str, folder: Path, *arguments: str) -> None:
        settings = ("--settings", f"{service}_site.settings")
        self._command = [sys.executable, str(MANAGE), "outbox_worker", *settings, *arguments]
        self._log = folder / f"{service}.log"
        self.name = f"{service}'s worker"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker, maybe after an earlier one was killed."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise WorkerFailed if the worker has ended."""
        status = self._running.poll()
        if status is not None:
            raise WorkerFailed(f"{self.name} exited with status {status}:\n{self.log_end()}")

    def freeze(self) -> None:
        """Send SIGSTOP; return once the process is stopped."""
        self._running.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self._running.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._running.returncode = os.waitstatus_to_exitcode(
                status
            )  # the status can't be read twice
            self.check()

    def thaw(self) -> None:
        """Send SIGCONT after `freeze`."""
        self._running.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL: the worker ends at once, as at a power failure."""
        self._running.kill()
        self._running.wait()

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the worker stopped, or raise WorkerFailed."""
        self.check()
        begin = time.monotonic()
        self._running.terminate()
        try:
            status = self._running.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(f"{self.name} did not stop within {PATIENCE:.0f} s") from error
        if status != 0:
            raise WorkerFailed(f"{self.name} stopped with status {status}:\n{self.log_end()}")
        return time.monotonic() - begin

    def log_end(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running.poll() is None:
            self.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise WorkerFailed(f"{self.name} was never started")
        return self._process
