"""Every setting, its default and its meaning; read at access, so `override_settings` works.

Durations are in seconds unless a `timedelta` is named. The system checks judge the values, and
`former.py` knows what the settings of version 0.1 mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from django.conf import settings
from django.utils.functional import empty

from . import former

T = TypeVar("T")

_attributes = vars(settings)
"""Where `settings` keeps what it wraps, which tells at once that it lacks a name.

`settings` itself raises and catches two errors for it, and nearly every setting is one that a
project lacks: a few of them would be a tenth of what a publish call costs.
"""


class Setting(Generic[T]):
    """One Django setting with a default; the attribute `X` of `conf` reads `OUTBOX_X`."""

    def __init__(self, default: T, meaning: str) -> None:
        self.default = default
        self.meaning = meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"OUTBOX_{name}"

    def __get__(self, instance: object, owner: type | None = None) -> T:
        source = _attributes.get("_wrapped", empty)
        if source is empty:
            source = settings
        value: T = getattr(source, self.name, self.default)
        return value


_UNSET: Final = object()


class WorkerSetting(Setting[T]):
    """A setting that was an item of OUTBOX_WORKER; `formerly` returns what that says, or None."""

    def __init__(self, default: T, meaning: str, formerly: Callable[[Any], T | None]) -> None:
        super().__init__(default, meaning)
        self._formerly = formerly

    def __get__(self, instance: object, owner: type | None = None) -> T:
        source = _attributes.get("_wrapped", empty)
        if source is empty:
            source = settings
        value: Any = getattr(source, self.name, _UNSET)
        if value is _UNSET:
            worker = getattr(source, former.WORKER, None)
            value = None if worker is None else self._formerly(worker)
            value = self.default if value is None else value
        found: T = value
        return found


class RetentionSetting(Setting[T]):
    """OUTBOX_RETENTION: a dictionary gets its `published`, and one of version 0.1 is translated."""

    def __get__(self, instance: object, owner: type | None = None) -> T:
        value: Any = getattr(settings, self.name, self.default)
        if isinstance(value, Mapping):
            spans = former.retention(value) if former.is_retention(value) else value
            value = {"published": self.default, **spans}
        found: T = value
        return found


class Conf:
    """The settings of django-broadcaster, as attributes without their prefix `OUTBOX_`."""

    PUBLISHERS: Setting[Mapping[str, Mapping[str, Any]]] = Setting(
        {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
        "The backends by alias: BACKEND, OPTIONS, RETRY, ON_EXHAUSTED, RETENTION.",
    )
    ROUTES: Setting[Mapping[str, str | list[str]] | None] = Setting(
        None,
        "Event type patterns (`order.*`) to one alias or a list; the first that matches decides. "
        "If it is None and no backend runs handlers, events with handlers also go to an alias "
        "`handlers`, which runs them.",
    )
    JSON_ENCODER: Setting[str | None] = Setting(
        None,
        "Dotted path of a subclass of `json.JSONEncoder`, whose `default()` encodes what is not "
        "plain JSON in an event's data; None for Django's own.",
    )
    REQUIRE_TRANSACTION: Setting[bool] = Setting(
        False, "Refuse to publish outside of a transaction."
    )
    RETENTION: Setting[timedelta | float | Mapping[str, Any] | None] = RetentionSetting(
        timedelta(days=7),
        "How long published events are kept: a timedelta or seconds; 0 deletes at once, "
        "None keeps them for ever. Or a dict with a time for `published`, `failed` and "
        "`cancelled`. RETENTION of a backend goes before it.",
    )
    ARCHIVE: Setting[Mapping[str, Any] | None] = Setting(
        None,
        "Where events go before they are purged: BACKEND, the dotted path of an archive, and its "
        "OPTIONS; None to delete them.",
    )
    TIME_PARTITIONS: Setting[timedelta | float | None] = Setting(
        None,
        "On PostgreSQL, about the time that one partition of the outbox's table holds, so that to "
        "purge is to drop one; `outbox_partition` makes them. None for a plain table.",
    )
    INBOX_RETENTION: Setting[timedelta | float | None] = Setting(
        timedelta(days=30),
        "How long the inbox remembers a processed event: longer than anything may be redelivered; "
        "None for ever.",
    )
    HISTORY_RETENTION: Setting[timedelta | float | None] = Setting(
        timedelta(days=7),
        "How long failed attempts, operations that have ended, and the minutes that the dashboard "
        "draws are kept; None for ever.",
    )
    BATCH_SIZE: Setting[int] = WorkerSetting(
        500, "Events that one delivery takes at most.", former.batch_size
    )
    BATCH_BYTES: Setting[int] = Setting(
        16_000_000,
        "Bytes of payload from which on a delivery takes no further event, and an archive neither; "
        "a relay takes several times as much memory for each backend.",
    )
    POLL_INTERVAL: Setting[float] = WorkerSetting(
        1.0,
        "Seconds between looks at the outbox of a relay with nothing to do.",
        lambda worker: former.poll_interval(worker, conf.LEASE_SECONDS),
    )
    MAX_RETRIES: Setting[int] = WorkerSetting(
        3,
        "Attempts after the first one, of an event whose publish call does not say `max_retries`.",
        former.max_retries,
    )
    NOTIFY: Setting[bool] = Setting(
        True, "On PostgreSQL, wake the relays by NOTIFY after a commit; they poll all the same."
    )
    PARTITIONS: Setting[int] = Setting(
        64,
        "Hash buckets of keys, the unit of ownership, and so the most relays that can share a "
        "backend. Change it only when the outbox is empty and no relay runs.",
    )
    LEASE_SECONDS: Setting[float] = Setting(
        15.0, "Seconds without a heartbeat after which a relay's partitions are free."
    )
    SHUTDOWN_TIMEOUT: Setting[float] = Setting(
        30.0, "Seconds that a stopping relay gives the batches in flight."
    )
    MAX_LAG_SECONDS: Setting[float] = Setting(
        60.0, "Seconds that an event may have been due before the outbox counts as unhealthy."
    )
    MAX_RETRY_AGE_SECONDS: Setting[float] = Setting(
        3600.0,
        "Seconds since its publication that an event may still be in retry before the outbox "
        "counts as unhealthy.",
    )
    STALL_SECONDS: Setting[float] = Setting(
        120.0,
        "Seconds without a sign of life after which a relay counts as stalled, and is to be "
        "restarted: more than one statement, one call to a broker or one handler ever takes.",
    )
    MAX_CRASHES: Setting[int] = Setting(
        3,
        "Crashes of its relay after which the event in flight is dead-lettered; 2 or more, because "
        "the first one tells only the batch.",
    )
    RETRY: Setting[Mapping[str, float]] = WorkerSetting(
        {},
        "Retry policy of backends without a RETRY of their own: initial and maximum in seconds, "
        "factor, jitter (a fraction).",
        former.retry,
    )
    CIRCUIT: Setting[Mapping[str, float]] = Setting(
        {},
        "Circuit breaker of every backend: initial, maximum (seconds between probes of a broker "
        "that is away), probe_size (events).",
    )
    ENCRYPTION_KEYS: Setting[Sequence[str | bytes]] = Setting(
        [],
        "Fernet keys that encrypt payloads at rest: the first one encrypts, all of them decrypt. "
        "Without any, payloads are stored as they are.",
    )
    REDACTOR: Setting[str | None] = Setting(
        None,
        "Dotted path of a function from a CloudEvent to the CloudEvent that the admin and "
        "`outbox_inspect` show of it.",
    )


conf: Conf = Conf()


def all_settings() -> dict[str, Setting[Any]]:
    """Return every setting by its full name, in the order of the reference page."""
    return {item.name: item for item in vars(Conf).values() if isinstance(item, Setting)}
