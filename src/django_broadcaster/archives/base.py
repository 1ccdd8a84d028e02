"""The contract of an archive.

    class BucketArchive(Archive):
        def __init__(self, *, bucket, **options):
            super().__init__(**options)
            self.bucket = bucket

        def store(self, leaving):
            lines = b"".join(as_line(row) for row in leaving.rows)
            put(self.bucket, str(uuid7()), lines)  # returns once the data are safe

The OPTIONS of OUTBOX_ARCHIVE are keyword arguments. Each relay and each command has an instance of
its own, which one thread uses at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from django_broadcaster.exceptions import ArchiveConfigurationError
from django_broadcaster.store import StoredRow, read_stored


@dataclass(frozen=True)
class Leaving:
    """Events to be archived and then deleted from the database `using`.

    There are at most a thousand. Outside of a transaction their payloads have at most
    OUTBOX_BATCH_BYTES, except for a single larger event.
    """

    using: str
    ids: Sequence[int]

    @cached_property
    def rows(self) -> list[StoredRow]:
        """The events, read at first access. JSON columns are text."""
        return read_stored(self.using, self.ids)


class Archive(ABC):
    """Stores events that leave the outbox."""

    in_transaction: ClassVar[bool] = False
    """True for an archive in the outbox's own database.

    Such an archive is called in the transaction that deletes, so an event is always in one place.
    It uses the relay's own connection, and must not change the session. Other archives are called
    before that transaction, while none is open. After a crash in between, they are called again
    with the same events, so they may store some twice, but they miss none.
    """

    def __init__(self, **unknown: Any) -> None:
        if unknown:
            raise ArchiveConfigurationError(
                f"OUTBOX_ARCHIVE['OPTIONS']: {type(self).__name__} does not know "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )

    @abstractmethod
    def store(self, leaving: Leaving) -> None:
        """Store these events safely; they are deleted once this method returns.

        If an error is raised, the events stay in the outbox. The relay logs the error, continues to
        deliver, and retries a minute later.
        """
