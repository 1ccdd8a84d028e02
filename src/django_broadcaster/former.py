"""Translates the settings of version 0.1: OUTBOX_WORKER, and the old form of OUTBOX_RETENTION.

    OUTBOX_WORKER["BATCH_SIZE"]                    OUTBOX_BATCH_SIZE
    OUTBOX_WORKER["SLEEP_TIME"]                    OUTBOX_POLL_INTERVAL
    OUTBOX_WORKER["MAX_RETRIES"]                   OUTBOX_MAX_RETRIES
    OUTBOX_WORKER["RETRY_BACKOFF"]                 OUTBOX_RETRY: False is a factor of 1
    OUTBOX_RETENTION["CLEANUP_PUBLISHED"]          OUTBOX_RETENTION["published"]: False is None
    OUTBOX_RETENTION["PUBLISHED_RETENTION_DAYS"]   OUTBOX_RETENTION["published"]
    OUTBOX_RETENTION["FAILED_RETENTION_DAYS"]      OUTBOX_RETENTION["failed"]

Pure functions: `conf.py` reads the settings, and a current setting overrides its former name. A
missing or invalid item is ignored here; the system checks report it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from .setting_rules import BOOLEAN, DAYS, POSITIVE_SECONDS, RETRIES, Rule, whole

WORKER: Final = "OUTBOX_WORKER"

POLLS_PER_LEASE: Final = 4
"""With fewer polls, a relay takes over the partitions of a crashed one too late."""

BATCH: Final = whole("events", 1, 10_000)


class Item(NamedTuple):
    """One key of a former dictionary."""

    setting: str  # its name today
    rule: Rule
    example: object


WORKER_ITEMS: Final[Mapping[str, Item]] = {
    "BATCH_SIZE": Item("OUTBOX_BATCH_SIZE", BATCH, 100),
    "SLEEP_TIME": Item("OUTBOX_POLL_INTERVAL", POSITIVE_SECONDS, 5),
    "MAX_RETRIES": Item("OUTBOX_MAX_RETRIES", RETRIES, 3),
    "RETRY_BACKOFF": Item("OUTBOX_RETRY", BOOLEAN, True),
}
RETENTION_ITEMS: Final[Mapping[str, Item]] = {
    "CLEANUP_PUBLISHED": Item("OUTBOX_RETENTION", BOOLEAN, True),
    "PUBLISHED_RETENTION_DAYS": Item("OUTBOX_RETENTION", DAYS, 7),
    "FAILED_RETENTION_DAYS": Item("OUTBOX_RETENTION", DAYS, 30),
}


def batch_size(worker: Any) -> int | None:
    """Return OUTBOX_BATCH_SIZE by OUTBOX_WORKER, or None."""
    size: int | None = _item(worker, "BATCH_SIZE", WORKER_ITEMS)
    return size


def poll_interval(worker: Any, lease: float) -> float | None:
    """Return OUTBOX_POLL_INTERVAL by OUTBOX_WORKER, or None; `lease` is OUTBOX_LEASE_SECONDS."""
    seconds: float | None = _item(worker, "SLEEP_TIME", WORKER_ITEMS)
    if seconds is None or not POSITIVE_SECONDS.accepts(lease):
        return seconds
    return min(seconds, lease / POLLS_PER_LEASE)


def max_retries(worker: Any) -> int | None:
    """Return OUTBOX_MAX_RETRIES by OUTBOX_WORKER, or None."""
    retries: int | None = _item(worker, "MAX_RETRIES", WORKER_ITEMS)
    return retries


def retry(worker: Any) -> Mapping[str, float] | None:
    """Return OUTBOX_RETRY by OUTBOX_WORKER, or None."""
    return {"factor": 1.0} if _item(worker, "RETRY_BACKOFF", WORKER_ITEMS) is False else None


def is_retention(value: object) -> bool:
    """Return True if a value of OUTBOX_RETENTION is a dictionary of version 0.1."""
    return isinstance(value, Mapping) and any(key in RETENTION_ITEMS for key in value)


def retention(value: Any) -> dict[str, timedelta | None]:
    """Return the spans of a former OUTBOX_RETENTION, for each status that it names."""
    spans: dict[str, timedelta | None] = {}
    if (days := _item(value, "PUBLISHED_RETENTION_DAYS", RETENTION_ITEMS)) is not None:
        spans["published"] = timedelta(days=days)
    if _item(value, "CLEANUP_PUBLISHED", RETENTION_ITEMS) is False:
        spans["published"] = None
    if (days := _item(value, "FAILED_RETENTION_DAYS", RETENTION_ITEMS)) is not None:
        spans["failed"] = timedelta(days=days)
    return spans


def _item(found: Any, key: str, items: Mapping[str, Item]) -> Any:
    """Return an item of a dictionary if it is valid, else None."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return value if items[key].rule.accepts(value) else None
