"""Rows of the outbox for the messages that a consumer received.

The row of an event has the identity of its source, its id, the consumer and the backend, so a
repetition is skipped. A message without an event becomes a dead letter with its bytes. Its
`publisher_config` has the rest of the message, so that a replay can decode it once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol
from urllib.parse import quote

from django.db import DatabaseError, DataError, Error, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.backends.base import Message
from django_broadcaster.events import CloudEvent, encode_data
from django_broadcaster.exceptions import (
    BackendUnavailable,
    BroadcasterError,
    InvalidEvent,
    Rejected,
    StatementTooLong,
    TransientError,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.notify import notify_after_commit
from django_broadcaster.publishing import PublishCall
from django_broadcaster.publishing.bulk import MOST_CHARACTERS, is_too_long
from django_broadcaster.publishing.columns import DeliveryPlan, characters
from django_broadcaster.publishing.insertion import are_plain, write_rows
from django_broadcaster.redaction import text_for_row
from django_broadcaster.states import RETRIES_OF_SETTINGS, OutboxEventStatus
from django_broadcaster.store import NewRow, limits_statements, may_lack_characters, storable

from .base import Delivery, ReceivedMessage, problem_of
from .handler import consumers

FAILED: Final = OutboxEventStatus.FAILED.value

MALFORMED_TYPE: Final = "django_broadcaster.malformed"
"""The event type of a dead letter that was made of a message without a valid event."""

LONGEST_NAME: Final = 255
"""The characters of a key, or of an event id, that a row can hold."""

BEGINNING_BYTES: Final = 64_000
"""The bytes that are kept of a message that no row can hold, and of its headers."""

LONGEST_PROBLEM: Final = 10_000
"""The characters that are kept of a problem: the error of a `decode` may quote the message."""

_REFUSED_VALUES: Final = (
    1300,  # invalid character string
    1366,  # incorrect value for a column
    3140,  # MySQL: invalid JSON
    3157,  # MySQL: JSON that is nested too deep
)
"""The errors of MariaDB and MySQL for a value that Django raises as OperationalError."""


@dataclass(slots=True)
class Written:
    """The outcome of a batch.

    Args:
        received: The messages of the batch.
        duplicates: Those that had been received before.
        malformed: Those that became dead letters.
        cut: Those whose row holds only the beginning, because no row can hold them.
    """

    received: int
    duplicates: int
    malformed: int
    cut: Sequence[Delivery]


class Within(Protocol):
    """Statements that are executed in the transaction of a batch."""

    def begin(self) -> None:
        """Execute those at its beginning."""

    def end(self, written: Written) -> None:
        """Execute those at its end; an error rolls the batch back."""

    def insert(self, rows: Sequence[NewRow], received: int) -> int | None:
        """Insert rows and do the rest in the same statement; return how many are new.

        None if that can't be done; then nothing was written.
        """


@dataclass(slots=True)
class Entry:
    """The row of a delivery, and why it is a dead letter; empty if it is not."""

    row: NewRow
    delivery: Delivery
    problem: str = ""
    is_cut: bool = False


class Writer:
    """Writes the deliveries of one consumer to the outbox.

    Args:
        using: The alias of the outbox's database.
        consumer: The alias of the consumer.
        backend: The alias of the backend to deliver to.
    """

    def __init__(self, using: str, consumer: str, backend: str) -> None:
        self._using = using
        self._consumer = consumer
        self._backend = backend

    def asks_the_database(self) -> bool:
        """Return True if the database may be asked for its limits while rows are made."""
        connection = connections[self._using]
        return limits_statements(connection) or may_lack_characters(connection)

    def entries(self, deliveries: Sequence[Delivery]) -> list[Entry]:
        """Return an entry for each delivery that is not to be ignored, in their order."""
        call = self._call()
        plan = self._plan(call, {})
        entries = []
        for delivery in deliveries:
            event, problem = delivery.event, delivery.problem
            if event is not None:
                try:
                    row = self._row(call, event, plan, delivery.message.key)
                    entries.append(Entry(row, delivery))
                except InvalidEvent as error:
                    problem = str(error)
                except (BroadcasterError, Error):  # a setting is wrong, or the database fails
                    raise
                except Exception as error:  # or a value that nothing was prepared for comes again
                    problem = problem_of(error)
            if problem:
                entries.append(self._malformed(call, delivery, problem))
        return entries

    def write(
        self, entries: Sequence[Entry], received: int, within: Within | None = None
    ) -> Written:
        """Insert the rows of entries, in one transaction.

        Args:
            entries: The entries of a batch, in the order in which it was received.
            received: The messages of the batch, with those that are to be ignored.
            within: Statements of the same transaction.

        Raises:
            DatabaseError: Nothing was written.
        """
        try:
            return self._insert(entries, received, within)
        except (DatabaseError, ValueError) as error:
            if not _refuses_value(error):
                raise
            entries = [self._tried(entry) for entry in entries]
            return self._insert(entries, received, within)

    def _insert(
        self,
        entries: Sequence[Entry],
        received: int,
        within: Within | None,
    ) -> Written:
        connection = connections[self._using]
        malformed = [entry for entry in entries if entry.problem]
        cut = [entry.delivery for entry in malformed if entry.is_cut]
        chunks = list(_chunks([entry.row for entry in entries], connection))
        new = None
        if within is not None and len(chunks) == 1 and not malformed and are_plain(chunks[0]):
            new = within.insert(chunks[0], received)
        if new is not None:
            self._notify(new)
            return Written(received, len(entries) - new, 0, cut)
        with transaction.atomic(using=self._using):
            if within is not None:
                within.begin()
            new = sum(write_rows(connection, chunk) for chunk in chunks)
            for entry in malformed:
                self._explain(entry)
            self._notify(new)
            written = Written(received, len(entries) - new, len(malformed), cut)
            if within is not None:
                within.end(written)
        return written

    def _notify(self, new: int) -> None:
        if new:
            notify_after_commit(connections[self._using], self._backend)

    def _explain(self, entry: Entry) -> None:
        """Complete the row of a dead letter, unless it was there already."""
        rows = OutboxEvent.objects.using(self._using).filter(
            identity=entry.row.identity, status=FAILED, ended_at=None
        )
        whole = text_for_row(entry.problem, 2 * LONGEST_PROBLEM)
        text = storable(whole, connections[self._using])
        rows.update(last_error=text, ended_at=DatabaseNow())

    def _tried(self, entry: Entry) -> Entry:
        """Return the entry, or one of a dead letter if the database refuses its row."""
        try:
            with transaction.atomic(using=self._using):
                write_rows(connections[self._using], [entry.row])
                transaction.set_rollback(True, using=self._using)
        except (DatabaseError, ValueError) as error:
            if not _refuses_value(error):
                raise
            problem = f"the database refuses the row: {problem_of(error)}"
            return self._malformed(self._call(), entry.delivery, problem)
        return entry

    def write_valid(self, deliveries: Sequence[Delivery]) -> Written:
        """Insert a row for each delivery, or none if one of them has no valid event.

        Raises:
            Rejected: The first problem.
            DatabaseError: Nothing was written.
        """
        entries = self.entries(deliveries)
        problems = [entry.problem for entry in entries if entry.problem]
        if problems:
            raise Rejected(problems[0])
        try:
            return self._insert(entries, len(deliveries), None)
        except (DatabaseError, ValueError) as error:
            if not _refuses_value(error):
                raise
            raise Rejected(f"the database refuses the event: {type(error).__name__}") from error

    # --- From deliveries to rows -------------------------------------------------------------

    def _call(self) -> PublishCall:
        return PublishCall(self._using, lambda: self._backend, consumer=self._consumer)

    def _plan(self, call: PublishCall, further: Mapping[str, Any]) -> DeliveryPlan:
        """Return when to deliver events; `publisher_config` is not for the backend to judge."""
        config = encode_data({"consumer": self._consumer, **further})
        return call.delivery(None, RETRIES_OF_SETTINGS, None)._replace(config_json=config)

    def _row(self, call: PublishCall, event: CloudEvent, plan: DeliveryPlan, key: str) -> NewRow:
        """Return the row of an event; raises InvalidEvent if no row can hold it."""
        own_key = None if event.partition_key else _short(key) or None
        (row,) = call.rows(event, plan, backend=self._backend, partition_key=own_key, unique=True)
        return row

    def _malformed(self, call: PublishCall, delivery: Delivery, problem: str) -> Entry:
        problem = problem[:LONGEST_PROBLEM]
        try:
            return Entry(self._dead_letter(call, delivery.message), delivery, problem)
        except StatementTooLong as error:
            problem = f"{problem}; only its beginning is stored: {error}"
            row = self._dead_letter(call, delivery.message, BEGINNING_BYTES)
            return Entry(row, delivery, problem, is_cut=True)

    def _dead_letter(
        self, call: PublishCall, message: ReceivedMessage, most: int | None = None
    ) -> NewRow:
        """Return the row of a message, with up to `most` bytes of it and of its headers."""
        event = CloudEvent(
            event_type=MALFORMED_TYPE,
            source=f"/consumers/{quote(self._consumer)}",
            data=message.body[:most],
            id=_short(message.identity),
            data_content_type="application/octet-stream",
        )
        received = {
            "headers": _beginning(message.headers, most),
            "content_type": _plain(message.content_type)[:most],
            "key": _plain(message.key)[:most],
            "origin": _plain(message.origin)[:most],
            "position": _plain(message.position)[:most],
            "bytes": len(message.body),
            "has_body": message.has_body,
            "cut": most is not None,
        }
        plan = self._plan(call, {"received": received})
        return self._row(call, event, plan._replace(status=FAILED), "")


def redeliver(message: Message, using: str) -> None:
    """Decode a malformed message once more, and insert the row of its event.

    A relay calls this for a dead letter that is replayed, after `decode` has been corrected.

    Raises:
        Rejected: The message still has no valid event, or only its beginning is stored.
        TransientError: What decodes it is unavailable.
    """
    received: Mapping[str, Any] = message.config["received"]
    body = message.data_binary or b""
    if received["cut"]:
        raise Rejected(
            f"only the beginning of the message and its headers is stored, {len(body)} of "
            f"{received['bytes']} bytes; read the message at the broker: {received['origin']}, "
            f"{received['position']}"
        )
    alias = message.config["consumer"]
    original = ReceivedMessage(
        body=body,
        headers=received["headers"],
        content_type=received["content_type"],
        key=received["key"],
        origin=received["origin"],
        position=received["position"],
        has_body=received.get("has_body", True),  # rows of former versions do not have it
    )
    try:
        delivery = consumers.decoder(alias).delivery(original)
    except BackendUnavailable as error:  # others need not wait for it
        raise TransientError(str(error), spends_retry=False) from error
    Writer(using, alias, consumers.delivers_to(alias)).write_valid([delivery])


def _refuses_value(error: Exception) -> bool:
    """Return True if a value of a row caused an error, False if it may pass by itself.

    A standby without write permission, a missing table or a full disk is nothing of a message.
    """
    if isinstance(error, DataError | IntegrityError) or not isinstance(error, DatabaseError):
        return True
    return bool(error.args) and error.args[0] in _REFUSED_VALUES


def _chunks(rows: Sequence[NewRow], connection: BaseDatabaseWrapper) -> Iterator[list[NewRow]]:
    """Yield the rows in their order, in statements of limited size: nearly always one."""
    chunk: list[NewRow] = []
    size = 0
    for row in rows:
        more = characters(row) + len(row.publisher_config)
        total = size + more
        if chunk and (total > MOST_CHARACTERS or is_too_long(total, connection)):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += more
    if chunk:
        yield chunk


def _beginning(headers: Mapping[str, str], most: int | None) -> dict[str, str]:
    """Return headers as they are stored, up to `most` characters of them."""
    found: dict[str, str] = {}
    left = most
    for name, value in headers.items():
        name, value = _plain(name)[:left], _plain(value)[:left]
        if left is not None:
            left -= len(name) + len(value)
            if left < 0:
                break
        found[name] = value
    return found


def _short(name: str) -> str:
    """Return a name, or its digest if no row can hold it."""
    fits = len(name) <= LONGEST_NAME and name.isprintable()
    return name if fits else sha256(name.encode(errors="surrogatepass")).hexdigest()


def _plain(text: str) -> str:
    """Return text that every database can store as JSON."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
