"""Benchmarks of handlers: a handler that inserts one row, through the relay and the inbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from typing import Any

import orjson
import psycopg
from django.db import connection, connections
from django.test.utils import override_settings
from psycopg import pq

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Reject
from django_broadcaster.registry import event_registry

from . import outbox, relays
from .bare_consumers import NOTES, ROW
from .measure import Figure, compare

BATCH = 100

_FETCH = """
    SELECT id, event_id, source, data::text FROM django_broadcaster_outboxevent
    WHERE status = 'pending' AND publisher_backend = 'default' AND id > %s ORDER BY id LIMIT %s
"""
_SETTLE = """
    UPDATE django_broadcaster_outboxevent SET status = 'published', published_at = now()
    WHERE id = ANY(%s)
"""


def handlers(runs: int, events: int) -> list[Figure]:
    """Compare a relay that runs a handler with bare loops, and with failures among the events."""
    with _table():
        ours = partial(_on_backlog, events, _drain)
        failing = partial(_on_backlog, events, partial(_drain, failing_each=1000))
        alone = partial(_on_backlog, events, partial(_drain, batch_size=1))
        beside = [
            ("handlers", _each, ">= 0.60"),
            ("handlers, beside one INSERT of notes", _notes_at_once, ""),
            ("handlers, beside executemany", _all_at_once, ""),
        ]
        return [
            *(
                compare(
                    name,
                    ours,
                    partial(_on_backlog, events, partial(_bare, write)),
                    wanted=wanted,
                    runs=runs,
                )
                for name, write, wanted in beside
            ),
            compare("handlers, 1 of 1,000 fails", failing, ours, wanted=">= 0.80", runs=runs),
            compare("handlers, one transaction each", alone, ours, runs=runs),
        ]


def _on_backlog(events: int, drain: outbox.Drain) -> float:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE bench_handled")
    return outbox.on_backlog(events, drain)


def _drain(*, failing_each: int = 0, batch_size: int = BATCH) -> float:
    """Let a relay in this process run the handler; return events a second."""

    def handle(event: CloudEvent) -> None:
        data: dict[str, Any] = event.data
        with connections["default"].cursor() as cursor:
            cursor.execute(ROW, [data["order"], data["customer"]])
        if failing_each and data["order"] % failing_each == 0:
            raise Reject("no")  # a dead letter at once: the first attempts are measured

    event_registry.register("order.*", name="bench")(handle)
    backend = {
        "BACKEND": "django_broadcaster.backends.LocalBackend",
        "OPTIONS": {"batch_size": batch_size},
    }
    try:
        with override_settings(OUTBOX_PUBLISHERS={"default": backend}):
            return relays.drain()
    finally:
        event_registry.unregister("bench")


Write = Callable[[Any, Sequence[Any]], object]
"""Writes the notes and the rows of fetched events."""


def _bare(write: Write) -> float:
    """Fetch 100 events, write their notes and rows, and settle them, in one transaction."""
    count = last = 0
    with psycopg.connect(**outbox.address()) as bare:
        fetching = psycopg.Cursor(bare)
        fetching.format = pq.Format.BINARY
        cursor = bare.cursor()
        began = time.perf_counter()
        while rows := fetching.execute(_FETCH, [last, BATCH]).fetchall():
            write(cursor, rows)
            cursor.execute(_SETTLE, [[row[0] for row in rows]])
            bare.commit()
            count += len(rows)
            last = rows[-1][0]
        return count / (time.perf_counter() - began)


def _each(cursor: Any, rows: Sequence[Any]) -> None:
    """Write a note and a row for one event after the other, as a loop by hand does."""
    for row in rows:
        cursor.execute(NOTES, _notes([row]))
        if cursor.rowcount:
            cursor.execute(ROW, _values(row))


def _notes_at_once(cursor: Any, rows: Sequence[Any]) -> None:
    """Write all notes in one statement, and one row after the other."""
    cursor.execute(NOTES, _notes(rows))
    for row in rows:
        cursor.execute(ROW, _values(row))


def _all_at_once(cursor: Any, rows: Sequence[Any]) -> None:
    """Write all rows in one pipeline, which no handler of a single event can do."""
    cursor.execute(NOTES, _notes(rows))
    cursor.executemany(ROW, map(_values, rows))


def _values(row: Sequence[Any]) -> tuple[int, str]:
    data = orjson.loads(row[3])
    return data["order"], data["customer"]


def _notes(rows: Sequence[Any]) -> list[list[str]]:
    sources, ids = [row[2] for row in rows], [row[1] for row in rows]
    texts = ("\0".join(("bench", *pair)) for pair in zip(sources, ids, strict=True))
    identities = [sha256(text.encode()).hexdigest() for text in texts]
    return [identities, ["bench"] * len(rows), sources, ids]


@contextmanager
def _table() -> Iterator[None]:
    """Create the table of the handler."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_handled")
        cursor.execute(
            "CREATE TABLE bench_handled (id bigserial PRIMARY KEY, number int, customer text)"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE bench_handled")
