"""The work of `publish_events`: many events, all or none, in chunks.

If the call raises, nothing of it may remain, and the caller's transaction stays usable. A list that
fits into one chunk is validated as a whole before any SQL, and written by one statement.

Any other iterable is read and written one chunk at a time, which keeps one chunk in memory. This
happens inside a savepoint, whose rollback removes the chunks before the invalid event. The
savepoint begins before the first event is read, so that it includes what a generator itself writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster import tracing
from django_broadcaster.events import CloudEvent, as_cloud_event
from django_broadcaster.exceptions import PublishError
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.store import BYTES_OF_A_CHARACTER, NewRow, max_statement, may_be_too_long
from django_broadcaster.typed_events import event_types, keywords_of

from .call import PublishCall, event_of
from .columns import characters
from .handing_over import HandedRow
from .insertion import write_rows
from .transactions import all_or_nothing, check_transaction

BATCH_SIZE: Final = 1000
"""The rows of a chunk; larger chunks take more memory and are not faster."""

MOST_CHARACTERS: Final = 2_000_000
"""The characters of a chunk; by default every database accepts a statement of 16 MB."""

KEYWORDS: Final = (
    *("event_type", "source", "data", "subject", "backend", "scheduled_at", "max_retries"),
    *("publisher_config", "event_id", "time", "partition_key", "extensions", "data_content_type"),
    "data_schema",
)
"""The keys of a dictionary: the arguments of `publish_event` except `using`."""


def publish_many(call: PublishCall, events: Iterable[Any], batch_size: int, **defaults: Any) -> int:
    """Write the rows of events; return how many are new.

    Args:
        call: The publish call.
        events: The events, as `publish_events` accepts them.
        batch_size: The most rows of a chunk.
        defaults: `backend`, `scheduled_at`, `max_retries` and `publisher_config`.

    Raises:
        PublishError: An event is invalid; the error has its index. Errors of the iterable pass.
        TypeError: An item is not an event; the error has its index.
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be 1 or more, not {batch_size!r}")
    maker = _RowMaker(call, **defaults)
    check_transaction(call.connection)
    with tracing.publishing(None, maker.aliases) as call.stamp:
        chunks: Iterable[list[NewRow]] = _chunks(maker, events, batch_size)
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
            waiting = (row for row in rows if not isinstance(row, HandedRow))
            aliases.update((row.publisher_backend, None) for row in waiting)
    for alias in aliases:
        notify_after_commit(connection, alias)
    return count


def _chunks(maker: _RowMaker, events: Iterable[Any], batch_size: int) -> Iterator[list[NewRow]]:
    """Yield the rows of events in order, in chunks of limited number and size."""
    chunk: list[NewRow] = []
    size = 0
    for index, event in enumerate(events):
        rows = maker.rows(index, event)
        more = len(rows) * characters(rows[0])
        if chunk and is_too_long(size + more, maker.connection):
            yield chunk
            chunk, size = [], 0
        chunk += rows
        size += more
        if len(chunk) >= batch_size or size >= MOST_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def is_too_long(characters: int, connection: BaseDatabaseWrapper) -> bool:
    """Return True if the database may refuse a statement with this many characters."""
    return may_be_too_long(characters, connection) and (
        characters * BYTES_OF_A_CHARACTER > max_statement(connection)
    )


class _RowMaker:
    """Makes rows of the items of `publish_events`; errors have the index of the item."""

    def __init__(self, call: PublishCall, *, backend: str | None, **delivery: Any) -> None:
        self._call = call
        self._backend = backend
        self._defaults = delivery
        self._delivery = call.delivery(**delivery)
        self.aliases()  # or an unknown one would be reported as an error of the first event

    def aliases(self) -> list[str]:
        """Return the alias that the call names for all events; none if it names none."""
        return [] if self._backend is None else self._call.aliases("", self._backend)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """The connection that writes the rows."""
        return self._call.connection

    def rows(self, index: int, given: object) -> list[NewRow]:
        """Return the rows of an event; raises PublishError or TypeError with its index."""
        try:
            if isinstance(given, Mapping):
                return self._of_keywords(**given)
            if not isinstance(given, CloudEvent) and event_types.find(type(given)):
                return self._of_keywords(**keywords_of(given))
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
    """Return the message for an item that is neither an event nor a valid dictionary."""
    if not isinstance(given, Mapping):
        return (
            f"{error}; or an event of a declared class, or a dictionary with the keywords of "
            "publish_event"
        )
    unknown = [repr(name) for name in given if name not in KEYWORDS]
    if unknown:
        return f"unknown keyword {', '.join(unknown)}; choose from {', '.join(KEYWORDS)}"
    missing = [repr(name) for name in KEYWORDS[:2] if name not in given]
    return f"missing keyword {', '.join(missing)}" if missing else str(error)
