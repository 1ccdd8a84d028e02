"""`outbox_worker` as processes on the test databases, that a test can be cruel to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
PATIENCE = 30.0
"""Seconds that a worker may take to end."""


class Worker:
    """One process of `outbox_worker`, or of another command; its output goes to `log`."""

    def __init__(
        self,
        database: str,
        *arguments: str,
        settings: Mapping[str, Any],
        log: Path,
        command: str = "outbox_worker",
        prefix: Sequence[str] = (),
    ) -> None:
        self._log = log
        self.application_name = f"outbox_worker {log}"[-63:]
        env = {**environment(database, settings), "PGAPPNAME": self.application_name}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, str(MANAGE), command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """The output so far."""
        return self._log.read_text(errors="replace")

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; return its exit status, negative for a signal."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the worker did not end within {seconds} seconds:\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """Ask it to end."""
        self.send(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it where it is; returns once nothing of it runs any more."""
        self.send(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it without giving it a chance to do anything."""
        self._process.kill()
        self._process.wait()


def environment(database: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment in which `MANAGE` works on the test's databases, with settings."""
    databases = {alias: place_of(alias) for alias in connections}
    told = {"databases": databases, "settings": {"DATABASE_ROUTERS": [ROUTER], **settings}}
    return {
        **os.environ,
        "BROADCASTER_TEST_PROCESS": json.dumps(told),
        "BROADCASTER_TEST_DATABASE": database,
    }


ROUTER = "tests.support.routing.OneDatabase"
PLACE = (
    *("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"),
    "DISABLE_SERVER_SIDE_CURSORS",
)


def place_of(alias: str) -> dict[str, Any]:
    """Return the settings that say where a database of the test is, and how to connect."""
    known = connections[alias].settings_dict
    return {**{name: known[name] for name in PLACE if name in known}, "NAME": str(known["NAME"])}


class Workers:
    """Starts workers, and ends them all when the test is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Worker] = []
        """All of them, also those that have ended."""

    def start(
        self,
        database: str,
        *arguments: str,
        command: str = "outbox_worker",
        prefix: Sequence[str] = (),
        **settings: Any,
    ) -> Worker:
        """Start one; settings are `OUTBOX_*`, and must be JSON.

        `prefix` is the beginning of the command line, such as that of a `Host`.
        """
        log = self._folder / f"worker-{len(self.started)}.log"
        worker = Worker(
            database, *arguments, settings=settings, log=log, command=command, prefix=prefix
        )
        self.started.append(worker)
        return worker


@contextmanager
def starting_workers(folder: Path) -> Iterator[Workers]:
    """Give a starter of workers for the time of the block."""
    workers = Workers(folder)
    try:
        yield workers
    finally:
        for worker in workers.started:
            if worker.runs:
                os.killpg(worker.pid, signal.SIGKILL)  # with the processes that it has started
                worker.kill()
