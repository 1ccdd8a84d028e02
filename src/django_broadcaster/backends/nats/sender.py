"""A batch on its way to JetStream: what is in flight, what waits, what was answered.

JetStream stores what comes over one connection in the order in which it comes, but each message
fails for itself, and one behind it may be stored all the same: a full stream has room again for
the next one, or for a smaller one; a subject is not permitted and the next one is; a cluster elects
a leader, nobody answers for a moment, and the new leader takes what comes then. None of it can be
seen beforehand. The server's own condition for a key's messages would be the sequence number of the
one before, which is not known until it is acknowledged.

So no message is sent before the earlier one of its key is acknowledged (`in_flight`). Keys do not
wait for each other: a batch of many keys is one round trip, one of a single key as many as it has
events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)

from ..base import Message, Outcome, as_delivery_error
from ..in_flight import Lines
from ..outcomes import Batch
from .connection import Link, Outgoing
from .names import any_overlaps

IN_FLIGHT: Final = 2000
"""Messages without an answer, at the most: a server refuses who sends far ahead of its disk."""

IN_FLIGHT_BYTES: Final = 8 * 2**20
"""The same in bytes of their bodies."""

TURN: Final = 250
"""How many messages are packed before what is packed goes to the server."""

TICK_SECONDS: Final = 0.05
"""How often a batch that hears nothing looks whether the connection is still there."""

_NO_RESPONDERS = b"NATS/1.0 503"

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_REJECTED = frozenset({10054, 10097})  # the message, or its headers, are too large
_UNAVAILABLE = frozenset({10002, 10109})  # the account is at its limit, the stream is sealed
_UNAVAILABLE_STATUS = frozenset({429, 500, 503})  # too fast, broken, full or without a leader
_OTHER_STREAM = 10060


class Window:
    """Brings one batch to a stream by a link."""

    def __init__(
        self,
        link: Link,
        stream: str,
        messages: Sequence[Message],
        encode: Callable[[Message], Outgoing],
        on_progress: Callable[[], object],
    ) -> None:
        self._link = link
        self._stream = stream
        self._encode = encode
        self._batch = Batch(messages)
        self._lines = Lines(self._batch, on_progress)
        self._in_flight: dict[int, tuple[int, Outgoing]] = {}  # by token: the index, the message
        self._bytes = 0
        self._settled = 0
        self._stop: BackendUnavailable | None = None
        self._room, self._done = asyncio.Event(), asyncio.Event()
        self._inquiries: set[asyncio.Task[None]] = set()
        self._inquiry = asyncio.Lock()
        self._subjects: Sequence[str] | BackendUnavailable | None = None

    async def deliver(self) -> list[Outcome]:
        """Send, and wait for the answers; one outcome for each message."""
        self._link.on_answer, self._link.on_denied = self._answered, self._denied
        sender = asyncio.create_task(self._send_all())
        try:
            await self._watch()
        finally:
            self._link.on_answer = self._link.on_denied = None
            for task in (sender, *self._inquiries):
                task.cancel()
            await asyncio.wait([sender, *self._inquiries])
        if self._stop is not None:
            self._lines.give_up(self._stop)
        return self._batch.outcomes

    # --- Sending -----------------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send what is ready, and what becomes ready as answers come."""
        ready, packed = self._lines.ready, 0
        self._look_if_done()
        while self._stop is None:
            if not ready or self._is_full():
                self._room.clear()
                await self._room.wait()
                continue
            await self._send(ready.popleft())
            packed += 1
            if packed % TURN == 0:
                await asyncio.sleep(0)  # the server gets to work before all is packed

    async def _send(self, index: int) -> None:
        """Send one message, or note why it can't be sent."""
        try:
            outgoing = self._encode(self._batch.messages[index])
        except Exception as error:
            self._settle(index, as_delivery_error(error))
            return
        token = self._link.next_token()
        self._in_flight[token] = index, outgoing
        self._bytes += len(outgoing.body)
        try:
            await self._link.publish(outgoing, token)
        except Exception as error:
            if self._link.is_lost:
                self._give_up(self._link.lost())
            else:
                self._land_with(token, as_delivery_error(error))

    def _is_full(self) -> bool:
        return len(self._in_flight) >= IN_FLIGHT or self._bytes >= IN_FLIGHT_BYTES

    def _land(self, token: int) -> tuple[int, Outgoing] | None:
        """Take a message out of those in flight; None if it is not among them any more."""
        landed = self._in_flight.pop(token, None)
        if landed is not None:
            self._bytes -= len(landed[1].body)
            self._room.set()
        return landed

    # --- Waiting -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Return when all is answered, or nothing more is to be expected."""
        clock = asyncio.get_running_loop().time
        settled, heard = self._settled, clock()
        while not self._done.is_set():
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._done.wait()
            except TimeoutError:
                pass
            if self._settled != settled:
                settled, heard = self._settled, clock()
            elif self._link.is_lost:
                self._give_up(self._link.lost())
                return
            elif clock() - heard >= self._link.timeout:
                self._link.distrust()
                self._give_up(self._link.unavailable(f"no answer in {self._link.timeout} seconds"))
                return
        self._link.touch()

    def _look_if_done(self) -> None:
        if not self._in_flight and (self._stop is not None or not self._lines.ready):
            self._done.set()

    def _give_up(self, error: BackendUnavailable) -> None:
        """Send nothing more; what is in flight may still be answered."""
        self._stop = self._stop or error
        self._room.set()
        self._look_if_done()

    # --- Answers -----------------------------------------------------------------------------

    def _answered(self, token: int, body: bytes, headers: bytes) -> None:
        flying = self._in_flight.get(token)
        if flying is None:
            return  # it was settled by now, or is of an earlier batch
        answer = _read(body)
        if answer.get("stream") == self._stream and answer.get("seq"):
            self._land_with(token, None)
        elif error := answer.get("error"):
            if error.get("err_code") == _OTHER_STREAM:
                self._find_out(token, flying[1])
            else:
                self._land_with(token, self._refusal(error, flying[1]))
        elif not body and headers.startswith(_NO_RESPONDERS):
            self._find_out(token, flying[1])
        # Else somebody listens to the subject who is no stream. The stream's answer may yet come.

    def _denied(self, subject: str) -> None:
        """The server does not let us publish to a subject, and answers none of its messages."""
        for token, (_, outgoing) in list(self._in_flight.items()):
            if outgoing.subject.lower() == subject:
                problem = f"no permission to publish to {outgoing.subject!r}"
                self._land_with(token, self._misplaced(outgoing, problem))

    def _find_out(self, token: int, outgoing: Outgoing) -> None:
        """Ask the server, in a task of its own, why the stream did not get a message."""

        async def find_out() -> None:
            async with self._inquiry:
                failure = await self._why_unheard(outgoing)
            self._land_with(token, failure)

        task = asyncio.create_task(find_out())
        self._inquiries.add(task)
        task.add_done_callback(self._inquiries.discard)

    def _land_with(self, token: int, outcome: Outcome) -> None:
        landed = self._land(token)
        if landed is not None:
            self._settle(landed[0], outcome)

    def _settle(self, index: int, outcome: Outcome) -> None:
        """Note what became of a message, and let the next one of its key go."""
        self._settled += 1
        if outcome is None:
            self._lines.landed(index)
        elif isinstance(outcome, BackendUnavailable):
            self._give_up(outcome)
        else:
            self._lines.failed(index, outcome)
        self._room.set()
        self._look_if_done()

    # --- What a refusal means ----------------------------------------------------------------

    def _refusal(self, error: Mapping[str, Any], outgoing: Outgoing) -> DeliveryError:
        number = error.get("err_code")
        problem = f"stream {self._stream!r}: {error.get('description')} ({number})"
        if "per subject" in problem:
            return self._misplaced(outgoing, f"{problem}: {outgoing.subject!r}")
        if number in _REJECTED:
            return Rejected(problem)
        if number in _UNAVAILABLE or error.get("code") in _UNAVAILABLE_STATUS:
            return self._link.unavailable(problem)
        return TransientError(problem)

    async def _why_unheard(self, outgoing: Outgoing) -> DeliveryError:
        """Return why the stream did not get a message: it is away, or not for the subject."""
        if self._subjects is None:
            self._subjects = await self._subjects_of_stream()
        if isinstance(self._subjects, BackendUnavailable):
            return self._subjects
        if any_overlaps(self._subjects, outgoing.subject):
            return self._link.unavailable(f"stream {self._stream!r} does not answer")
        problem = f"stream {self._stream!r} does not take the subject {outgoing.subject!r}"
        return self._misplaced(outgoing, problem)

    async def _subjects_of_stream(self) -> Sequence[str] | BackendUnavailable:
        try:
            stream = await self._link.stream_info(self._stream)
        except BackendUnavailable as error:
            return error
        if stream is None:
            return self._link.unavailable(f"there is no stream {self._stream!r}")
        return stream.config.subjects or ()

    def _misplaced(self, outgoing: Outgoing, problem: str) -> DeliveryError:
        """Return the error for a subject that has no place.

        Where it is the only one that the backend has, every event would meet it, and none is to
        blame: they wait until it is put right. One that is made from an event, or that the event
        asked for, must not stop the others.
        """
        return self._link.unavailable(problem) if outgoing.is_own else TransientError(problem)


def _read(body: bytes) -> dict[str, Any]:
    """Return the object that an answer is, else an empty one."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
