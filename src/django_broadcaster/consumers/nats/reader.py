"""Requests messages of a durable pull consumer, and gives them out in the order of the stream.

One request is open at a time. What arrives is kept here until it is asked for.

The server numbers the deliveries of a consumer, beside the messages of the stream. A number that
was left out is a delivery to another receiver, which may have stalled: later messages have to wait.
Then, and when it begins to read, an ordered reader compares its own messages with the number of
those that the server has delivered and that are not acknowledged. Until both are equal, it gives
out nothing. It makes the server deliver the missing ones again, by a negative acknowledgement for
every message that it does not have. The server ignores those that are not waiting. Without that, a
receiver that takes over would wait for `ack_wait`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from django_broadcaster.backends.nats.connection import Connection

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 2.0
"""How long the server answers a request, also one of a receiver that has stalled."""

TICK_SECONDS: Final = 0.05
"""How often a reader that waits checks its connection, and an ordered one its messages."""

MORE_SECONDS: Final = 0.02
"""The longest wait for a message that the server has, and may have given to another receiver."""

RECALL_SECONDS: Final = 1.0
"""How often missing messages are asked for again."""

MOST_RECALLED: Final = 20_000
"""The most messages that are asked for at once; the next ones follow after `RECALL_SECONDS`."""

ACK: Final = b"+ACK"
NAK: Final = b"-NAK"
IN_PROGRESS: Final = b"+WPI"
TERM: Final = b"+TERM"


class Receipt(NamedTuple):
    """The number of a message in the stream, and the subject by which it is acknowledged."""

    sequence: int
    subject: bytes


class Received(NamedTuple):
    """A message as it arrived."""

    receipt: Receipt
    subject: bytes
    body: bytes
    headers: bytes


class Reader:
    """Reads one durable consumer over a connection; its coroutines run in the connection's loop.

    Args:
        connection: An open connection, of which it gets all messages.
        stream, durable: The names of the stream and of the consumer.
        ordered: Whether messages are held back while earlier ones are missing.
        ack_wait: Seconds after which the server delivers a message again.
    """

    def __init__(
        self, connection: Connection, stream: str, durable: str, *, ordered: bool, ack_wait: float
    ) -> None:
        self._connection = connection
        self._stream, self._durable = stream, durable
        self._ordered = ordered
        self._held: dict[int, Received] = {}
        self._given: dict[int, Receipt] = {}
        self._requested, self._token = 0, -1
        self._request_ends = self._next_request = 0.0
        self._arrival = asyncio.Event()
        self._more_to_come = False
        self._problem = ""
        self._gaps = _Gaps(ack_wait)
        connection.on_delivery, connection.on_answer = self._delivered, self._answered

    async def receive(self, limit: int, seconds: float) -> list[Received]:
        """Return up to `limit` messages; wait up to `seconds` for the first.

        Raises:
            BackendUnavailable: The connection is lost, or the server has ended the consumer.
        """
        clock = asyncio.get_running_loop().time
        # A request that was not sent before needs some time to be answered.
        deadline = clock() + (max(seconds, MORE_SECONDS) if self._more_to_come else seconds)
        while True:
            await self._request(limit)
            if self._held:
                await self._wait_for_more(limit)
            if (not self._ordered or await self._has_all()) and self._held:
                return self._give(limit)
            if (left := deadline - clock()) <= 0:
                return []
            await self._wait(min(left, TICK_SECONDS))

    async def acknowledge(self, receipts: Iterable[Receipt], word: bytes = ACK) -> None:
        """Acknowledge messages; return when the server has read that."""
        done = list(receipts)
        for receipt in done:
            self._given.pop(receipt.sequence, None)
        await self._connection.publish_to_each([each.subject for each in done], word)

    async def extend(self) -> None:
        """Make the server wait longer for the acknowledgements of all messages."""
        subjects = [each.subject for each in self._unacknowledged()]
        await self._connection.publish_to_each(subjects, IN_PROGRESS)

    async def release(self) -> None:
        """Make the server deliver all messages again, at once and in order."""
        await self._connection.stop_listening()
        # Its own request is still open at the server until the server looks for it. Before 2.10 a
        # message that is delivered to a request without a receiver waits for `ack_wait`.
        await self.info()
        subjects = [each.subject for each in sorted(self._unacknowledged())]
        await self._connection.publish_to_each(subjects, NAK)

    async def info(self) -> dict[str, Any]:
        """Return what the server says of the consumer; raises BackendUnavailable."""
        name = f"{self._stream}.{self._durable}"
        answer = await self._connection.ask_jetstream(f"CONSUMER.INFO.{name}", {})
        if error := answer.get("error"):
            text = f"consumer {self._durable!r}: {error.get('description')}"
            raise self._connection.unavailable(text)
        return answer

    def _unacknowledged(self) -> list[Receipt]:
        return [*self._given.values(), *(each.receipt for each in self._held.values())]

    # --- Requests ----------------------------------------------------------------------------

    async def _request(self, limit: int) -> None:
        """Request messages unless a request is open, or there are enough."""
        now = asyncio.get_running_loop().time()
        if self._requested and now < self._request_ends:
            return
        # Beside the messages that are held back, there must be room for those that are missing.
        room = limit if self._gaps.are_possible and self._ordered else limit - len(self._held)
        if room <= 0 or now < self._next_request:
            return
        self._requested, self._token = room, self._connection.next_token()
        # An answer that says that the time is over may be lost, with the server that leads.
        self._request_ends = now + 2 * REQUEST_SECONDS
        body = orjson.dumps({"batch": room, "expires": int(REQUEST_SECONDS * 1e9)})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        await self._connection.request(subject, self._token, body)

    def _delivered(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        """Note a message; `reply` says which one it is."""
        words = reply.split(b".")
        # $JS.ACK.<stream>.<consumer>, and with a domain two more words before the stream;
        # then deliveries, number in the stream, number of the delivery, time, messages waiting.
        place = 4 if len(words) == 9 else 6
        sequence, delivery = int(words[place + 1]), int(words[place + 2])
        self._more_to_come = words[place + 4] != b"0"
        self._requested = max(0, self._requested - 1)
        self._gaps.note(delivery)
        self._arrival.set()
        if sequence not in self._given and sequence not in self._held:
            receipt = Receipt(sequence, reply)
            self._held[sequence] = Received(receipt, subject, body, headers)

    def _answered(self, token: int, _: bytes, headers: bytes) -> None:
        """Note that a request has ended; the first line of the headers says why."""
        status, _, text = headers.partition(b"\r\n")[0].partition(b" ")[2].partition(b" ")
        if token != self._token or status == b"100":  # an older request, or a sign of life
            return
        self._requested = 0
        self._arrival.set()
        if status in (b"404", b"408"):  # there are no messages, the time is over
            return
        self._next_request = asyncio.get_running_loop().time() + TICK_SECONDS
        reason = text.decode(errors="replace").strip()
        if status == b"503":
            reason = "JetStream is not available, or the consumer was deleted"
        if status == b"503" or "deleted" in reason.lower() or "push based" in reason.lower():
            self._problem = f"consumer {self._durable!r}: {reason}"

    # --- Waiting -----------------------------------------------------------------------------

    async def _wait(self, seconds: float) -> None:
        """Wait for a message; raises BackendUnavailable if none can come any more."""
        self._arrival.clear()
        self._check()
        try:
            async with asyncio.timeout(seconds):
                await self._arrival.wait()
        except TimeoutError:
            pass
        self._check()

    def _check(self) -> None:
        self._connection.check()
        if self._problem:
            raise self._connection.unavailable(self._problem)

    async def _wait_for_more(self, limit: int) -> None:
        """Wait for the messages that are on their way, as far as they fit."""
        while len(self._held) < limit and self._requested and self._more_to_come:
            before = len(self._held)
            await self._wait(MORE_SECONDS)
            if len(self._held) == before:
                return

    # --- Order -------------------------------------------------------------------------------

    def _give(self, limit: int) -> list[Received]:
        numbers = sorted(self._held) if self._ordered else list(self._held)
        given = [self._held.pop(number) for number in numbers[:limit]]
        self._given.update((each.receipt.sequence, each.receipt) for each in given)
        return given

    async def _has_all(self) -> bool:
        """Return True if this reader has all messages that are not acknowledged."""
        gaps, now = self._gaps, asyncio.get_running_loop().time()
        if not gaps.are_possible:
            return True
        if now < gaps.next_check:
            return False
        gaps.next_check = now + TICK_SECONDS
        seen = gaps.number
        info = await self.info()
        floor, last = info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"]
        own = {each.sequence for each in self._unacknowledged()}
        missing = info["num_ack_pending"] - sum(floor < number <= last for number in own)
        if missing == 0 and gaps.number == seen:
            gaps.close(info["delivered"]["consumer_seq"])
            return True
        if gaps.have_lasted(missing, now):
            logger.warning(
                "Consumer %r of stream %r: %d messages were not delivered again, and may have "
                "been deleted from the stream; continuing without them.",
                self._durable, self._stream, missing,
            )  # fmt: skip
            gaps.close(info["delivered"]["consumer_seq"])
            return True
        if missing > 0 and now >= gaps.next_recall:
            gaps.next_recall = now + RECALL_SECONDS
            await self._recall(own, floor, last, info["delivered"]["consumer_seq"])
        return False

    async def _recall(self, own: set[int], floor: int, last: int, delivery: int) -> None:
        """Make the server deliver again what others have received and not acknowledged.

        A consumer with a filter may have got few of very many messages. So these are asked for in
        parts, from the last message down.
        """
        gaps, name = self._gaps, f"$JS.ACK.{self._stream}.{self._durable}"
        end = gaps.recalled_down_to if floor < gaps.recalled_down_to - 1 <= last else last + 1
        numbers = (number for number in range(end - 1, floor, -1) if number not in own)
        missing = list(islice(numbers, MOST_RECALLED))
        gaps.recalled_down_to = missing[-1] if missing else 0
        subjects = [f"{name}.1.{each}.{delivery}.0.0".encode() for each in reversed(missing)]
        await self._connection.publish_to_each(subjects, NAK)


class _Gaps:
    """Whether another receiver may have messages before those that are here.

    Args:
        ack_wait: Seconds after which the server delivers a message again.
    """

    def __init__(self, ack_wait: float) -> None:
        self.are_possible = True  # what was delivered before is not known
        self.number = 0
        self.next_check = self.next_recall = 0.0
        self.recalled_down_to = 0  # the first message of the part that was asked for last
        self._last: int | None = None
        self._ack_wait = ack_wait
        self._missing, self._since = -1, 0.0

    def note(self, delivery: int) -> None:
        """Note the number of a delivery."""
        if self._last is not None and delivery != self._last + 1:
            self.are_possible = True
            self.number += 1
            self.next_check = 0.0
        self._last = delivery

    def close(self, last: int) -> None:
        """Note that all messages up to the delivery with this number are here."""
        self.are_possible = False
        self._missing = -1
        self._last = last if self._last is None else self._last

    def have_lasted(self, missing: int, now: float) -> bool:
        """Return True if as many messages are missing for so long that they can't come."""
        if missing != self._missing:
            self._missing, self._since = missing, now
        return now - self._since > 2 * self._ack_wait + 2 * REQUEST_SECONDS
