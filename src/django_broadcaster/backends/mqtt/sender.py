"""How one batch goes to an MQTT server: what may be on its way at the same time.

A server takes the messages of one connection in the order in which they come, but it may refuse any
of them by itself and take the next one: a topic is not permitted, a quota is used up and then is
not. So of one key only one message is on its way at a time (`in_flight`), and never more in all
than the server's Receive Maximum.

Some servers answer a message that they do not take by ending the connection, and what else was on
its way is lost with it. Whichever was on its way then is a *suspect*: it is sent again behind all
others, and alone, so that the blame is certain and nobody else has to bear it. Where the server has
refused one right before, as Mosquitto 2.0 does, the blame is certain without that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, TransientError

from ..base import Message, as_delivery_error
from ..in_flight import Lines
from ..outcomes import Batch
from .connection import Link, LinkLost, reason_text
from .packets import PUBACK, Letter, Packet

FLIGHT_MESSAGES: Final = 1000
"""Messages on their way at a time, at the most, whatever the server allows."""

FLIGHT_BYTES: Final = 4 * 2**20
"""The same in bytes."""

TURN: Final = 100
"""How many messages are packed before what is packed goes to the server."""

STRIKES: Final = 3
"""How often a connection ends over a message that was alone, before the message is to blame. The
server was there for others each time, so it is not simply away."""

SUSPECTS: Final = 10_000
"""How many suspects are remembered."""

REFUSED: Final = 0x80
"""Reason codes from here on say that a message was not taken."""

BLAMING: Final = frozenset({0x81, 0x82, 0x87, 0x90, 0x95, 0x99})
"""Reasons to end a connection that are about a message: malformed, against the protocol, not
authorized, topic name invalid, too large, payload format invalid."""


class Office(Protocol):
    """What a flight asks of its backend."""

    on_progress: Callable[[], object]

    def letter(self, message: Message, link: Link) -> Letter:
        """Return what to send; raises Rejected for what can't be."""

    def link(self) -> Link:
        """Return an open connection; raises BackendUnavailable."""

    def drop(self) -> None:
        """Forget the connection."""

    def refusal(self, letter: Letter, code: int, text: str) -> DeliveryError:
        """Return what it means that the server did not take a message."""

    def unavailable(self, error: LinkLost) -> BackendUnavailable:
        """Return the error for a server that is away."""


@dataclass
class Experience:
    """What a backend knows from the batches before.

    served: whether the server has taken a message, so that it can.
    suspects: by source and id, how often the connection ended while the message was alone.
    """

    served: bool = False
    suspects: dict[tuple[str, str], int] = field(default_factory=dict)

    def suspect(self, message: Message, *, strike: bool = False) -> int:
        """Note that a message was on its way as the connection ended; return its strikes."""
        if len(self.suspects) >= SUSPECTS:
            self.suspects.clear()
        strikes = self.suspects.get(_identity(message), 0) + strike
        self.suspects[_identity(message)] = strikes
        return strikes

    def is_suspect(self, message: Message) -> bool:
        """Tell whether a message may have ended a connection."""
        return bool(self.suspects) and _identity(message) in self.suspects

    def settled(self, message: Message) -> None:
        """Note that it is known what becomes of a message."""
        if self.suspects:
            self.suspects.pop(_identity(message), None)


def _identity(message: Message) -> tuple[str, str]:
    return message.source, message.event_id


class Flight:
    """Delivers one batch; `batch.outcomes` are complete when `run` returns."""

    def __init__(self, batch: Batch, office: Office, experience: Experience) -> None:
        self._messages = batch.messages
        self._office = office
        self._experience = experience
        self._lines = Lines(batch, office.on_progress)
        self._suspects: list[int] = []  # their turn comes last
        self._sent: dict[int, tuple[int, Letter]] = {}  # by packet identifier: the index
        self._bytes = 0
        self._letters: dict[int, Letter] = {}  # packed ahead
        self._link: Link | None = None
        self._stop: BackendUnavailable | None = None

    def run(self) -> None:
        """Send, and wait for what becomes of each message."""
        while self._fly():
            pass
        if self._stop is not None:
            self._lines.give_up(self._stop)

    # --- Steps -------------------------------------------------------------------------------

    def _fly(self) -> bool:
        """Send what may go now, and wait for answers; False when there is no more to do."""
        try:
            if self._has_more():
                self._link = self._office.link()
                self._send(self._link)
            if self._sent and self._link is not None:
                for packet in self._link.receive():
                    if packet.kind == PUBACK:
                        self._answered(packet, self._link)
        except BackendUnavailable as error:
            self._stop = self._stop or error
        except LinkLost as error:
            self._lost(error)
        return bool(self._sent) or self._has_more()

    def _has_more(self) -> bool:
        return self._stop is None and bool(self._lines.ready or self._suspects)

    def _send(self, link: Link) -> None:
        """Send as much as may be on its way, in turns: the server begins before all is packed."""
        window = min(link.window, FLIGHT_MESSAGES)
        while packets := self._take(link, window):
            link.send(b"".join(packets))
        self._pack_ahead(link, window)

    def _take(self, link: Link, window: int) -> list[bytes]:
        """Return the packets of one turn, none if no more may be on its way."""
        packets: list[bytes] = []
        ready = self._lines.ready
        room = min(window - len(self._sent), TURN)
        while ready and len(packets) < room and self._bytes < FLIGHT_BYTES:
            index = ready.popleft()
            if self._experience.suspects and self._experience.is_suspect(self._messages[index]):
                self._suspects.append(index)
            elif packet := self._pack(index, link):
                packets.append(packet)
        if self._suspects and not self._sent and not ready:
            packets.append(self._pack(self._suspects.pop(0), link))
        return packets

    def _pack(self, index: int, link: Link) -> bytes:
        """Return the packet to write, empty if the message can't be sent."""
        letter = self._letters.pop(index, None)
        try:
            letter = letter or self._office.letter(self._messages[index], link)
        except Exception as error:
            self._fail(index, as_delivery_error(error))
            return b""
        identifier = link.next_identifier(self._sent)
        self._sent[identifier] = (index, letter)
        self._bytes += letter.size
        return letter.packet(identifier)

    def _pack_ahead(self, link: Link, count: int) -> None:
        """Pack what is sent next while the server is at work on what it has got."""
        size = 0
        for index in islice(self._lines.ready, count):
            if index not in self._letters:
                try:
                    letter = self._office.letter(self._messages[index], link)
                except Exception:
                    return  # it fails in its turn
                self._letters[index] = letter
                size += letter.size
                if size > FLIGHT_BYTES:
                    return

    # --- Outcomes ----------------------------------------------------------------------------

    def _answered(self, packet: Packet, link: Link) -> None:
        """Note a PUBACK (section 3.4): an identifier, then a reason code unless that is 0."""
        body = packet.body
        landed = self._sent.pop(int.from_bytes(body[:2]), None)
        if landed is None:
            return
        index, letter = landed
        self._bytes -= letter.size
        code = body[2] if len(body) > 2 else 0
        link.has_refused = code >= REFUSED
        if link.has_refused:
            text = f"the server did not take it: {reason_text('PUBACK', code, body[3:])}"
            self._fail(index, self._office.refusal(letter, code, text))
            return
        link.acknowledged += 1
        self._experience.served = True
        self._experience.settled(self._messages[index])
        self._lines.landed(index)

    def _lost(self, error: LinkLost) -> None:
        """Note that the connection ended; over another one it goes on if it is known why.

        What was on its way goes again then, by which it may be there twice, as after any loss.
        """
        link, self._link = self._link, None
        lost, self._sent, self._bytes = list(self._sent.values()), {}, 0
        self._office.drop()
        if error.hung_up and error.code is None and link is not None and link.has_refused:
            self._lines.again([index for index, _ in lost])
        elif error.code in BLAMING and self._experience.served:
            self._blame(lost, error.code, str(error))
        else:
            self._stop = self._stop or self._office.unavailable(error)
            if error.hung_up and error.code in {None, *BLAMING}:
                served = link is not None and link.acknowledged > 0
                self._strike([index for index, _ in lost], served, str(error))

    def _blame(self, lost: list[tuple[int, Letter]], code: int, text: str) -> None:
        """Find the message over which the server hung up."""
        if len(lost) == 1:
            ((index, letter),) = lost
            self._fail(index, self._office.refusal(letter, code, text))
            return
        for index, _ in lost:
            self._experience.suspect(self._messages[index])
        self._lines.again([index for index, _ in lost])

    def _strike(self, lost: list[int], served: bool, text: str) -> None:
        """Note who was on its way as the server hung up without a word."""
        alone = served and len(lost) == 1
        for index in lost:
            strikes = self._experience.suspect(self._messages[index], strike=alone)
            if strikes >= STRIKES:
                problem = f"{text}, {strikes} times, as this event was sent alone"
                self._fail(index, TransientError(problem))

    def _fail(self, index: int, failure: DeliveryError) -> None:
        if isinstance(failure, BackendUnavailable):
            self._stop = self._stop or failure
            return
        self._experience.settled(self._messages[index])
        self._lines.failed(index, failure)
