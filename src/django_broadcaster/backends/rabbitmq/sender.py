"""How one batch goes through a channel of RabbitMQ: what may be on its way at the same time.

A server may refuse any message by itself: a full queue refuses one and takes the next, when a
consumer has made room between them. So of one key only one message is on its way at a time
(`in_flight`).

A message over a server's limits, or for an exchange that is not there, makes the server close the
channel. It ignores all that was behind that message, and does not say what became of those before.
So what may meet that (the first message for an exchange, one larger than any before) goes alone,
and the blame is certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError, Rejected

from ..base import Message, as_delivery_error
from ..in_flight import Lines
from ..outcomes import Batch
from .connection import ChannelRefused, Letter, Link, LinkLost

FLIGHT_BYTES: Final = 4 * 2**20
"""How much is on its way at a time, at the most: what was sent and not yet confirmed."""

WRITE_BYTES: Final = 128 * 2**10
"""About how much is written at a time: the server works on it while the next part is encoded."""

UNPROVEN_BYTES: Final = 64 * 2**10
"""A message up to this size is taken to be within every server's limit."""

BLOCKED: Final = "the server takes no messages: an alarm about its memory or disk space"

SUSPECTS: Final = 10_000
"""How many refused destinations are remembered."""


class Office(Protocol):
    """What a flight asks of its backend."""

    mandatory: bool
    timeout: float
    on_progress: Callable[[], object]

    def letter(self, message: Message) -> Letter:
        """Return what to send; raises Rejected."""

    def link(self) -> Link:
        """Return an open connection; raises BackendUnavailable."""

    def drop(self) -> None:
        """Forget the connection."""

    def refused(self, message: Message, letter: Letter, error: ChannelRefused) -> DeliveryError:
        """Return what it means that the server closed the channel over a message."""

    def nacked(self, message: Message, letter: Letter) -> DeliveryError:
        """Return what it means that the server did not store a message."""

    def unavailable(self, problem: str, cause: Exception | None = None) -> BackendUnavailable:
        """Return the error for a server that is away."""


@dataclass
class Experience:
    """What a backend knows of its server from the messages before."""

    exchanges: set[str] = field(default_factory=set)  # they took a message
    proven: int = UNPROVEN_BYTES  # bytes of the largest message that was taken
    suspects: set[tuple[str, str]] = field(default_factory=set)  # destinations that refused one
    careful: bool = False  # a refusal could not be laid to a message: send all alone

    def is_safe(self, letter: Letter) -> bool:
        """Tell whether the server took a message like this before."""
        return (
            not self.careful
            and letter.exchange in self.exchanges
            and len(letter.body) <= self.proven
            and (letter.exchange, letter.routing_key) not in self.suspects
        )

    def accepted(self, letter: Letter) -> None:
        """Learn from a message that was taken."""
        self.exchanges.add(letter.exchange)
        self.proven = max(self.proven, len(letter.body))
        self.suspects.discard((letter.exchange, letter.routing_key))

    def refused(self, letter: Letter) -> None:
        """Learn from a message that was sent alone and refused."""
        if len(self.suspects) >= SUSPECTS:
            self.suspects.clear()
        self.suspects.add((letter.exchange, letter.routing_key))
        self.careful = False

    def doubt(self) -> None:
        """The server refused one of many."""
        self.exchanges.clear()
        self.careful = True


class Flight:
    """Delivers one batch; `batch.outcomes` are complete when `run` returns."""

    def __init__(self, batch: Batch, office: Office, experience: Experience) -> None:
        self.batch = batch
        self.office = office
        self.experience = experience
        self.lines = Lines(batch, office.on_progress)
        self.sent: dict[int, tuple[int, Letter]] = {}  # by delivery tag: on their way
        self.tags: dict[str, int] = {}  # by message id: those on their way
        self.returned: dict[int, str] = {}  # by delivery tag: why it came back
        self.refusals: dict[str, DeliveryError] = {}  # by exchange
        self.bytes = 0
        self.alone = False
        self.next: Letter | None = None  # of the first that is ready, when it had to wait
        self.stop: BackendUnavailable | None = None

    def run(self) -> None:
        """Send, and wait for what becomes of each message."""
        careful = self.experience.careful
        try:
            while self.sent or (self.lines.ready and self.stop is None):
                self._turn()
        except BackendUnavailable as error:
            self.stop = error
        if careful and self.stop is None:
            self.experience.careful = False
        if self.stop is not None:
            self.lines.give_up(self.stop)

    def confirmed(self, tag: int, many: bool, stored: bool) -> None:
        """Note what the server says of one tag, or of all up to it."""
        tags = [tag]
        if many:
            tags = []
            for each in self.sent:  # in ascending order
                if each > tag:
                    break
                tags.append(each)
        for each in tags:
            if each in self.sent:
                self._landed(each, stored)

    def came_back(self, message_id: str, reason: str) -> None:
        """Note a message that no queue was there for; its confirmation follows.

        Of two messages with one id, only one is on its way. One without an id is on its way alone.
        """
        tag = self.tags.get(message_id)
        if tag is not None:
            self.returned[tag] = reason

    # --- Steps -------------------------------------------------------------------------------

    def _turn(self) -> None:
        link = self.office.link()
        try:
            letters = self._take(link)
            if letters:
                link.send(letters, mandatory=self.office.mandatory)
                link.catch_up()
            if self.sent and (not letters or not self.lines.ready or self._is_full()):
                self._wait(link)
        except ChannelRefused as error:
            self.office.drop()
            self._refused(error)
        except LinkLost as error:
            self.office.drop()
            raise self.office.unavailable(str(error), error) from error

    def _is_full(self) -> bool:
        return self.alone or self.bytes >= FLIGHT_BYTES

    def _wait(self, link: Link) -> None:
        """Wait until something has landed; raises BackendUnavailable after the timeout."""
        deadline = time.monotonic() + self.office.timeout
        before = len(self.sent)
        try:
            while len(self.sent) == before:
                link.receive(deadline)
        except TimeoutError as error:
            if link.blocked:
                # The connection stays: another one would put the same messages before the server
                # once more, and it would take all of them when it has room.
                link.is_spent = True
                raise self.office.unavailable(BLOCKED, error) from error
            self.office.drop()
            raise self.office.unavailable(
                f"no confirmation in {self.office.timeout} seconds", error
            ) from error

    def _take(self, link: Link) -> list[Letter]:
        """Return what may be sent now, noted as on its way."""
        letters: list[Letter] = []
        ready, enough = self.lines.ready, self.bytes + WRITE_BYTES
        while ready and self.stop is None and not self._is_full() and self.bytes < enough:
            index = ready[0]
            letter = self.next or self._letter(index, link)
            if letter is None:
                ready.popleft()
                continue
            alone = not self.experience.is_safe(letter) or self._is_ambiguous(letter)
            if self.sent and (alone or self.bytes + len(letter.body) > FLIGHT_BYTES):
                self.next = letter
                break
            self.next = None
            ready.popleft()
            letters.append(letter)
            self._on_its_way(link.last_tag + len(letters), index, letter)
            self.alone = alone
        return letters

    def _letter(self, index: int, link: Link) -> Letter | None:
        """Return what to send, or None if it failed."""
        try:
            letter = self.office.letter(self.batch.messages[index])
            if not link.fits(letter):
                raise Rejected(
                    "the event's attributes take more than the server's frame_max in binary mode"
                )
        except Exception as error:
            self._fail(index, as_delivery_error(error))
            return None
        if letter.exchange in self.refusals:
            self._fail(index, self.refusals[letter.exchange])
            return None
        return letter

    def _is_ambiguous(self, letter: Letter) -> bool:
        """Tell whether its return could not be told from that of another message."""
        return not letter.message_id or letter.message_id in self.tags

    def _on_its_way(self, tag: int, index: int, letter: Letter) -> None:
        self.sent[tag] = (index, letter)
        self.tags[letter.message_id] = tag
        self.bytes += len(letter.body)

    # --- Outcomes ----------------------------------------------------------------------------

    def _landed(self, tag: int, stored: bool) -> None:
        index, letter = self._off(tag)
        reason = self.returned.pop(tag, None)
        message = self.batch.messages[index]
        if not stored:
            self._fail(index, self.office.nacked(message, letter))
            return
        self.experience.accepted(letter)
        if reason is not None:
            place = f"exchange {letter.exchange!r}, routing key {letter.routing_key!r}"
            self._fail(index, Rejected(f"no queue of the server takes it: {place}: {reason}"))
            return
        self.lines.landed(index)

    def _refused(self, error: ChannelRefused) -> None:
        if not self.alone:
            self.experience.doubt()
            raise self.office.unavailable(str(error), error)
        (tag,) = self.sent
        index, letter = self._off(tag)
        self.experience.refused(letter)
        failure = self.office.refused(self.batch.messages[index], letter, error)
        if error.code in (403, 404) and not error.is_about_topic:
            self.refusals[letter.exchange] = failure
        self._fail(index, failure)

    def _off(self, tag: int) -> tuple[int, Letter]:
        index, letter = self.sent.pop(tag)
        del self.tags[letter.message_id]
        self.bytes -= len(letter.body)
        if not self.sent:
            self.alone = False
        return index, letter

    def _fail(self, index: int, failure: DeliveryError) -> None:
        if isinstance(failure, BackendUnavailable):
            self.stop = self.stop or failure
            return
        self.lines.failed(index, failure)
