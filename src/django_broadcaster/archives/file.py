"""An archive of files: JSON Lines, compressed, one file per process and day.

A line is `{"event": ..., "outbox": ...}`: the CloudEvent in its JSON format, and the outbox's other
columns. Each call of `store` appends one complete member to a gzip file. A gzip file may have any
number of members (RFC 1952, 2.2), so any gzip reader reads the whole file.

JSON Lines: https://jsonlines.org/
"""

from __future__ import annotations

import gzip
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from django_broadcaster.events import envelope
from django_broadcaster.exceptions import ArchiveConfigurationError
from django_broadcaster.store import StoredRow

from .base import Archive, Leaving

SUFFIX = ".jsonl.gz"


class FileArchive(Archive):
    """Appends events to compressed files of JSON Lines in a directory.

    A file is synced to disk before its events are deleted. After a crash in between, a later file
    repeats the lines of the batch with the same `outbox.id`; no line is ever missing. Files are
    named `outbox-YYYY-MM-DD-....jsonl.gz` by the day in UTC. Each process writes its own files, so
    any number of relays may share the directory. Because files have payloads, only their owner may
    read them.

    Args:
        directory: The directory of the files; created if missing.
        level: The level of compression, from 1 (fast) to 9 (small).
    """

    def __init__(self, *, directory: str | Path = "", level: int = 6, **options: Any) -> None:
        super().__init__(**options)
        if not directory or not isinstance(directory, str | Path):
            raise ArchiveConfigurationError(
                "OUTBOX_ARCHIVE['OPTIONS'] must have 'directory', the path of a directory"
            )
        if isinstance(level, bool) or level not in range(1, 10):
            raise ArchiveConfigurationError(
                f"OUTBOX_ARCHIVE['OPTIONS']['level'] must be from 1 to 9, not {level!r}"
            )
        self._directory = Path(directory)
        self._level = level
        self._written_for: tuple[str, int] | None = None

    def store(self, leaving: Leaving) -> None:
        """Append the events, and sync the file to disk; raise OSError if that fails."""
        lines = b"".join(map(as_line, leaving.rows))
        if lines:
            self._append(gzip.compress(lines, self._level))

    def _append(self, member: bytes) -> None:
        path = self._path()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = os.open(path, flags, 0o600)
        try:
            before = os.fstat(file).st_size
            try:
                _write(file, member)
                os.fsync(file)
            except BaseException:
                # An incomplete member would make later ones unreadable. The next call starts a
                # new file in any case.
                self._written_for = None
                with suppress(OSError):
                    os.ftruncate(file, before)
                    if not before:  # gzip can't read an empty file
                        path.unlink()
                raise
        finally:
            os.close(file)
        if not before:
            _sync_directory(self._directory)

    def _path(self) -> Path:
        """Return the path of the file to write, which is new each day and in each process."""
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        if self._written_for != (day, os.getpid()):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._current = self._directory / f"outbox-{day}-{token_hex(8)}{SUFFIX}"
            self._written_for = (day, os.getpid())
        return self._current


def as_line(row: StoredRow) -> bytes:
    """Return an event as a line of JSON with its line break; JSON columns are not decoded."""
    outbox = {
        "id": row.id,
        "backend": row.publisher_backend,
        "config": orjson.Fragment(row.publisher_config),
        "status": row.status,
        "created_at": row.created_at,
        "scheduled_at": row.scheduled_at,
        "published_at": row.published_at,
        "ended_at": row.ended_at,
        "retry_count": row.retry_count,
        "last_error": row.last_error,
    }
    if row.sealed is not None:  # data that are encrypted in the table stay encrypted in the file
        outbox["sealed"] = row.sealed.decode()
    return orjson.dumps(
        {"event": orjson.Fragment(_event(row)), "outbox": outbox},
        option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z,
    )


def _event(row: StoredRow) -> bytes:
    extensions = {} if row.extensions == "{}" else orjson.loads(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return envelope(
        id=row.event_id,
        source=row.source,
        event_type=row.event_type,
        time=row.time,
        subject=row.subject,
        data_content_type=row.data_content_type,
        data_schema=row.data_schema,
        extensions=extensions,
        data_json=row.data,
        data_binary=row.data_binary,
    )


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_directory(directory: Path) -> None:
    """Sync a new file's name to disk, if the operating system can open directories."""
    with suppress(PermissionError):  # Windows
        file = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
