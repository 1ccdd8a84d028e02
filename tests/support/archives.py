"""Old events to be purged, and archives that watch, fail and kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from django.utils import timezone

from django_broadcaster.archives import Archive, FileArchive, Leaving, read_archive
from django_broadcaster.models import OutboxEvent

LONG_AGO = timedelta(days=400)


def grow_old(using: str, names: Iterable[str] | None = None, status: str = "published") -> None:
    """Let events have come to their end long ago, all or those of these names."""
    then = timezone.now() - LONG_AGO
    rows = OutboxEvent.objects.using(using).all()
    if names is not None:
        rows = rows.filter(subject__in=list(names))
    ends = {"published_at" if status == "published" else "ended_at": then}
    rows.update(status=status, created_at=then, scheduled_at=then, **ends)


def archived_names(directory: Path) -> list[str]:
    """Return the names of the events in all files of a directory, repeats included."""
    files = sorted(directory.glob("*.jsonl.gz"))
    return [str(line.event.subject) for file in files for line in read_archive(file)]


class WatchingArchive(Archive):
    """Calls `on_store` of the class with what it is given."""

    on_store: ClassVar[Callable[[Leaving], Any]]

    def store(self, leaving: Leaving) -> None:
        """Tell the test."""
        type(self).on_store(leaving)


class KillingArchive(FileArchive):
    """A file archive whose process dies at its second batch: once half-way, once when it is safe.

    Files in `folder` remember what has happened; the third process lives.
    """

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self._folder = Path(folder)
        self._batches = 0

    def _append(self, member: bytes) -> None:
        self._batches += 1
        if self._batches == 2:
            self._die_once("amid", member[: len(member) // 2])
            self._die_once("behind", member)
        super()._append(member)

    def _die_once(self, when: str, data: bytes) -> None:
        died = self._folder / when
        if not died.exists():
            died.touch()
            super()._append(data)
            os.kill(os.getpid(), signal.SIGKILL)
