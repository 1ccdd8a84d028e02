"""The health of a relay as a file, for a probe that has nothing but a shell.

Its text is JSON, and is written every second. Its modification time stands still while the relay is
not live, so that the file's age alone is a liveness probe.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from django_broadcaster.relay.health import LIVE, Check, Health

STALE_SECONDS = 10.0
"""The age above which what stands in the file is no longer believed: its process is frozen."""


class HealthFile:
    """Writes it, whole each time, and removes it at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f"{path.name}.{os.getpid()}")
        self._live_at = time.time()

    def report(self, health: Health) -> None:
        """Write this health down; raises OSError."""
        now = time.time()
        value = {"written_at": now, "process": os.getpid(), "live": health.is_live}
        self._new.write_text(json.dumps({**value, **health.as_dict()}) + "\n")
        if health.is_live:
            self._live_at = now
        os.utime(self._new, (self._live_at, self._live_at))
        self._new.replace(self._path)

    def end(self) -> None:
        """Leave nothing behind."""
        for path in (self._path, self._new):
            path.unlink(missing_ok=True)


def read(path: Path) -> Health:
    """Return the health that stands in a file, or one that says why there is none.

    Raises ValueError for a file that a relay did not write.
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
        raise ValueError(f"{path}: this is not the health file of a relay") from error
    if abs(age) > STALE_SECONDS:  # the clock may have been set back
        detail = (
            f"process {value['process']} wrote its health down {abs(age):.0f} s ago, it is frozen"
        )
        return Health((Check(name="written", ok=False, detail=detail, concerns=LIVE),))
    return Health(checks)


def _missing(detail: str) -> Check:
    return Check(name="written", ok=False, detail=detail, concerns=LIVE)
