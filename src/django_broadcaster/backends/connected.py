"""Backends that hold a connection: opened at first use, replaced when stale, not shared by forks.

A backend with a connection subclasses `ConnectedBackend` and writes `connect` and `deliver`. Its
connection subclasses `HeldConnection`.
"""

from __future__ import annotations

import ctypes
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from .base import Message, MessageBackend, Outcome
from .outcomes import MessageBatch

HEALTH_SECONDS: Final = 1.0
"""The longest that a health check waits for a connection, and again for each answer."""


class HeldConnection(ABC):
    """An open connection, or several, to a broker."""

    def is_fresh(self) -> bool:
        """Return True if the next batch can use it; False if it is to be replaced.

        Called between two batches, when losing a connection loses or repeats nothing. Raises
        BackendUnavailable where another connection would be of no use either.
        """
        return True

    @abstractmethod
    def close(self) -> None:
        """Disconnect in an orderly way."""

    def drop(self) -> None:
        """Disconnect at once: messages were interrupted, or their answers may still come."""
        self.close()

    def abandon(self) -> None:  # noqa: B027  # not every client shows its sockets
        """Close this process's copies of the sockets, and send nothing.

        Called in a child process: the connection stays the parent's. The object is never used or
        finalised in the child afterwards.
        """


ConnectionT = TypeVar("ConnectionT", bound=HeldConnection)


class ConnectedBackend(MessageBackend, Generic[ConnectionT]):
    """A backend that delivers over a connection of its own.

    A subclass writes `connect` and `deliver`, and `prepare` if it has a destination to check.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._connection: ConnectionT | None = None
        _backends.add(self)

    # --- What a subclass writes --------------------------------------------------------------

    @abstractmethod
    def connect(self, within: float = math.inf) -> ConnectionT:
        """Return an open connection; raises BackendUnavailable or BackendConfigurationError.

        Args:
            within: Seconds that each wait may take; the options may allow less.
        """

    @abstractmethod
    def deliver(self, batch: MessageBatch, connection: ConnectionT) -> None:
        """Send the messages of a batch, and note what became of each.

        What is sent when this raises BackendUnavailable counts as not delivered, and so does all
        else in the batch that has no outcome; the connection is dropped, since answers may still
        come.
        """

    def prepare(self, connection: ConnectionT) -> None:  # not every backend has something to check
        """Check that the destination is there; raises DeliveryError. Called once a connection."""

    def is_up(self, connection: ConnectionT) -> bool:
        """Return True if the broker answers over a connection that `connect` has just opened."""
        return True

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and check the destination; raises DeliveryError or MissingClient."""
        self.close()
        self.connection()

    def close(self) -> None:
        """Disconnect; the next publish connects again."""
        if (connection := self._taken()) is not None:
            connection.close()

    def send(self, message: Message) -> None:
        """Send one event; raises its DeliveryError."""
        (outcome,) = self.send_batch([message])
        if outcome is not None:
            raise outcome

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send events; one outcome for each, None once the broker holds it.

        What had no answer when the connection was lost may have arrived: it is unavailable, and
        sent again it can make duplicates.
        """
        batch = MessageBatch(messages)
        if messages:
            with self.dropped_if_interrupted():
                try:
                    connection = self.fresh_connection()
                    with self.dropped_if_lost():
                        self.deliver(batch, connection)
                except BackendUnavailable as error:
                    batch.give_up(range(len(messages)), error)
        return batch.outcomes

    def health_check(self) -> bool:
        """Return True if the broker can be reached over a new connection; never raises."""
        try:
            connection = self.connect(HEALTH_SECONDS)
            try:
                return self.is_up(connection)
            finally:
                connection.close()
        except Exception:
            return False

    # --- The connection ----------------------------------------------------------------------

    def connection(self) -> ConnectionT:
        """Return the connection, a new one if there is none; raises DeliveryError."""
        if self._connection is None:
            connection = self.connect()
            try:
                self.prepare(connection)
            except BaseException:
                connection.drop()
                raise
            self._connection = connection
        return self._connection

    def fresh_connection(self) -> ConnectionT:
        """Return a connection for the next batch; one that is of no further use is replaced."""
        if self._connection is not None and not self._connection.is_fresh():
            self.drop()
        return self.connection()

    def drop(self) -> None:
        """Disconnect at once; the next publish connects again."""
        if (connection := self._taken()) is not None:
            connection.drop()

    @contextmanager
    def dropped_if_interrupted(self) -> Iterator[None]:
        """Drop the connection if a batch is interrupted: the next one would read its answers."""
        try:
            yield
        except DeliveryError:
            raise
        except BaseException:
            self.drop()
            raise

    @contextmanager
    def dropped_if_lost(self) -> Iterator[None]:
        """Drop the connection if the broker is unavailable: its answers may still come."""
        try:
            yield
        except BackendUnavailable:
            self.drop()
            raise

    def _taken(self) -> ConnectionT | None:
        connection, self._connection = self._connection, None
        return connection


_backends: WeakSet[ConnectedBackend[Any]] = WeakSet()


def _leave_connections_to_parent() -> None:
    """Take the connections away from all backends of a child process.

    Two processes would read each other's answers. To finalise a connection could end it for the
    parent, or wait for threads that are in the parent. So each gets a reference that is never
    released.
    """
    for backend in _backends:
        connection = backend._taken()
        if connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            with suppress(Exception):
                connection.abandon()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_leave_connections_to_parent)
