"""A process in the background that has servers from `services.py start` until `services.py stop`.

In its folder are `pid`, a file that the process keeps locked as long as it lives, so that what a
crash leaves there is known for what it is; `ready`, there once the servers are; and `log`.
Standard library only, as `services.py` is.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.launch import say

STOP_SECONDS = 60.0
PAUSE_SECONDS = 0.1


class Busy(Exception):
    """Another process has the servers of this folder."""


class Keeper:
    """The process of one folder; there is one at a time."""

    def __init__(self, folder: Path) -> None:
        self._pid = folder / "pid"
        self._ready = folder / "ready"
        self._log = folder / "log"
        self._folder = folder

    # --- From outside ------------------------------------------------------------------------

    def start(self, command: Sequence[str]) -> int:
        """Run `command`, which is to call `alone` and `hold`; return 0 as soon as it holds.

        If it ends before, return its exit status.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ready.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--state", str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # it outlives this command and its terminal
            )
        try:
            return self._follow(process)
        except BaseException:
            process.terminate()
            raise

    def stop(self) -> int:
        """End the process and its servers; return the exit status."""
        if not self.runs():
            say("none were started here")
            return 0
        pid = int(self._pid.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.runs():
            if time.monotonic() > deadline:
                say(f"error: process {pid} did not end within {STOP_SECONDS:.0f} s")
                return 1
            time.sleep(PAUSE_SECONDS)
        say("stopped what was started here")
        return 0

    def runs(self) -> bool:
        """Whether the process lives."""
        if not self._pid.exists():
            return False
        try:
            with self._locked():
                return False
        except Busy:
            return True

    def addresses(self) -> dict[str, str]:
        """Return the servers that were there when it began to hold, by their variables."""
        lines = self._ready.read_text().splitlines() if self._ready.exists() else []
        return {name: url for name, _, url in (line.partition("=") for line in lines)}

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        """Pass on what the process says until it holds its servers or has ended."""
        with self._log.open("rb") as log:
            while True:
                ended, is_ready = process.poll() is not None, self._ready.exists()
                sys.stdout.write(log.read().decode(errors="replace"))
                sys.stdout.flush()
                if is_ready:
                    return 0
                if ended:
                    return process.returncode or 1
                time.sleep(PAUSE_SECONDS)

    # --- From inside -------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one process of the folder for the time of the block; raises Busy."""
        with self._locked():
            self._pid.write_text(str(os.getpid()))
            try:
                yield
            finally:
                self._ready.unlink(missing_ok=True)

    def hold(self, env: Mapping[str, str]) -> None:
        """Say that the servers are there, and wait for a signal, whose handler raises."""
        self._ready.write_text("".join(f"{name}={url}\n" for name, url in env.items()))
        while True:
            signal.pause()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._pid.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(
                    f"servers of {self._folder} run already, or are being started"
                ) from error
            yield
