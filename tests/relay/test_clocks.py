"""Clocks that differ or jump: the database's decides, and a jump takes no lease away."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_broadcaster.models import OutboxEvent
from tests.support.databases import SERVERS
from tests.support.events import publish, row, statuses
from tests.support.fake_time import preloaded
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import Stream

REDIS = "django_broadcaster.backends.RedisStreamBackend"
pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_the_database_decides_what_is_due_and_what_is_old(
    database: str,
    stream: Stream,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    offset: str,
) -> None:
    """A relay whose own clock is an hour off sends nothing early or late, and purges on time."""
    now = timezone.now()
    soon = now + timedelta(minutes=30)
    rows = OutboxEvent.objects.using(database)
    publish("now1", "retry1", "fresh1", "old1", using=database)
    publish("expires1", using=database, extensions={"expirytime": soon})
    publish("later1", using=database, scheduled_at=soon)
    rows.filter(subject="retry1").update(status="retry", scheduled_at=now)
    for name, age in {"fresh1": timedelta(minutes=5), "old1": timedelta(minutes=40)}.items():
        rows.filter(subject=name).update(
            status="published", published_at=now - age, scheduled_at=now - age, created_at=now - age
        )
    with monkeypatch.context() as patch:
        for name, value in preloaded(offset).items():
            patch.setenv(name, value)
        workers.start(
            database,
            OUTBOX_PUBLISHERS=stream.publishers(REDIS),
            OUTBOX_RETENTION=timedelta(minutes=30).total_seconds(),
        )
    wait_until(lambda: {"now1", "retry1", "expires1"} <= set(stream.names()), 20, "what is due")
    wait_until(lambda: not rows.filter(subject="old1").exists(), 20, "the purge")
    expected = dict.fromkeys(("now1", "retry1", "expires1", "fresh1"), "published")
    wait_until(lambda: statuses(database) == {**expected, "later1": "scheduled"}, 20, "the settle")
    assert "later1" not in stream.names()
    published_at = row("now1", database).published_at
    assert published_at is not None
    assert abs(published_at - timezone.now()) < timedelta(minutes=5)
