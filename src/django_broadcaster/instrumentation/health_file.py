"""The health of a relay as a JSON file, for probes that have only a shell.

The file has the relay's own checks, and whether the backends are failing by the outbox' figures.

The file is written every second. Its modification time stops while the relay is not live, so the
age of the file is a liveness probe.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from django_broadcaster.relay.health import LIVE, Check, Health

STALE_SECONDS = 10.0
"""The age above which a file is ignored, because its process is frozen."""


class HealthFile:
    """Replaces the file with each report, and removes it at the end.

    `more` returns further checks. It must answer at once: the age of the file is a liveness probe.
    """

    def __init__(self, path: Path, more: Callable[[], Iterable[Check]] = tuple) -> None:
        self._path = path
        self._more = more
        self._new = path.with_name(f"{path.name}.{os.getpid()}")
        self._live_at = time.time()

    def report(self, health: Health) -> None:
        """Write a health; raise OSError if the file cannot be written."""
        health = Health((*health.checks, *self._more()))
        now = time.time()
        value = {"written_at": now, "process": os.getpid(), "live": health.is_live}
        self._new.write_text(json.dumps({**value, **health.as_dict()}) + "\n")
        if health.is_live:
            self._live_at = now
        os.utime(self._new, (self._live_at, self._live_at))
        self._new.replace(self._path)

    def end(self) -> None:
        """Remove the file."""
        for path in (self._path, self._new):
            path.unlink(missing_ok=True)


def read(path: Path) -> Health:
    """Return the health in a file; a missing or stale file is a failing check.

    Raises:
        ValueError: The file is not a health file.
    """
    try:
        text = path.read_text()
    except OSError as error:
        return Health((_missing(f"{path}: {error.strerror}"),))
    try:
        value = json.loads(text)
        age = time.time() - value["written_at"]
        checks = tuple(Check.from_dict(each) for each in value["checks"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the health file of a relay.") from error
    if abs(age) > STALE_SECONDS:  # the clock may have been set back
        detail = f"process {value['process']} is frozen; its last report was {abs(age):.0f} s ago"
        return Health((Check(name="written", ok=False, detail=detail, concerns=LIVE),))
    return Health(checks)


def _missing(detail: str) -> Check:
    return Check(name="written", ok=False, detail=detail, concerns=LIVE)
