"""The transaction of one handler, which must remain the one with its note.

A check needs a statement only if the transaction may have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import Error, connections, transaction

from .idle_connections import is_in_transaction
from .inbox_notes import Note
from .transaction_state import ABORTED, OPEN, Watch, state_of


class HandlerTransaction:
    """Observes the transaction of one call of a handler, from the note to the commit."""

    def __init__(self, handler: str, note: Note) -> None:
        self.has_committed = False
        """Whether the handler's changes have committed, even if an error was raised after that."""
        self._handler = handler
        self._note = note
        self._connection: Any = connections[note.using]
        self._is_outermost = not is_in_transaction(self._connection)
        self._watch = Watch(self._connection)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe the transaction while the handler runs.

        Raises:
            TransactionManagementError: The handler's changes can't commit with the note.
        """
        if self._is_outermost:
            self._connection.on_commit(self._note_commit)  # registered first: others may raise
        with self._watch:
            yield
        if self._watch.is_broken:
            raise self._error("continued after a database error, which rolls back its changes")
        if self._watch.may_have_ended and not self._note.exists():
            raise self._error("continued after its transaction ended, which undid its changes")

    def forget(self) -> None:
        """Delete the note if the handler committed it and then failed, so that it runs again."""
        if self._is_outermost and self._watch.may_have_ended:
            with suppress(Error):
                self._note.delete()

    def _note_commit(self) -> None:
        self.has_committed = True

    def _error(self, problem: str) -> transaction.TransactionManagementError:
        return transaction.TransactionManagementError(
            f"handler {self._handler} {problem}; wrap statements that may fail in "
            "transaction.atomic()"
        )


@contextmanager
def left_open(handler: str) -> Iterator[None]:
    """Roll back a transaction that a handler leaves open, and raise TransactionManagementError."""
    before = {each.alias for each in connections.all(initialized_only=True) if _is_open(each)}
    try:
        yield
    finally:
        left = [
            each
            for each in connections.all(initialized_only=True)
            if each.alias not in before and _is_open(each)
        ]
        for connection in left:
            with suppress(Error):
                connection.close()
            del connections[connection.alias]
    if left:
        names = ", ".join(repr(connection.alias) for connection in left)
        raise transaction.TransactionManagementError(
            f"handler {handler} left a transaction open on database {names}; rolled it back"
        )


def _is_open(connection: Any) -> bool:
    return is_in_transaction(connection) or state_of(connection) in (OPEN, ABORTED)
