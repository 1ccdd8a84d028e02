"""The contract of backends whose destination is the outbox's own database.

Publish calls hand them the events that are due, in the caller's transaction. The rows of these
events are delivered from the start. The relay sends the others: scheduled, replayed, and those that
were pending when the alias got its backend.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.exceptions import BackendUnavailable

from .base import Message, MessageBackend, Outcome, as_delivery_error
from .outcomes import MessageBatch


class InDatabaseBackend(MessageBackend):
    """A backend that writes into the outbox's own database."""

    using = DEFAULT_DB_ALIAS
    """Set by the relay: the alias of the database."""

    slot: str
    """The name of the replication slot that keeps what was written until it is taken."""

    max_wal_bytes: int
    """The WAL that the slot may retain before the backend is unhealthy."""

    @abstractmethod
    def check_database(self, connection: BaseDatabaseWrapper) -> None:
        """Raise BackendConfigurationError if the backend can't work with this database."""

    @abstractmethod
    def prepare(self, message: Message) -> str:
        """Return what `write` takes for a message; raises Rejected."""

    @abstractmethod
    def write(self, prepared: Sequence[str], connection: BaseDatabaseWrapper) -> None:
        """Write messages in order, in the transaction that is open; raises BackendUnavailable."""

    def send(self, message: Message) -> None:
        """Write one message in a transaction of its own; raises a DeliveryError."""
        self._write([self.prepare(message)])

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Write messages, all or none, except for those that can't be written."""
        batch = MessageBatch(messages)
        prepared = {}
        for index, message in enumerate(messages):
            if not batch.hold_after_failure(index):
                try:
                    prepared[index] = self.prepare(message)
                except Exception as error:
                    batch.fail(index, as_delivery_error(error))
        if prepared:
            self._write(list(prepared.values()))
        for index in prepared:
            batch.acknowledge(index)
        return batch.outcomes

    def _write(self, prepared: Sequence[str]) -> None:
        connection = connections[self.using]
        self.check_database(connection)
        try:
            self.write(prepared, connection)
        except Error as error:
            if not connection.in_atomic_block:
                connection.close()
            raise BackendUnavailable(f"database {self.using!r}: {error}") from error
