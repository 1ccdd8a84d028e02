"""One chunk of a batch in flight: what becomes of each entry, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from ..base import Message
from ..outcomes import MessageBatch
from .cluster import Servers
from .connection import Entry, Transaction, exchange
from .errors import errors_in, redirection, unavailable

REDIRECTIONS: Final = 5
"""How often in a row a chunk may be sent elsewhere before the cluster counts as unavailable."""

Failure = Callable[[Exception, str, Message], DeliveryError]


class Sender:
    """Sends the entries of a chunk until each has its outcome in the batch.

    All entries of a key are for one stream, so they are in one transaction. The outcome of another
    transaction does not matter to their order. A transaction that was refused for some of
    its commands stored nothing: it is sent again without them, and without the later events of
    their keys. One that another node of a cluster should have got is sent there.

    `failure` tells what an error reply to one message means, on the server of that name.
    """

    def __init__(self, servers: Servers, batch: MessageBatch, failure: Failure) -> None:
        self._servers = servers
        self._batch = batch
        self._failure = failure
        self._again: list[Entry] = []
        self._redirected = False
        self._stop: BackendUnavailable | None = None

    def run(self, entries: Sequence[Entry]) -> BackendUnavailable | None:
        """Send a chunk; return the error after which nothing further may be sent."""
        left = REDIRECTIONS
        while entries and self._stop is None:
            self._again, self._redirected = [], False
            try:
                transactions = self._servers.plan(entries)
            except BackendUnavailable as error:
                self._give_up(entries, error)
                break
            exchange(transactions)
            for each in transactions:
                self._judge(each)
            left = left - 1 if self._redirected else REDIRECTIONS
            if not left and self._stop is None:
                lost = f"Redis redirected the commands {REDIRECTIONS} times in a row"
                self._give_up(self._again, BackendUnavailable(lost))
            entries = self._again
        if self._stop is not None:
            self._give_up(self._again, self._stop)
        return self._stop

    def _judge(self, transaction: Transaction) -> None:
        replies, entries = transaction.replies, transaction.entries
        if replies is None:  # the server did not read as far as this
            self._again += entries
        elif isinstance(replies, BackendUnavailable):
            self._give_up(entries, replies)
        elif not self._was_redirected(transaction, replies):
            self._settle(transaction, replies)

    def _was_redirected(self, transaction: Transaction, replies: list[Any]) -> bool:
        """Return True if another node must be asked: then this one has stored nothing."""
        if isinstance(replies[-1], list):
            return False
        where = next(filter(None, map(redirection, reversed(replies))), None)
        if where is None or not self._servers.redirect(transaction, where):
            return False
        self._again += transaction.entries
        self._redirected = True
        return True

    def _settle(self, transaction: Transaction, replies: list[Any]) -> None:
        server = transaction.connection.place
        try:
            stored, refusals = executed(replies, len(transaction.entries))
        except TransactionRefused as refused:
            self._give_up(transaction.entries, unavailable(server, refused.reply))
            return
        if stored and not any(refusals):
            for place, _, _ in transaction.entries:
                self._batch.acknowledge(place)
            return
        kept: list[Entry] = []
        for entry, refusal in zip(transaction.entries, refusals, strict=True):
            place = entry[0]
            message = self._batch.messages[place]
            if refusal is not None:
                failure = self._failure(refusal, server, message)
                if isinstance(failure, BackendUnavailable):
                    self._note(failure)
                    if not stored:
                        self._give_up(transaction.entries, failure)
                        return
                self._batch.fail(place, failure)
            elif stored:
                self._batch.acknowledge(place)
            elif not self._batch.hold_after_failure(place):
                kept.append(entry)
        self._again += kept

    def _give_up(self, entries: Sequence[Entry], error: BackendUnavailable) -> None:
        """Note an error for all of these that have not failed for a reason of their own."""
        self._note(error)
        self._batch.give_up((place for place, _, _ in entries), error)

    def _note(self, error: BackendUnavailable) -> None:
        self._stop = self._stop or error
        self._servers.lost()


class TransactionRefused(Exception):
    """A transaction failed, and not because of a single command."""

    def __init__(self, reply: Exception) -> None:
        super().__init__(str(reply))
        self.reply = reply


def executed(replies: list[Any], count: int) -> tuple[bool, list[Exception | None]]:
    """Return whether `count` commands were executed, and for each its error or None.

    Raises:
        TransactionRefused: The transaction failed, and not because of a single command.
    """
    begun, queued, result = replies[0], replies[1 : count + 1], replies[-1]
    if isinstance(result, list):
        return True, errors_in(result)
    if isinstance(begun, Exception):
        # Only if the permission for MULTI was removed just then: each command has run by
        # itself, and those that answered with the id of an entry are stored.
        if b"QUEUED" in queued or len(queued) < count:
            raise TransactionRefused(begun)
        return True, errors_in(queued)
    refusals = errors_in(queued)
    if not any(refusals):
        raise TransactionRefused(result if isinstance(result, Exception) else Exception(result))
    return False, refusals + [None] * (count - len(refusals))
