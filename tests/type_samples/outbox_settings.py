"""A project's settings with their types; nothing here is run."""

from __future__ import annotations

from datetime import timedelta

from django.test import override_settings

from django_broadcaster.setting_types import (
    ArchiveEntry,
    BackendEntry,
    Circuit,
    ConsumerEntry,
    OutboxSettings,
    Retention,
    Retry,
)

OUTBOX_PUBLISHERS: dict[str, BackendEntry] = {
    "default": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": "redis://localhost:6379/0"},
        "RETRY": {"initial": 0.5, "maximum": 60},
        "ON_EXHAUSTED": "block",
        "RETENTION": timedelta(days=1),
    },
}
OUTBOX_CONSUMERS: dict[str, ConsumerEntry] = {
    "billing": {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer"},
}
OUTBOX_RETRY: Retry = {"max_retries": 5}
OUTBOX_CIRCUIT: Circuit = {"probe_size": 10}
OUTBOX_RETENTION: Retention = {"published": timedelta(days=7), "failed": None}
OUTBOX_ARCHIVE: ArchiveEntry = {"BACKEND": "django_broadcaster.archives.FileArchive"}


def is_tested() -> None:
    """All settings are the arguments of a test's."""
    changed: OutboxSettings = {"OUTBOX_BATCH_SIZE": 10, "OUTBOX_PUBLISHERS": OUTBOX_PUBLISHERS}
    with override_settings(**changed):
        pass
