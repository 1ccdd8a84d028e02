"""What the settings of version 0.1 mean today: OUTBOX_WORKER, and OUTBOX_RETENTION as it was.

    OUTBOX_WORKER["BATCH_SIZE"]                    OUTBOX_BATCH_SIZE
    OUTBOX_WORKER["SLEEP_TIME"]                    OUTBOX_POLL_INTERVAL
    OUTBOX_WORKER["MAX_RETRIES"]                   OUTBOX_MAX_RETRIES
    OUTBOX_WORKER["RETRY_BACKOFF"]                 OUTBOX_RETRY: False is a factor of 1
    OUTBOX_RETENTION["CLEANUP_PUBLISHED"]          OUTBOX_RETENTION["published"]: False is None
    OUTBOX_RETENTION["PUBLISHED_RETENTION_DAYS"]   OUTBOX_RETENTION["published"]
    OUTBOX_RETENTION["FAILED_RETENTION_DAYS"]      OUTBOX_RETENTION["failed"]

Pure: `conf.py` reads the settings, and a setting of today goes before its former name. An item that
is missing or wrong counts as not there; the system checks say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from math import isfinite
from typing import Any, Final, NamedTuple

WORKER: Final = "OUTBOX_WORKER"

POLLS_PER_LEASE: Final = 4
"""A relay that polls more seldom than that takes over the partitions of a dead one too late."""

_LONGEST_DAYS: Final = 36_500


class Item(NamedTuple):
    """One key of a former dictionary."""

    setting: str  # of today
    is_valid: Callable[[object], bool]
    rule: str
    example: object


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_pause(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_days(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _LONGEST_DAYS


_DAYS: Final = "must be a number of days, from 0 to 36500"
_BOOL: Final = "must be True or False"

WORKER_ITEMS: Final[Mapping[str, Item]] = {
    "BATCH_SIZE": Item(
        "OUTBOX_BATCH_SIZE", _whole(1, 10_000), "must be a whole number from 1 to 10000", 100
    ),
    "SLEEP_TIME": Item("OUTBOX_POLL_INTERVAL", _is_pause, "must be seconds, above 0", 5),
    "MAX_RETRIES": Item(
        "OUTBOX_MAX_RETRIES", _whole(0, 32_767), "must be a whole number from 0 to 32767", 3
    ),
    "RETRY_BACKOFF": Item("OUTBOX_RETRY", _is_bool, _BOOL, True),
}
RETENTION_ITEMS: Final[Mapping[str, Item]] = {
    "CLEANUP_PUBLISHED": Item("OUTBOX_RETENTION", _is_bool, _BOOL, True),
    "PUBLISHED_RETENTION_DAYS": Item("OUTBOX_RETENTION", _is_days, _DAYS, 7),
    "FAILED_RETENTION_DAYS": Item("OUTBOX_RETENTION", _is_days, _DAYS, 30),
}


def batch_size(worker: Any) -> int | None:
    """Return what OUTBOX_WORKER says of OUTBOX_BATCH_SIZE, None for nothing."""
    size: int | None = _item(worker, "BATCH_SIZE", WORKER_ITEMS)
    return size


def poll_interval(worker: Any, lease: float) -> float | None:
    """Return what OUTBOX_WORKER says of OUTBOX_POLL_INTERVAL; `lease` is OUTBOX_LEASE_SECONDS."""
    seconds: float | None = _item(worker, "SLEEP_TIME", WORKER_ITEMS)
    if seconds is None or not _is_pause(lease):
        return seconds
    return min(seconds, lease / POLLS_PER_LEASE)


def max_retries(worker: Any) -> int | None:
    """Return what OUTBOX_WORKER says of OUTBOX_MAX_RETRIES."""
    retries: int | None = _item(worker, "MAX_RETRIES", WORKER_ITEMS)
    return retries


def retry(worker: Any) -> Mapping[str, float] | None:
    """Return what OUTBOX_WORKER says of OUTBOX_RETRY."""
    return {"factor": 1.0} if _item(worker, "RETRY_BACKOFF", WORKER_ITEMS) is False else None


def is_retention(value: object) -> bool:
    """Whether a value of OUTBOX_RETENTION is a dictionary of version 0.1."""
    return isinstance(value, Mapping) and any(key in RETENTION_ITEMS for key in value)


def retention(value: Any) -> dict[str, timedelta | None]:
    """Return a former OUTBOX_RETENTION as spans by status, of those that it names."""
    spans: dict[str, timedelta | None] = {}
    if (days := _item(value, "PUBLISHED_RETENTION_DAYS", RETENTION_ITEMS)) is not None:
        spans["published"] = timedelta(days=days)
    if _item(value, "CLEANUP_PUBLISHED", RETENTION_ITEMS) is False:
        spans["published"] = None
    if (days := _item(value, "FAILED_RETENTION_DAYS", RETENTION_ITEMS)) is not None:
        spans["failed"] = timedelta(days=days)
    return spans


def _item(found: Any, key: str, items: Mapping[str, Item]) -> Any:
    """Return a valid item of a dictionary, else None."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return value if items[key].is_valid(value) else None
