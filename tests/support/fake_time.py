"""Programs that run at another time of day, by Debian's libfaketime."""

from __future__ import annotations

from pathlib import Path

from tests.support.redis_server import missing
from tools import launch


def preloaded(offset: str) -> dict[str, str]:
    """Return the environment of a program whose time of day is off, such as `+1h`."""
    return {"LD_PRELOAD": _library(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def preloaded_from(file: Path) -> dict[str, str]:
    """Return the environment of a program that reads its offset from a file each time."""
    return {
        "LD_PRELOAD": _library(),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> str:
    """Return the library, which is installed if we may; skips the test without it."""
    for attempt in range(2):
        for found in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"):
            return str(found)
        if attempt == 0:
            try:
                launch.apt_install(["faketime"])
            except launch.CannotStart as error:
                missing(f"libfaketime: {error}")
    return str(missing("libfaketime: Debian's faketime brought none"))
