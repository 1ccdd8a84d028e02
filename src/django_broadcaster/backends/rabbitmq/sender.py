"""How one batch goes through a channel of RabbitMQ: what may be in flight at the same time.

A server may refuse any message by itself: a full queue refuses one and takes the next, when a
consumer has made room between them. So of one key only one message is in flight at a time
(`in_flight`).

A message over a server's limits, or for an exchange that is not there, makes the server close the
channel. It ignores all that followed that message, and does not say what became of those before.
So what may meet that (the first message for an exchange, one larger than any before) goes alone,
and the cause is certain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, Rejected

from ..amqp import BLOCKED
from ..base import as_delivery_error
from ..in_flight import InFlight
from ..outcomes import MessageBatch
from .connection import Connection
from .errors import EXCHANGE_CODES, ChannelRefused
from .frames import Outgoing

if TYPE_CHECKING:
    from .backend import RabbitMQBackend

IN_FLIGHT_BYTES: Final = 4 * 2**20
"""The most bytes in flight: what was sent and not yet confirmed."""

WRITE_BYTES: Final = 128 * 2**10
"""About how much is written at a time: the server works on it while the next part is encoded."""

UNPROVEN_BYTES: Final = 64 * 2**10
"""A message up to this size is taken to be within every server's limit."""

SUSPECTS: Final = 10_000
"""How many refused destinations are remembered."""


@dataclass
class Experience:
    """The knowledge that a backend has of its server from the messages before."""

    exchanges: set[str] = field(default_factory=set)  # they took a message
    proven: int = UNPROVEN_BYTES  # bytes of the largest message that was taken
    suspects: set[tuple[str, str]] = field(default_factory=set)  # destinations that refused one
    careful: bool = False  # it is not known which message was refused: send all alone

    def is_safe(self, outgoing: Outgoing) -> bool:
        """Return True if the server took a message like this before."""
        return (
            not self.careful
            and outgoing.exchange in self.exchanges
            and outgoing.size <= self.proven
            and (outgoing.exchange, outgoing.routing_key) not in self.suspects
        )

    def accepted(self, outgoing: Outgoing) -> None:
        """Learn from a message that was taken."""
        self.exchanges.add(outgoing.exchange)
        self.proven = max(self.proven, outgoing.size)
        self.suspects.discard((outgoing.exchange, outgoing.routing_key))

    def refused(self, outgoing: Outgoing) -> None:
        """Learn from a message that was sent alone and refused."""
        if len(self.suspects) >= SUSPECTS:
            self.suspects.clear()
        self.suspects.add((outgoing.exchange, outgoing.routing_key))
        self.careful = False

    def doubt(self) -> None:
        """The server refused one of many."""
        self.exchanges.clear()
        self.careful = True


class Sender:
    """Sends one batch; `batch.outcomes` are complete when `run` returns."""

    def __init__(
        self, batch: MessageBatch, backend: RabbitMQBackend, experience: Experience
    ) -> None:
        self._batch = batch
        self._backend = backend
        self._experience = experience
        # By delivery tag.
        self._in_flight = InFlight[Outgoing](batch, backend.on_progress, max_bytes=IN_FLIGHT_BYTES)
        self._tags: dict[str, int] = {}  # of those in flight, by message id
        self._returned: dict[int, str] = {}  # by delivery tag: why it came back
        self._refusals: dict[str, DeliveryError] = {}  # by exchange
        self._alone = False
        self._next: Outgoing | None = None  # of the first that is ready, when it had to wait

    def run(self) -> None:
        """Send, and wait for what becomes of each message."""
        careful = self._experience.careful
        try:
            while not self._in_flight.is_done:
                self._turn()
        except BackendUnavailable as error:
            self._in_flight.stop = error
        if careful and self._in_flight.stop is None:
            self._experience.careful = False
        self._in_flight.finish()

    def confirmed(self, tag: int, many: bool, stored: bool) -> None:
        """Note what the server says of one tag, or of all up to it."""
        sent = self._in_flight.sent
        tags = [tag]
        if many:
            tags = []
            for each in sent:  # in ascending order
                if each > tag:
                    break
                tags.append(each)
        for each in tags:
            if each in sent:
                self._conclude(each, stored)

    def came_back(self, message_id: str, reason: str) -> None:
        """Note a message that no queue was there for; its confirmation follows.

        Of two messages with one id, only one is in flight. One without an id is in flight alone.
        """
        tag = self._tags.get(message_id)
        if tag is not None:
            self._returned[tag] = reason

    # --- Steps -------------------------------------------------------------------------------

    def _turn(self) -> None:
        connection = self._backend.connection()
        in_flight = self._in_flight
        try:
            messages = self._take(connection)
            if messages:
                connection.send(messages, mandatory=self._backend.mandatory)
                connection.catch_up()
            if in_flight.sent and (not messages or not in_flight.ready or self._is_full):
                self._wait(connection)
        except ChannelRefused as error:
            self._backend.drop()
            self._refused(error)
        except BackendUnavailable:
            if not connection.is_spent:
                self._backend.drop()
            raise

    @property
    def _is_full(self) -> bool:
        return self._alone or self._in_flight.is_full

    def _wait(self, connection: Connection) -> None:
        """Wait until something is confirmed; raises BackendUnavailable after the timeout."""
        deadline = time.monotonic() + self._backend.timeout
        before = len(self._in_flight.sent)
        while len(self._in_flight.sent) == before:
            if connection.receive(deadline):
                continue
            # A blocked connection is kept: the server would get the same messages over another one
            # again, and take all of them when it has room.
            connection.is_spent = connection.blocked
            problem = f"no confirmation in {self._backend.timeout} seconds"
            raise connection.unavailable(BLOCKED if connection.blocked else problem)

    def _take(self, connection: Connection) -> list[Outgoing]:
        """Return what may be sent now, noted as in flight."""
        messages: list[Outgoing] = []
        in_flight = self._in_flight
        ready, enough = in_flight.ready, in_flight.bytes + WRITE_BYTES
        while in_flight.has_more and not self._is_full and in_flight.bytes < enough:
            index = ready[0]
            outgoing = self._next or self._pack(index, connection)
            if outgoing is None:
                ready.popleft()
                continue
            alone = not self._experience.is_safe(outgoing) or self._is_ambiguous(outgoing)
            if in_flight.sent and (alone or in_flight.bytes + outgoing.size > IN_FLIGHT_BYTES):
                self._next = outgoing
                break
            self._next = None
            ready.popleft()
            messages.append(outgoing)
            tag = connection.last_tag + len(messages)
            in_flight.add(tag, index, outgoing)
            self._tags[outgoing.message_id] = tag
            self._alone = alone
        return messages

    def _pack(self, index: int, connection: Connection) -> Outgoing | None:
        """Return what to send, or None if it failed."""
        try:
            outgoing = self._backend.outgoing(self._batch.messages[index])
            if not connection.fits(outgoing):
                raise Rejected(
                    "the event's attributes take more than the server's frame_max in binary mode"
                )
            if outgoing.exchange in self._refusals:
                raise self._refusals[outgoing.exchange]
        except Exception as error:
            self._in_flight.conclude(index, as_delivery_error(error))
            return None
        return outgoing

    def _is_ambiguous(self, outgoing: Outgoing) -> bool:
        """Return True if a returned message could be this one or another."""
        return not outgoing.message_id or outgoing.message_id in self._tags

    # --- Outcomes ----------------------------------------------------------------------------

    def _conclude(self, tag: int, stored: bool) -> None:
        index, outgoing = self._pop(tag)
        reason = self._returned.pop(tag, None)
        if not stored:
            failure = self._backend.nacked(self._batch.messages[index], outgoing)
            self._in_flight.conclude(index, failure)
            return
        self._experience.accepted(outgoing)
        if reason is not None:
            place = f"exchange {outgoing.exchange!r}, routing key {outgoing.routing_key!r}"
            failure = Rejected(f"no queue of the server takes it: {place}: {reason}")
            self._in_flight.conclude(index, failure)
            return
        self._in_flight.conclude(index, None)

    def _refused(self, error: ChannelRefused) -> None:
        if not self._alone:
            self._experience.doubt()
            raise self._backend.unavailable(str(error), error)
        (tag,) = self._in_flight.sent
        index, outgoing = self._pop(tag)
        self._experience.refused(outgoing)
        failure = self._backend.refused(self._batch.messages[index], error)
        if error.code in EXCHANGE_CODES and not error.is_about_topic:
            self._refusals[outgoing.exchange] = failure
        self._in_flight.conclude(index, failure)

    def _pop(self, tag: int) -> tuple[int, Outgoing]:
        popped = self._in_flight.pop(tag)
        assert popped is not None
        del self._tags[popped[1].message_id]
        if not self._in_flight.sent:
            self._alone = False
        return popped
