"""The types of settings, with which type checkers find wrong keys and values in `settings.py`.

    from django_broadcaster.setting_types import BackendEntry

    OUTBOX_PUBLISHERS: dict[str, BackendEntry] = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
    }

This module imports nothing of Django. The reference page of settings has the meanings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Required, TypedDict

__all__ = [
    "ArchiveEntry",
    "BackendEntry",
    "Circuit",
    "ConsumerEntry",
    "OutboxSettings",
    "Retention",
    "Retry",
    "SchemaRegistry",
]

Duration = timedelta | float | None


class Retry(TypedDict, total=False):
    """OUTBOX_RETRY, and `RETRY` of a backend."""

    initial: float
    factor: float
    maximum: float
    jitter: float
    max_retries: int


class Circuit(TypedDict, total=False):
    """OUTBOX_CIRCUIT."""

    initial: float
    maximum: float
    probe_size: int


class Retention(TypedDict, total=False):
    """OUTBOX_RETENTION by status, and `RETENTION` of a backend."""

    published: Duration
    failed: Duration
    cancelled: Duration


class BackendEntry(TypedDict, total=False):
    """An entry of OUTBOX_PUBLISHERS."""

    BACKEND: Required[str]
    OPTIONS: Mapping[str, Any]
    RETRY: Retry
    ON_EXHAUSTED: Literal["skip", "block"]
    RETENTION: Duration | Retention


class ConsumerEntry(TypedDict, total=False):
    """An entry of OUTBOX_CONSUMERS."""

    CONSUMER: Required[str]
    OPTIONS: Mapping[str, Any]
    DELIVER_TO: str


class SchemaRegistry(TypedDict, total=False):
    """The option `schema_registry` of KafkaBackend and KafkaConsumer."""

    url: str
    username: str | None
    password: str | None
    tls: bool | Mapping[str, Any]
    timeout: float
    format: Literal["avro", "protobuf"]
    schemas: Mapping[str, Any]
    subject: Literal["topic", "record", "topic_record"]
    register: bool


class ArchiveEntry(TypedDict, total=False):
    """OUTBOX_ARCHIVE."""

    BACKEND: Required[str]
    OPTIONS: Mapping[str, Any]


class OutboxSettings(TypedDict, total=False):
    """All settings, for example as the arguments of `override_settings`."""

    OUTBOX_PUBLISHERS: Mapping[str, BackendEntry]
    OUTBOX_ROUTES: Mapping[str, str | list[str]] | None
    OUTBOX_CONSUMERS: Mapping[str, ConsumerEntry]
    OUTBOX_RETRY: Retry
    OUTBOX_CIRCUIT: Circuit
    OUTBOX_REQUIRE_TRANSACTION: bool
    OUTBOX_MAX_RETRIES: int
    OUTBOX_JSON_ENCODER: str | None
    OUTBOX_NOTIFY: bool
    OUTBOX_BATCH_SIZE: int
    OUTBOX_BATCH_BYTES: int
    OUTBOX_POLL_INTERVAL: float
    OUTBOX_PARTITIONS: int
    OUTBOX_LEASE_SECONDS: float
    OUTBOX_SHUTDOWN_TIMEOUT: float
    OUTBOX_MAX_CRASHES: int
    OUTBOX_RETENTION: Duration | Retention
    OUTBOX_ARCHIVE: ArchiveEntry | None
    OUTBOX_TIME_PARTITIONS: Duration
    OUTBOX_INBOX_RETENTION: Duration
    OUTBOX_HISTORY_RETENTION: Duration
    OUTBOX_MAX_LAG_SECONDS: float
    OUTBOX_MAX_RETRY_AGE_SECONDS: float
    OUTBOX_FAILING_RATIO: float
    OUTBOX_FAILING_ATTEMPTS: int
    OUTBOX_FAILING_MINUTES: int
    OUTBOX_STALL_SECONDS: float
    OUTBOX_ENCRYPTION_KEYS: Sequence[str | bytes]
    OUTBOX_REDACTOR: str | None
