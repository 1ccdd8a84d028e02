"""Publishing many events: judged and written in chunks, all or none.

What is wrong with an event has to be said before it is written, and nothing of the call may stay
when it raises. A list that fits in one chunk is judged as a whole, before any SQL, and is written
by one statement. All else is read as it is written, which keeps one chunk in memory, inside of a
savepoint: it takes back the chunks before the one at fault, and the caller's transaction goes on.
The savepoint is there before the first event is asked for, so that what a generator itself writes
is taken back as a whole, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from django_broadcaster import tracing
from django_broadcaster.events import as_cloud_event
from django_broadcaster.exceptions import PublishError
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.store import BYTES_OF_A_CHARACTER, NewRow, max_statement, may_be_too_long

from .call import PublishCall, event_of
from .columns import characters
from .insertion import write_rows
from .transactions import all_or_nothing, check_transaction

BATCH_SIZE: Final = 1000
"""The rows of a chunk; more take more memory and are no faster."""

MOST_CHARACTERS: Final = 2_000_000
"""Of the events in a chunk; the databases take a statement of 16 MB at the least by default."""

KEYWORDS: Final = (
    *("event_type", "source", "data", "subject", "backend", "scheduled_at", "max_retries"),
    *("publisher_config", "event_id", "time", "partition_key", "extensions", "data_content_type"),
    "data_schema",
)
"""What a dictionary may have: the arguments of `publish_event`, but for the database."""


def publish_many(call: PublishCall, events: Iterable[Any], batch_size: int, **defaults: Any) -> int:
    """Write the rows of events; return how many are new.

    `defaults` are `backend`, `scheduled_at`, `max_retries` and `publisher_config`. Raises
    PublishError or TypeError with the index of the event at fault, whatever the iterable raises,
    and ValueError for a `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be 1 or more, not {batch_size!r}")
    judge = _Judge(call, **defaults)
    check_transaction(call.connection)
    with tracing.publishing(None, judge.aliases) as call.stamp:
        chunks: Iterable[list[NewRow]] = _chunks(judge, events, batch_size)
        fits = isinstance(events, list | tuple) and len(events) <= batch_size
        if fits:
            chunks = list(chunks)
        return _write(call, chunks, savepoint=not fits)


def _write(call: PublishCall, chunks: Iterable[list[NewRow]], *, savepoint: bool) -> int:
    connection, count = call.connection, 0
    aliases: dict[str, None] = {}
    with all_or_nothing(connection, savepoint=savepoint):
        for rows in chunks:
            count += write_rows(connection, rows)
            aliases.update((row.publisher_backend, None) for row in rows)
    for alias in aliases:
        notify_after_commit(connection, alias)
    return count


def _chunks(judge: _Judge, events: Iterable[Any], batch_size: int) -> Iterator[list[NewRow]]:
    """Yield the rows of events in order, so many or so large at the most in one chunk."""
    chunk: list[NewRow] = []
    size = 0
    for index, event in enumerate(events):
        rows = judge.rows(index, event)
        more = len(rows) * characters(rows[0])
        if chunk and judge.is_too_long(size + more):
            yield chunk
            chunk, size = [], 0
        chunk += rows
        size += more
        if len(chunk) >= batch_size or size >= MOST_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Judge:
    """Makes rows of whatever `publish_events` takes, or says which event is at fault."""

    def __init__(self, call: PublishCall, *, backend: str | None, **delivery: Any) -> None:
        self._call = call
        self._backend = backend
        self._defaults = delivery
        self._delivery = call.delivery(**delivery)
        self.aliases()  # so that a wrong one is not laid to the first event

    def aliases(self) -> list[str]:
        """Return the backend that all of the events go to, as far as the call says so."""
        return [] if self._backend is None else self._call.aliases("", self._backend)

    def is_too_long(self, characters: int) -> bool:
        """Return True if the database may refuse a statement with so many characters."""
        connection = self._call.connection
        return may_be_too_long(characters, connection) and (
            characters * BYTES_OF_A_CHARACTER > max_statement(connection)
        )

    def rows(self, index: int, given: object) -> list[NewRow]:
        """Return the rows of an event; raises PublishError or TypeError with its index."""
        try:
            if isinstance(given, Mapping):
                return self._of_keywords(**given)
            return self._call.rows(
                as_cloud_event(given),
                self._delivery,
                backend=self._backend,
                partition_key=None,
                unique=True,
            )
        except PublishError as error:
            error.place_at(index)
            raise
        except TypeError as error:
            raise TypeError(f"event {index}: {_explain(given, error)}") from error

    def _of_keywords(
        self,
        event_type: str,
        source: str,
        data: Any | None = None,
        subject: str = "",
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        partition_key: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        data_content_type: str | None = None,
        data_schema: str | None = None,
        **own: Any,
    ) -> list[NewRow]:
        backend, delivery = self._backend, self._delivery
        if own:
            backend = own.pop("backend", backend)
            delivery = self._call.delivery(**{**self._defaults, **own})
        event = event_of(
            event_type,
            source,
            data,
            subject,
            event_id=event_id,
            time=time,
            extensions=extensions,
            data_content_type=data_content_type,
            data_schema=data_schema,
        )
        return self._call.rows(
            event,
            delivery,
            backend=backend,
            partition_key=partition_key,
            unique=event_id is not None,
        )


def _explain(given: object, error: TypeError) -> str:
    """Return what is wrong with an object that is not of the kinds that are taken."""
    if not isinstance(given, Mapping):
        return f"{error}; or a dictionary of the keywords of publish_event"
    unknown = [repr(name) for name in given if name not in KEYWORDS]
    if unknown:
        return f"unknown keyword {', '.join(unknown)}; there are {', '.join(KEYWORDS)}"
    missing = [repr(name) for name in KEYWORDS[:2] if name not in given]
    return f"missing keyword {', '.join(missing)}" if missing else str(error)
