"""Move events between the table of 0.1.1 and the outbox, a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from django.db import DatabaseError, OperationalError, connections, transaction
from django.utils import timezone

from django_broadcaster import encryption
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf

from .aliases import default_of_0_1_1, runs_handlers
from .insertion import OUTBOX, Writer
from .old_table import DELIVERED, Key, OldRow, OldTable
from .report import Report
from .rows import Row, Target, Undelivered, new_row, old_values

BATCH: Final = 500
"""Maximum of rows in a transaction: SQLite allows 32,766 parameters, and locks stay short."""

STATEMENT_CHARACTERS: Final = 2_000_000
"""Maximum of the payloads' characters in one statement; MariaDB's default limit is 16 MB."""

UNDELIVERED: Final = ("pending", "processing", "scheduled", "retry", "blocked")
"""The statuses of undelivered events in the outbox."""

Progress = Callable[[int], None]


def move_events(using: str, progress: Progress = lambda count: None) -> Report:
    """Move all events of 0.1.1 into the outbox; return a report.

    Undelivered events are moved first, in the order in which 0.1.1 would have sent them. Rows that
    another transaction has locked are skipped until the next call.

    Args:
        using: Alias of the database.
        progress: Receives the number of rows of each batch.

    Raises:
        ReferencedError: Another table refers to the table of 0.1.1; nothing was moved.
    """
    old = OldTable(using)
    report = Report(default_alias=default_of_0_1_1())
    if not old.exists() or old.is_empty():
        return report
    old.check_references()
    old.prepare()
    for delivered in (False, True):
        _Mover(old, report).move(delivered=delivered, progress=progress)
    report.left = sum(old.counts().values())
    return report


class _Mover:
    """Moves the delivered or the undelivered rows, in batches."""

    def __init__(self, old: OldTable, report: Report) -> None:
        self._old = old
        self._report = report
        self._aliases = backends.aliases()
        self._runs_handlers = cache(runs_handlers)
        self._connection = old.connection
        self._writer = Writer(old.connection)

    def move(self, *, delivered: bool, progress: Progress) -> None:
        after: Key | None = None
        while keys := self._batch(delivered, after):
            after = keys[-1]
            progress(len(keys))

    def _batch(self, delivered: bool, after: Key | None) -> list[Key]:
        with transaction.atomic(using=self._old.using):
            self._old.begin_writing()
            keys = self._old.lock_keys(delivered=delivered, after=after, limit=BATCH)
            if not keys:
                return keys
            target = self._target()
            made = [(row, *new_row(row, target)) for row in self._old.read(keys)]
            moved = self._written(made)
            self._old.delete([old.id for old, _, _ in moved])
        for old, row, became_invalid in moved:
            self._note(old, row, became_invalid)
        return keys

    def _target(self) -> Target:
        now = self._connection.ops.adapt_datetimefield_value(timezone.now())
        return Target(
            self._report.default_alias,
            self._runs_handlers,
            conf.PARTITIONS,
            encryption.is_on(),
            now,
        )

    def _written(self, made: list[tuple[OldRow, Row, bool]]) -> list[tuple[OldRow, Row, bool]]:
        """Insert rows; return those that the database accepted."""
        written = []
        for chunk in _chunks(made):
            try:
                self._write([row for _, row, _ in chunk])
                written += chunk
            except OperationalError:
                raise
            except DatabaseError:
                written += [each for each in chunk if self._is_accepted(each)]
        return written

    def _is_accepted(self, made: tuple[OldRow, Row, bool]) -> bool:
        """Insert one row; return True, or record the error and return False."""
        try:
            self._write([made[1]])
        except OperationalError:
            raise
        except DatabaseError as error:
            reason = " ".join(str(error).splitlines()[:1]).rstrip(".")
            self._report.refused.append((made[1].event_id, reason))
            return False
        return True

    def _write(self, rows: Sequence[Row]) -> None:
        with transaction.atomic(using=self._old.using):
            self._writer.insert(rows)

    def _note(self, old: OldRow, row: Row, became_invalid: bool) -> None:
        report = self._report
        report.moved[row.status] += 1
        report.invalid += became_invalid
        if row.status == "published" and old.status not in DELIVERED:
            report.handled[row.publisher_backend] += 1
        if row.status in ("pending", "scheduled"):
            report.default += not old.publisher_backend
            if row.publisher_backend not in self._aliases:
                report.unknown[row.publisher_backend] += 1


def _chunks(
    made: Sequence[tuple[OldRow, Row, bool]],
) -> list[list[tuple[OldRow, Row, bool]]]:
    """Return rows in portions for one statement each."""
    chunks: list[list[tuple[OldRow, Row, bool]]] = []
    size = 0
    for each in made:
        characters = len(each[1].data or "") + len(each[1].sealed or b"")
        if not chunks or size + characters > STATEMENT_CHARACTERS:
            chunks.append([])
            size = 0
        chunks[-1].append(each)
        size += characters
    return chunks


def move_back(using: str, progress: Progress = lambda count: None) -> Report:
    """Move undelivered events of the outbox back into the table of 0.1.1; return a report.

    No relay may run during the move. Events that 0.1.1 does not support stay in the outbox, and the
    report has the reasons. Because 0.1.1 has no partition keys, they are dropped. It sends
    `created_at` as the time of an event.

    Args:
        using: Alias of the database.
        progress: Receives the number of rows of each batch.
    """
    old = OldTable(using)
    report = Report()
    if not old.exists():
        return report
    last = 0
    while rows := _batch_back(old, last, report):
        last = rows[-1].id
        progress(len(rows))
    return report


def _batch_back(old: OldTable, last: int, report: Report) -> list[Undelivered]:
    connection = connections[old.using]
    cast = "::text" if connection.vendor == "postgresql" else ""
    json = ("extensions", "data", "publisher_config")
    columns = ", ".join(f"{n}{cast}" if n in json else n for n in Undelivered._fields)
    lock = " FOR UPDATE" if connection.features.has_select_for_update else ""
    sql = (
        f"SELECT {columns} FROM {OUTBOX} WHERE id > %s "
        f"AND status IN ({', '.join(['%s'] * len(UNDELIVERED))}) "
        f"ORDER BY id LIMIT %s{lock}"
    )
    moved: Counter[str] = Counter()
    with transaction.atomic(using=old.using), connection.cursor() as cursor:
        old.begin_writing()
        cursor.execute(sql, [last, *UNDELIVERED, BATCH])
        rows = [Undelivered._make(row) for row in cursor.fetchall()]
        made = [(row, *_values_back(row)) for row in rows]
        taken = old.known([values[0] for _, values, _ in made if values])
        ids, inserted = [], []
        for row, values, reason in made:
            if values and values[0] in taken:
                values, reason = None, "the table of 0.1.1 has an event with this id"
            if values is None:
                report.refused.append((row.event_id, reason))
                continue
            taken.add(values[0])
            ids.append(row.id)
            inserted.append(values)
            moved[values[8]] += 1
        old.insert(inserted)
        if ids:
            cursor.execute(
                f"DELETE FROM {OUTBOX} WHERE id IN ({', '.join(['%s'] * len(ids))})", ids
            )
    report.moved.update(moved)
    return rows


def _values_back(row: Undelivered) -> tuple[list[Any] | None, str]:
    alias = row.publisher_backend
    if runs_handlers(alias):
        return None, f"handlers have not run; run outbox_worker --drain --backend {alias}"
    return old_values(row)
