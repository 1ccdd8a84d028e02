"""The settings of version 0.1 count as those of today, which go before them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from django_broadcaster import checks
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture(autouse=True)
def _own_retries(settings: Settings) -> None:
    """Leave OUTBOX_RETRY to the former settings and the defaults."""
    del settings.OUTBOX_RETRY


WORKER = {"BATCH_SIZE": 100, "SLEEP_TIME": 2, "MAX_RETRIES": 5, "RETRY_BACKOFF": False}
RETENTION = {
    "CLEANUP_PUBLISHED": True,
    "PUBLISHED_RETENTION_DAYS": 3,
    "FAILED_RETENTION_DAYS": 30,
}
NAMES = ("BATCH_SIZE", "POLL_INTERVAL", "MAX_RETRIES", "RETRY")


def worker_settings() -> dict[str, Any]:
    """The settings that OUTBOX_WORKER is about, as the package sees them."""
    return {name: getattr(conf, name) for name in NAMES}


DEFAULTS = {"BATCH_SIZE": 500, "POLL_INTERVAL": 1.0, "MAX_RETRIES": 3, "RETRY": {}}


def test_every_item_of_the_worker_counts() -> None:
    """OUTBOX_WORKER says what four settings of today say, and no longer than it is there."""
    with override_settings(OUTBOX_WORKER=WORKER):
        assert worker_settings() == {
            "BATCH_SIZE": 100,
            "POLL_INTERVAL": 2,
            "MAX_RETRIES": 5,
            "RETRY": {"factor": 1.0},
        }
    assert worker_settings() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [("BATCH_SIZE", 7), ("POLL_INTERVAL", 0.5), ("MAX_RETRIES", 0), ("RETRY", {"maximum": 9})],
)
def test_a_setting_of_today_goes_first(name: str, value: Any) -> None:
    """Where both are set the new one counts, and the other items stay as they are."""
    with override_settings(OUTBOX_WORKER=WORKER):
        before = worker_settings()
        with override_settings(**{f"OUTBOX_{name}": value}):
            assert worker_settings() == {**before, name: value}


@pytest.mark.parametrize(
    "worker",
    [
        None,
        {},
        [],
        {"BATCH_SIZE": 0, "SLEEP_TIME": -1, "MAX_RETRIES": "3", "RETRY_BACKOFF": 0},
        {"BATCH_SIZE": True, "SLEEP_TIME": None, "MAX_RETRIES": 1.5, "RETRY_BACKOFF": True},
    ],
)
def test_what_is_missing_or_wrong_leaves_the_default(worker: Any) -> None:
    """A wrong item is for the system checks; a relay that runs all the same has the default."""
    with override_settings(OUTBOX_WORKER=worker):
        assert worker_settings() == DEFAULTS


@pytest.mark.parametrize(
    ("seconds", "lease", "interval"), [(5, 15, 3.75), (60, 2, 0.5), (3600, 15, 3.75), (1, 15, 1)]
)
def test_a_long_sleep_leaves_a_relay_its_lease(
    seconds: float, lease: float, interval: float
) -> None:
    """SLEEP_TIME is cut to a quarter of the lease, which the checks have no warning about."""
    settings = {"OUTBOX_WORKER": {"SLEEP_TIME": seconds}, "OUTBOX_LEASE_SECONDS": lease}
    with override_settings(**settings):
        assert interval == conf.POLL_INTERVAL
        assert "django_broadcaster.W001" not in [each.id for each in run_checks(tags=[checks.TAG])]


def test_without_backoff_every_retry_follows_at_the_same_pace() -> None:
    """RETRY_BACKOFF False makes delays that do not grow, but for the jitter."""
    with override_settings(OUTBOX_WORKER={"RETRY_BACKOFF": False}):
        policy = backends.retry_policy("default")
        delays = [policy.delay(attempt, 100) for attempt in range(1, 50)]
    assert all(each is not None and 9 <= each <= 11 for each in delays)


@pytest.mark.parametrize(
    ("value", "published", "failed"),
    [
        (RETENTION, timedelta(days=3), timedelta(days=30)),
        ({**RETENTION, "CLEANUP_PUBLISHED": False}, None, timedelta(days=30)),
        ({"CLEANUP_PUBLISHED": True}, timedelta(days=7), None),
        ({"PUBLISHED_RETENTION_DAYS": 0.5}, timedelta(hours=12), None),
        ({"FAILED_RETENTION_DAYS": 1}, timedelta(days=7), timedelta(days=1)),
        ({"PUBLISHED_RETENTION_DAYS": "3", "FAILED_RETENTION_DAYS": -1}, timedelta(days=7), None),
    ],
)
def test_former_retention_counts(
    value: Any, published: timedelta | None, failed: timedelta | None
) -> None:
    """Days become spans, an event that is not cleaned up stays, and dead letters have their own."""
    with override_settings(OUTBOX_RETENTION=value):
        policy = backends.retention("default")
    assert (policy.published, policy.failed) == (published, failed)


def test_retention_of_a_backend_goes_before_that_of_all() -> None:
    """Each status is the backend's own where it names one, else that of OUTBOX_RETENTION."""
    entry = {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
    publishers = {
        "one": {**entry, "RETENTION": timedelta(days=1)},
        "other": {**entry, "RETENTION": {"failed": None}},
    }
    with override_settings(OUTBOX_PUBLISHERS=publishers, OUTBOX_RETENTION=RETENTION):
        one, other = backends.retention("one"), backends.retention("other")
    assert (one.published, one.failed) == (timedelta(days=1), timedelta(days=30))
    assert (other.published, other.failed) == (timedelta(days=3), None)


@pytest.mark.parametrize(
    "former",
    [
        {"OUTBOX_WORKER": WORKER},
        {"OUTBOX_WORKER": {**WORKER, "SLEEP_TIME": 60, "RETRY_BACKOFF": True}},
        {"OUTBOX_RETENTION": RETENTION},
        {"OUTBOX_RETENTION": {**RETENTION, "CLEANUP_PUBLISHED": False}},
    ],
)
def test_what_the_check_says_to_write_means_the_same(former: dict[str, Any]) -> None:
    """The hint is a setting that one can paste: then nothing changes, and no check speaks."""

    def seen() -> Any:
        return worker_settings(), conf.RETENTION

    with override_settings(**former):
        before = seen()
        (message,) = run_checks(tags=[checks.TAG])
    assert message.id in ("django_broadcaster.I001", "django_broadcaster.I002")
    written = re.fullmatch(r"Set (.*?)( instead)?\.", message.hint or "")
    assert written
    code = re.sub(r", (?=OUTBOX_)", "\n", written[1])
    today: dict[str, Any] = {"timedelta": timedelta}
    exec(code, today)  # noqa: S102  # as a reader pastes it
    today = {name: value for name, value in today.items() if name.startswith("OUTBOX_")}
    with override_settings(**today):
        assert seen() == before
        assert run_checks(tags=[checks.TAG]) == []


def test_events_have_the_retries_of_the_settings(database: str) -> None:
    """A publish call without `max_retries` takes OUTBOX_MAX_RETRIES, and none that names them."""

    def publish(**retries: int) -> list[int]:
        OutboxEvent.objects.using(database).all().delete()
        event = CloudEvent("order.placed", "/shop")
        publisher.publish_event("order.placed", "/shop", using=database, **retries)  # type: ignore[arg-type]
        publisher.publish_cloud_event(event, using=database, **retries)  # type: ignore[arg-type]
        publisher.publish_events(
            [{"event_type": "order.placed", "source": "/shop"}],
            using=database,
            **retries,  # type: ignore[arg-type]
        )
        return list(OutboxEvent.objects.using(database).values_list("max_retries", flat=True))

    assert publish() == [3, 3, 3]
    with override_settings(OUTBOX_MAX_RETRIES=9):
        assert publish() == [9, 9, 9]
        assert publish(max_retries=3) == [3, 3, 3]
    with override_settings(OUTBOX_WORKER=WORKER):
        assert publish() == [5, 5, 5]
