"""The relay on the older of the two drivers that Django has for PostgreSQL."""

from __future__ import annotations

import pytest
from django.db import connections

from django_broadcaster.publishers import publisher
from tests.support.events import publish, statuses
from tests.support.workers import Workers

from .conftest import Stream

REDIS = "django_broadcaster.backends.RedisStreamBackend"
HANDLERS = "tests.support.backends.HandlersBackend"


@pytest.fixture
def postgres(committing: None) -> str:
    """Run a test on PostgreSQL only; the value is its alias."""
    for alias in connections:
        if connections[alias].vendor == "postgresql":
            return alias
    pytest.skip("PostgreSQL is not among the databases of this run")


@pytest.fixture
def psycopg2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of a test be without psycopg, so that Django takes psycopg2."""
    monkeypatch.setenv("BROADCASTER_TEST_WITHOUT", "psycopg")


def test_text_and_bytes_arrive_with_psycopg2(
    postgres: str, psycopg2: None, stream: Stream, workers: Workers
) -> None:
    """Events arrive as they were published, whatever the driver makes of their columns."""
    text = publisher.publish_event("order.placed", "/s", {"share": "100%s \u00e9"}, using=postgres)
    data = publisher.publish_event("order.placed", "/s", b"\x00\xff%s", using=postgres)
    worker = workers.start(
        postgres, "--drain", "--database", postgres, OUTBOX_PUBLISHERS=stream.publishers(REDIS)
    )
    assert worker.end() == 0, worker.output
    assert stream.events() == [text.cloud_event, data.cloud_event]


def test_failures_are_written_down_with_psycopg2(
    postgres: str, psycopg2: None, workers: Workers
) -> None:
    """A retry, and what waits behind it, are settled like what was delivered."""
    long = "a" * 60  # too long for the column of its handler
    publish(f"{long}1", f"{long}2", "b1", using=postgres)
    worker = workers.start(
        postgres,
        "--drain",
        "--database",
        postgres,
        OUTBOX_PUBLISHERS={"default": {"BACKEND": HANDLERS}},
        OUTBOX_RETRY={"initial": 300},
    )
    assert worker.end() == 0, worker.output
    assert list(statuses(postgres).values()) == ["retry", "blocked", "published"]
