"""Every setting: its default, its meaning, the rule for its value, and the ids of its checks.

The checks, and the reference page of settings, are made from these declarations. Values are read at
access, so `override_settings` works. `former.py` translates the settings of version 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from django.conf import settings
from django.utils.functional import empty

from . import former
from .setting_rules import (
    BOOLEAN,
    DURATION,
    POSITIVE_SECONDS,
    RATIO,
    RETRIES,
    Rule,
    seconds_from,
    whole,
)

T = TypeVar("T")

_attributes = vars(settings)
"""The attributes of `settings`, where `_wrapped` is the object with the project's values.

For a name that a project lacks, `settings` itself raises and catches two errors. Most projects lack
most of these names, and a few such reads would be a tenth of the cost of a publish call.
"""


class Setting(Generic[T]):
    """One Django setting with a default; the attribute `X` of `conf` reads `OUTBOX_X`.

    Args:
        default: The value in a project that does not set it.
        meaning: One or more sentences for the reference page, in Markdown.
        check: The rule for its value; None if a function in `checks` judges it.
        id: The id of the check of its value.
        related: The ids of further checks that concern this setting.
    """

    def __init__(
        self,
        default: T,
        meaning: str,
        *,
        check: Rule | None = None,
        id: str,
        related: tuple[str, ...] = (),
    ) -> None:
        self.default = default
        self.meaning = meaning
        self.check = check
        self.id = id
        self.related = related

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
    """A setting that was an item of OUTBOX_WORKER; `formerly` returns its value there, or None."""

    def __init__(
        self, default: T, meaning: str, formerly: Callable[[Any], T | None], **declared: Any
    ) -> None:
        super().__init__(default, meaning, **declared)
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
    """OUTBOX_RETENTION: a dictionary without `published` gets it; one of 0.1 is translated."""

    def __get__(self, instance: object, owner: type | None = None) -> T:
        value: Any = getattr(settings, self.name, self.default)
        if isinstance(value, Mapping):
            spans = former.retention(value) if former.is_retention(value) else value
            value = {"published": self.default, **spans}
        found: T = value
        return found


class BackendSettings:
    """Backends, routes and consumers"""

    PUBLISHERS: Setting[Mapping[str, Mapping[str, Any]]] = Setting(
        {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
        "The backends by alias. Each is a dictionary with `BACKEND`, and optionally `OPTIONS`, "
        "`RETRY`, `ON_EXHAUSTED` and `RETENTION`.",
        id="E001",
        related=("E002", "E003", "E004", "E005", "E006", "E007", "E008", "E032", "W003", "W004"),
    )
    ROUTES: Setting[Mapping[str, str | list[str]] | None] = Setting(
        None,
        "Patterns of event types, such as `order.*`, each with an alias or a list of aliases. The "
        "first pattern that matches decides; other events go to `default`. If the setting is "
        "`None` and no backend runs handlers, events with handlers also go to an alias `handlers`, "
        "which runs them.",
        id="E011",
        related=("E012", "E013", "E014"),
    )
    CONSUMERS: Setting[Mapping[str, Mapping[str, Any]]] = Setting(
        {},
        "The consumers by alias: what `outbox_worker` reads from brokers. Each is a dictionary "
        "with `CONSUMER`, and optionally `OPTIONS` and `DELIVER_TO`, the alias of a backend that "
        "runs handlers. Without `DELIVER_TO` that is the only such backend.",
        id="E046",
        related=("E047", "E048", "E049", "E050", "E051", "E052", "W009"),
    )
    RETRY: Setting[Mapping[str, float]] = WorkerSetting(
        {},
        "The retry policy of backends without a `RETRY` of their own: `initial` and `maximum` in "
        "seconds, `factor`, `jitter` as a fraction, and `max_retries`.",
        former.retry,
        id="E009",
    )
    CIRCUIT: Setting[Mapping[str, float]] = Setting(
        {},
        "The circuit breaker of every backend: `initial` and `maximum`, in seconds between probes "
        "of an unavailable broker, and `probe_size`, in events.",
        id="E010",
    )


class PublishSettings:
    """Publishing"""

    REQUIRE_TRANSACTION: Setting[bool] = Setting(
        False, "Refuse to publish outside of a transaction.", check=BOOLEAN, id="E015"
    )
    MAX_RETRIES: Setting[int] = WorkerSetting(
        3,
        "Retries after the first attempt, where neither the publish call nor the handler, `RETRY` "
        "or `OUTBOX_RETRY` sets `max_retries`.",
        former.max_retries,
        check=RETRIES,
        id="E029",
    )
    JSON_ENCODER: Setting[str | None] = Setting(
        None,
        "The dotted path of a subclass of `json.JSONEncoder`. Its `default()` encodes values that "
        "plain JSON does not have. With `None`, Django's own is used.",
        id="E042",
    )
    NOTIFY: Setting[bool] = Setting(
        True,
        "On PostgreSQL, wake the relays by `NOTIFY` after each commit. Relays also poll.",
        check=BOOLEAN,
        id="E025",
    )


class RelaySettings:
    """Relay"""

    BATCH_SIZE: Setting[int] = WorkerSetting(
        500,
        "The largest number of events in one batch.",
        former.batch_size,
        check=former.BATCH,
        id="E018",
    )
    BATCH_BYTES: Setting[int] = Setting(
        16_000_000,
        "Bytes of payload after which a batch, or a portion for the archive, takes no further "
        "event. A receiver reads fewer messages at once if a batch exceeds it. A relay uses "
        "several times as much memory for each backend.",
        check=whole("bytes", 1),
        id="E030",
    )
    POLL_INTERVAL: Setting[float] = WorkerSetting(
        1.0,
        "Pause between two polls of the outbox when a relay is idle.",
        lambda worker: former.poll_interval(worker, conf.LEASE_SECONDS),
        check=POSITIVE_SECONDS,
        id="E019",
        related=("W001",),
    )
    PARTITIONS: Setting[int] = Setting(
        64,
        "Hash buckets of partition keys. Each bucket belongs to one relay at a time, so at most "
        "this many relays share a backend. Change the number only while the outbox is empty and no "
        "relay runs.",
        check=whole("partitions", 1, 1024),
        id="E020",
    )
    LEASE_SECONDS: Setting[float] = Setting(
        15.0,
        "Time without a heartbeat after which other relays take over a relay's partitions.",
        check=seconds_from(2),
        id="E021",
        related=("W001",),
    )
    SHUTDOWN_TIMEOUT: Setting[float] = Setting(
        30.0,
        "Time that a stopping relay gives running batches to finish.",
        check=seconds_from(0),
        id="E022",
    )
    MAX_CRASHES: Setting[int] = Setting(
        3,
        "Crashes of the relay while it delivers an event, after which the event becomes a dead "
        "letter. The first crash only identifies the batch, so the least is 2.",
        check=whole("crashes", 2),
        id="E023",
    )


class RetentionSettings:
    """Retention"""

    RETENTION: Setting[timedelta | float | Mapping[str, Any] | None] = RetentionSetting(
        timedelta(days=7),
        "How long published events are kept, as a `timedelta` or in seconds. 0 deletes them at "
        "once; `None` keeps them for ever. A dictionary has a time for each of `published`, "
        "`failed` and `cancelled`. `RETENTION` of a backend overrides this setting.",
        id="E016",
        related=("E028", "I002", "W005"),
    )
    ARCHIVE: Setting[Mapping[str, Any] | None] = Setting(
        None,
        "The archive for events before they are purged: `BACKEND`, its dotted path, and its "
        "`OPTIONS`. With `None`, old events are deleted.",
        id="E033",
        related=("E036", "W005"),
    )
    TIME_PARTITIONS: Setting[timedelta | float | None] = Setting(
        None,
        "On PostgreSQL, the approximate time span of one partition of the outbox's table, so that "
        "a purge drops whole partitions. `outbox_partition` creates them. With `None`, the table "
        "has no partitions.",
        check=DURATION,
        id="E034",
        related=("E035", "E036"),
    )
    INBOX_RETENTION: Setting[timedelta | float | None] = Setting(
        timedelta(days=30),
        "How long the inbox remembers a processed event, and the runs of Django's tasks are kept; "
        "`None` is for ever. Keep it longer than any redelivery can take.",
        check=DURATION,
        id="E017",
    )
    HISTORY_RETENTION: Setting[timedelta | float | None] = Setting(
        timedelta(days=7),
        "How long failed attempts, the steps of an event's history, finished operations, and the "
        "dashboard's figures by the minute are kept; `None` is for ever.",
        check=DURATION,
        id="E026",
    )


class HealthSettings:
    """Health checks"""

    MAX_LAG_SECONDS: Setting[float] = Setting(
        60.0,
        "Time that an event may be due before the outbox counts as unhealthy.",
        check=POSITIVE_SECONDS,
        id="E037",
    )
    MAX_RETRY_AGE_SECONDS: Setting[float] = Setting(
        3600.0,
        "Age, since its publication, of an event in retry before the outbox counts as unhealthy.",
        check=POSITIVE_SECONDS,
        id="E039",
    )
    FAILING_RATIO: Setting[float] = Setting(
        0.5,
        "Part of the recent attempts that must have failed before a backend counts as failing.",
        check=RATIO,
        id="E043",
    )
    FAILING_ATTEMPTS: Setting[int] = Setting(
        10,
        "Recent attempts that must have failed before the ratio counts.",
        check=whole("attempts", 1),
        id="E044",
    )
    FAILING_MINUTES: Setting[int] = Setting(
        5,
        "Minutes in which an attempt is recent. A backend also counts as failing if all attempts "
        "fail for that long, however few.",
        check=whole("minutes", 1, 60),
        id="E045",
    )
    STALL_SECONDS: Setting[float] = Setting(
        120.0,
        "Time without progress after which a relay counts as stalled and should be restarted. Keep "
        "it longer than any statement, broker call or handler takes.",
        check=seconds_from(1),
        id="E038",
    )


class ConfidentialitySettings:
    """Confidential data"""

    ENCRYPTION_KEYS: Setting[Sequence[str | bytes]] = Setting(
        [],
        "Fernet keys that encrypt payloads at rest. The first key encrypts; all keys decrypt. "
        "Without any key, payloads are stored in plain text.",
        id="E040",
    )
    REDACTOR: Setting[str | None] = Setting(
        None,
        "The dotted path of a function that takes a `CloudEvent` and returns the one that the "
        "admin and `outbox_inspect` show.",
        id="E041",
    )


class Conf(
    BackendSettings,
    PublishSettings,
    RelaySettings,
    RetentionSettings,
    HealthSettings,
    ConfidentialitySettings,
):
    """The settings of django-broadcaster, as attributes without their prefix `OUTBOX_`."""


conf: Conf = Conf()


def setting_groups() -> dict[type, dict[str, Setting[Any]]]:
    """Return the settings by attribute in each of their groups, in the reference page's order."""
    return {
        group: {name: item for name, item in vars(group).items() if isinstance(item, Setting)}
        for group in Conf.__bases__
    }


def all_settings() -> dict[str, Setting[Any]]:
    """Return every setting by its full name, in the order of the reference page."""
    return {item.name: item for group in setting_groups().values() for item in group.values()}
