"""How one batch goes to an MQTT server: what may be in flight at the same time.

A server takes the messages of one connection in the order in which they come. But it may refuse any
of them by itself and take the next one, as when a quota is used up for a moment. So of one key only
one message is in flight at a time (`in_flight`), and never more in all than the server's Receive
Maximum.

Some servers answer a message that they do not take by ending the connection, and what else was in
flight is lost with it. Each message in flight then is a *suspect*: it is sent again alone,
after all others. So the cause is certain, and no other message fails for it. Where the server
has refused one right before, as Mosquitto 2.0 does, the cause is certain without that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, TransientError

from ..base import Message, as_delivery_error
from ..in_flight import InFlight
from ..outcomes import MessageBatch
from .connection import Connection
from .errors import BLAMING, REFUSED, ConnectionLost, reason_text
from .packets import PUBACK, Outgoing, Packet

if TYPE_CHECKING:
    from .backend import MQTTBackend

IN_FLIGHT: Final = 1000
"""The most messages in flight, whatever the server allows."""

IN_FLIGHT_BYTES: Final = 4 * 2**20
"""The same in bytes."""

TURN: Final = 100
"""How many messages are packed before what is packed goes to the server."""

STRIKES: Final = 3
"""How often a connection ends over a message that was alone, before the message is the cause. The
server was there for others each time, so it is not simply away."""

SUSPECTS: Final = 10_000
"""How many suspects are remembered."""


@dataclass
class Experience:
    """The knowledge that a backend has from the batches before.

    served: whether the server has taken a message, so that it can.
    suspects: by source and id, how often the connection ended while the message was alone.
    """

    served: bool = False
    suspects: dict[tuple[str, str], int] = field(default_factory=dict)

    def suspect(self, message: Message, *, strike: bool = False) -> int:
        """Note that a message was in flight as the connection ended; return its strikes."""
        if len(self.suspects) >= SUSPECTS:
            self.suspects.clear()
        strikes = self.suspects.get(_identity(message), 0) + strike
        self.suspects[_identity(message)] = strikes
        return strikes

    def is_suspect(self, message: Message) -> bool:
        """Return True if a message may have ended a connection."""
        return bool(self.suspects) and _identity(message) in self.suspects

    def settled(self, message: Message) -> None:
        """Note that it is known what becomes of a message."""
        if self.suspects:
            self.suspects.pop(_identity(message), None)


def _identity(message: Message) -> tuple[str, str]:
    return message.source, message.event_id


class Sender:
    """Sends one batch; `batch.outcomes` are complete when `run` returns."""

    def __init__(self, batch: MessageBatch, backend: MQTTBackend, experience: Experience) -> None:
        self._messages = batch.messages
        self._backend = backend
        self._experience = experience
        self._in_flight = InFlight[Outgoing](batch, backend.on_progress, max_bytes=IN_FLIGHT_BYTES)
        self._suspects: list[int] = []  # their turn comes last
        self._packed: dict[int, Outgoing] = {}  # packed ahead, by index
        self._connection: Connection | None = None

    def run(self) -> None:
        """Send, and wait for what becomes of each message."""
        while self._turn():
            pass
        self._in_flight.finish()

    # --- Steps -------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Send what may go now, and wait for answers; return False when there is no more to do."""
        try:
            if self._has_more():
                self._connection = self._backend.connection()
                self._send(self._connection)
            if self._in_flight.sent and self._connection is not None:
                for packet in self._connection.receive():
                    if packet.kind == PUBACK:
                        self._answered(packet, self._connection)
        except BackendUnavailable as error:
            self._stop(error)
        except ConnectionLost as error:
            self._lost(error)
        return bool(self._in_flight.sent) or self._has_more()

    def _has_more(self) -> bool:
        return self._in_flight.stop is None and bool(self._in_flight.ready or self._suspects)

    def _send(self, connection: Connection) -> None:
        """Send as much as may be in flight, in turns: the server begins before all is packed."""
        self._in_flight.max_messages = min(connection.window, IN_FLIGHT)
        while packets := self._take(connection):
            connection.send(b"".join(packets))
        self._pack_ahead(connection)

    def _take(self, connection: Connection) -> list[bytes]:
        """Return the packets of one turn, none if no more may be in flight."""
        packets: list[bytes] = []
        in_flight, ready = self._in_flight, self._in_flight.ready
        while ready and len(packets) < TURN and not in_flight.is_full:
            index = ready.popleft()
            if self._experience.suspects and self._experience.is_suspect(self._messages[index]):
                self._suspects.append(index)
            elif packet := self._pack(index, connection):
                packets.append(packet)
        if self._suspects and not in_flight.sent and not ready:
            packets.append(self._pack(self._suspects.pop(0), connection))
        return packets

    def _pack(self, index: int, connection: Connection) -> bytes:
        """Return the packet to write, empty if the message can't be sent."""
        outgoing = self._packed.pop(index, None)
        try:
            outgoing = outgoing or self._backend.outgoing(self._messages[index], connection)
        except Exception as error:
            self._fail(index, as_delivery_error(error))
            return b""
        identifier = connection.next_identifier(self._in_flight.sent)
        self._in_flight.add(identifier, index, outgoing)
        return outgoing.packet(identifier)

    def _pack_ahead(self, connection: Connection) -> None:
        """Pack what is sent next while the server works on what it has got."""
        size = 0
        for index in islice(self._in_flight.ready, self._in_flight.max_messages):
            if index not in self._packed:
                try:
                    outgoing = self._backend.outgoing(self._messages[index], connection)
                except Exception:
                    return  # it fails in its turn
                self._packed[index] = outgoing
                size += outgoing.size
                if size > IN_FLIGHT_BYTES:
                    return

    # --- Outcomes ----------------------------------------------------------------------------

    def _answered(self, packet: Packet, connection: Connection) -> None:
        """Note a PUBACK (section 3.4): an identifier, then a reason code unless that is 0."""
        body = packet.body
        popped = self._in_flight.pop(int.from_bytes(body[:2]))
        if popped is None:
            return
        index, outgoing = popped
        code = body[2] if len(body) > 2 else 0
        connection.has_refused = code >= REFUSED
        if connection.has_refused:
            text = f"the server did not take it: {reason_text('PUBACK', code, body[3:])}"
            self._fail(index, self._backend.refusal(outgoing, code, text))
            return
        connection.acknowledged += 1
        self._experience.served = True
        self._experience.settled(self._messages[index])
        self._in_flight.conclude(index, None)

    def _lost(self, error: ConnectionLost) -> None:
        """Note that the connection ended; the batch goes on over another one if it is known why.

        What was in flight goes again then, and may be stored twice, as after any loss.
        """
        connection, self._connection = self._connection, None
        lost = self._in_flight.pop_all()
        indexes = [index for index, _ in lost]
        self._backend.drop()
        refused = connection is not None and connection.has_refused
        if error.hung_up and error.code is None and refused:
            self._in_flight.send_again(indexes)
        elif error.code in BLAMING and self._experience.served:
            self._blame(lost, error.code, str(error))
        else:
            self._stop(self._backend.unavailable(error))
            if error.hung_up and error.code in {None, *BLAMING}:
                served = connection is not None and connection.acknowledged > 0
                self._strike(indexes, served, str(error))

    def _blame(self, lost: list[tuple[int, Outgoing]], code: int, text: str) -> None:
        """Find the message over which the server hung up."""
        if len(lost) == 1:
            ((index, outgoing),) = lost
            self._fail(index, self._backend.refusal(outgoing, code, text))
            return
        for index, _ in lost:
            self._experience.suspect(self._messages[index])
        self._in_flight.send_again([index for index, _ in lost])

    def _strike(self, lost: list[int], served: bool, text: str) -> None:
        """Note which messages were in flight when the server hung up without a reason."""
        alone = served and len(lost) == 1
        for index in lost:
            strikes = self._experience.suspect(self._messages[index], strike=alone)
            if strikes >= STRIKES:
                problem = f"{text}, {strikes} times, as this event was sent alone"
                self._fail(index, TransientError(problem))

    def _fail(self, index: int, failure: DeliveryError) -> None:
        if not isinstance(failure, BackendUnavailable):
            self._experience.settled(self._messages[index])
        self._in_flight.conclude(index, failure)

    def _stop(self, error: BackendUnavailable) -> None:
        self._in_flight.stop = self._in_flight.stop or error
