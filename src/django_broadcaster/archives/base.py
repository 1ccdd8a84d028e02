"""The contract of an archive: all that is needed to write one.

    class BucketArchive(Archive):
        def __init__(self, *, bucket, **options):
            super().__init__(**options)
            self.bucket = bucket

        def store(self, leaving):
            lines = b"".join(as_line(row) for row in leaving.rows)
            put(self.bucket, str(uuid7()), lines)  # returns when it is safe

Options arrive as keyword arguments from OPTIONS of OUTBOX_ARCHIVE. An instance is used from one
thread at a time; each relay and each command has its own.
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
    """Events that are about to be deleted from the database `using`.

    At most a thousand, and outside of a transaction no more than OUTBOX_BATCH_BYTES of payload,
    but for a single event that has more.
    """

    using: str
    ids: Sequence[int]

    @cached_property
    def rows(self) -> list[StoredRow]:
        """The events, read when somebody asks for them; their JSON is text."""
        return read_stored(self.using, self.ids)


class Archive(ABC):
    """Keeps what leaves the outbox."""

    in_transaction: ClassVar[bool] = False
    """True for one that writes into the outbox's own database.

    It is then called in the transaction that deletes, so that events are in one place, always. That
    is on the relay's own connection: it must leave the session as it was. Any other is called
    before that transaction and while none is open: a crash in between has it called again with
    the same events, so it may hold some twice, and never lacks one.
    """

    def __init__(self, **unknown: Any) -> None:
        if unknown:
            raise ArchiveConfigurationError(
                f"OUTBOX_ARCHIVE['OPTIONS']: {type(self).__name__} does not know "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )

    @abstractmethod
    def store(self, leaving: Leaving) -> None:
        """Keep these events; they are deleted once it returns, so no earlier than they are safe.

        Whatever it raises keeps them in the outbox. The relay logs that, delivers on, and tries
        again a minute later.
        """
