"""A purge in the background goes through the archive, as every other way out of the outbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from django_broadcaster.archives import read_archive
from django_broadcaster.models import OutboxArchivedEvent, OutboxEvent, OutboxOperation
from django_broadcaster.relay.operations import Operations
from django_broadcaster.store import chunks
from django_broadcaster.store import operations as rows
from tests.support.events import publish
from tests.support.operations import request, step, work_off

if TYPE_CHECKING:
    from pytest_django import Settings

Kept = Callable[[], list[str]]


@pytest.fixture(params=["FileArchive", "TableArchive"])
def kept(database: str, settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Kept:
    """Five delivered events, and an archive; returns the names in it."""
    is_file = request.param == "FileArchive"
    settings.OUTBOX_ARCHIVE = {
        "BACKEND": f"django_broadcaster.archives.{request.param}",
        "OPTIONS": {"directory": str(tmp_path / "archive")} if is_file else {},
    }
    publish("a1", "a2", "a3", "a4", "a5", using=database)
    OutboxEvent.objects.using(database).update(status="published", published_at=timezone.now())

    def names() -> list[str]:
        if is_file:
            files = (tmp_path / "archive").glob("*")
            return sorted(line.event.subject or "" for file in files for line in read_archive(file))
        table = OutboxArchivedEvent.objects.using(database).order_by("subject")
        return list(table.values_list("subject", flat=True))

    return names


def test_what_is_purged_is_archived_once(
    database: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk by chunk, each event is in the archive, and out of the outbox."""
    monkeypatch.setattr(chunks, "CHUNK", 2)
    operation = request("purge", database)
    work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", 5, 0)
    assert kept() == ["a1", "a2", "a3", "a4", "a5"]
    assert not OutboxEvent.objects.using(database).exists()


def test_a_relay_that_was_overtaken_deletes_nothing(
    database: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one hands events to the archive another may move on: the operation counts them once."""
    monkeypatch.setattr(chunks, "CHUNK", 2)
    operation = request("purge", database)
    slow, fast = Operations(database), Operations(database)
    store = slow._way_out.store

    def overtaken(using: str, ids: list[int]) -> None:
        store(using, ids)
        step(fast)

    monkeypatch.setattr(slow._way_out, "store", overtaken)
    step(slow)
    operation.refresh_from_db()
    assert (operation.done, operation.left_alone) == (2, 0)
    work_off(database)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.left_alone) == ("done", 5, 0)
    assert set(kept()) == {"a1", "a2", "a3", "a4", "a5"}


def test_an_archive_that_fails_keeps_the_events(
    database: str, settings: Settings, tmp_path: Path
) -> None:
    """Nothing is deleted that the archive did not take; the operation tries again, then fails."""
    (tmp_path / "archive").write_text("no directory")
    settings.OUTBOX_ARCHIVE = {
        "BACKEND": "django_broadcaster.archives.FileArchive",
        "OPTIONS": {"directory": str(tmp_path / "archive")},
    }
    publish("a1", using=database)
    OutboxEvent.objects.using(database).update(status="published", published_at=timezone.now())
    operation = request("purge", database)
    relay = Operations(database)
    for _ in range(rows.ATTEMPTS):
        assert not step(relay)
        OutboxOperation.objects.using(database).update(not_before=None)
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("failed", 0)
    assert operation.error.startswith("ArchiveError: FileArchive: ")
    assert OutboxEvent.objects.using(database).count() == 1
