"""The archive of files: what stands in them, that they are whole, and that they can be read."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.archives import FileArchive, Leaving, file, read_archive
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.support.events import publish

FAR = 2**70


@pytest.fixture
def archive(tmp_path: Path) -> FileArchive:
    """An archive in a directory that is not there yet."""
    return FileArchive(directory=tmp_path / "a" / "b")


def leaving(using: str) -> Leaving:
    """All events of the outbox, on their way out."""
    ids = OutboxEvent.objects.using(using).order_by("id").values_list("id", flat=True)
    return Leaving(using, list(ids))


def files(directory: Path) -> list[Path]:
    """The files below a directory."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def publish_kinds(using: str) -> list[OutboxEvent]:
    """Publish an event of each kind of payload."""
    kinds: list[dict[str, Any]] = [
        {"data": {"n": 1, "text": "ü\u2028\n", "far": FAR, "price": Decimal("9.90")}},
        {"data": None},
        {},
        {"data": b"\x00\xff", "data_content_type": "application/octet-stream"},
        {"data": [1.5], "subject": "s", "partition_key": "k", "extensions": {"tenant": "t"}},
        {"data": {}, "event_id": "mine", "time": datetime(2026, 1, 31, 12, tzinfo=UTC)},
    ]
    return [publisher.publish_event("order.placed", "/shop", using=using, **k) for k in kinds]


def test_an_event_is_read_back_as_it_was(
    database: str, archive: FileArchive, tmp_path: Path
) -> None:
    """Every kind of payload and attribute comes back, with what the outbox knew besides."""
    events = publish_kinds(database)
    OutboxEvent.objects.using(database).filter(pk=events[0].pk).update(
        status="failed", last_error="no", retry_count=2, ended_at=datetime(2026, 2, 1, tzinfo=UTC)
    )
    archive.store(leaving(database))
    [path] = files(tmp_path)
    lines = list(read_archive(path))
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert [line.event for line in lines] == [row.cloud_event for row in rows]
    assert [line.outbox["id"] for line in lines] == [event.pk for event in events]
    first = lines[0].outbox
    assert first["backend"] == "default"
    assert (first["status"], first["last_error"], first["retry_count"]) == ("failed", "no", 2)
    assert datetime.fromisoformat(first["ended_at"]) == datetime(2026, 2, 1, tzinfo=UTC)
    created = datetime.fromisoformat(first["created_at"])
    assert abs(created - events[0].created_at) < timedelta(seconds=1)
    assert first["published_at"] is None


def test_the_official_sdk_reads_it(database: str, archive: FileArchive, tmp_path: Path) -> None:
    """With nothing but gzip, json and the CloudEvents SDK, the events can be had."""
    json_format = pytest.importorskip("cloudevents.core.formats.json")
    publish_kinds(database)
    archive.store(leaving(database))
    [path] = files(tmp_path)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        read = [
            json_format.JSONFormat().read(None, json.dumps(json.loads(line)["event"]))
            for line in lines
        ]
    ours = [line.event for line in read_archive(path)]
    assert [event.get_id() for event in read] == [event.id for event in ours]
    assert [event.get_type() for event in read] == ["order.placed"] * len(ours)
    assert read[0].get_data() == {"n": 1, "text": "ü\u2028\n", "far": FAR, "price": "9.90"}
    assert read[3].get_data() == b"\x00\xff"
    assert read[4].get_extension("partitionkey") == "k"


def test_batches_of_a_day_share_a_file_that_only_its_owner_reads(
    database: str, archive: FileArchive, tmp_path: Path
) -> None:
    """Each batch is appended; the name says the day in UTC."""
    publish("a1", using=database)
    for _ in range(3):
        archive.store(leaving(database))
    [path] = files(tmp_path)
    assert path.name.startswith("outbox-20")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [line.event.subject for line in read_archive(path)] == ["a1"] * 3


class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return tomorrow."""
        return datetime.now(tz) + timedelta(days=1)


def test_each_day_and_each_process_has_a_file_of_its_own(
    database: str, archive: FileArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody appends to what somebody else may be writing, and a day's files can be moved away."""
    publish("a1", using=database)
    archive.store(leaving(database))
    FileArchive(directory=tmp_path / "a" / "b").store(leaving(database))
    assert len(files(tmp_path)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(file, "datetime", Tomorrow)
        archive.store(leaving(database))
    assert len({path.name[:17] for path in files(tmp_path)}) == 2
    monkeypatch.setattr(os, "getpid", lambda: -1)
    archive.store(leaving(database))
    assert len(files(tmp_path)) == 4


def test_a_file_that_ends_anywhere_is_read_as_far_as_it_goes(
    database: str, archive: FileArchive, tmp_path: Path
) -> None:
    """Cut off at any byte of its last batch, it gives all of the batch before and no error."""
    publish("a1", using=database)
    archive.store(leaving(database))
    [path] = files(tmp_path)
    whole = path.stat().st_size
    publish("a2", using=database)
    archive.store(leaving(database))
    content = path.read_bytes()
    for end in range(whole, len(content) + 1):
        path.write_bytes(content[:end])
        names = [line.event.subject for line in read_archive(path)]
        assert names[0] == "a1"
        assert names in (["a1"], ["a1", "a1"], ["a1", "a1", "a2"])
    assert names == ["a1", "a1", "a2"]


def test_a_damaged_file_is_an_error(database: str, archive: FileArchive, tmp_path: Path) -> None:
    """A file whose bytes have changed is not read over silently."""
    publish("a1", using=database)
    archive.store(leaving(database))
    [path] = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # of the checksum
    path.write_bytes(content)
    with pytest.raises(OSError, match=path.name):
        list(read_archive(path))


@pytest.mark.parametrize("line", ["{}", "[]", '{"event": {}}', "7"])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    """Somebody else's file is not taken for an archive."""
    path = tmp_path / "other.jsonl.gz"
    path.write_bytes(gzip.compress(f"{line}\n".encode()))
    with pytest.raises(
        InvalidEvent, match=r"other\.jsonl\.gz: a line was not written by FileArchive"
    ):
        list(read_archive(path))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A limit to the size of files, as of a disk that is full: the last bytes do not fit."""
    resource = pytest.importorskip("resource")
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_whole_files(
    database: str, archive: FileArchive, tmp_path: Path, full_disk: None
) -> None:
    """What did not fit is an error and leaves no half of it; with room again all goes on."""
    import resource

    publish("a1", using=database)
    archive.store(leaving(database))
    [path] = files(tmp_path)
    whole = path.read_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    with pytest.raises(OSError, match="File too large"):
        archive.store(leaving(database))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_bytes() == whole
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    with pytest.raises(OSError, match="File too large"):
        archive.store(leaving(database))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert files(tmp_path) == [path], "no empty file, at which gzip would stumble"
    archive.store(leaving(database))
    assert [len(list(read_archive(each))) for each in files(tmp_path)] == [1, 1]
