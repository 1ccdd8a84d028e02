"""A batch for JetStream: what is in flight, what waits, what was answered.

JetStream stores what comes over one connection in the order in which it comes. But each message
fails for itself, and a later one may be stored all the same. A full stream has room again for the
next one, or for a smaller one. A subject is not permitted, and the next one is. A cluster elects a
leader, no server answers for a moment, and the new leader takes what comes then. The server's own
condition for a key's messages would be the sequence number of the one before, which is not known
until it is acknowledged.

So no message is sent before the earlier one of its key is acknowledged (`in_flight`). Keys do not
wait for each other. A batch of many keys is one round trip. A batch of a single key takes as many
as it has events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from ..base import Message, Outcome, as_delivery_error
from ..errors import Scope
from ..in_flight import InFlight
from ..outcomes import MessageBatch
from .connection import Connection, Outgoing
from .errors import OTHER_STREAM, scope_of
from .names import any_overlaps

IN_FLIGHT: Final = 2000
"""The most messages without an answer: a server refuses a client far ahead of its disk."""

IN_FLIGHT_BYTES: Final = 8 * 2**20
"""The same in bytes of their bodies."""

TURN: Final = 250
"""How many messages are packed before what is packed goes to the server."""

TICK_SECONDS: Final = 0.05
"""How often a batch without answers checks that the connection is still there."""

_NO_RESPONDERS = b"NATS/1.0 503"


class Sender:
    """Sends one batch to a stream over a connection; the outcomes are complete after `run`."""

    def __init__(
        self,
        batch: MessageBatch,
        connection: Connection,
        stream: str,
        pack: Callable[[Message], Outgoing],
        on_progress: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._pack = pack
        self._messages = batch.messages
        self._in_flight = InFlight[Outgoing](
            batch, on_progress, max_bytes=IN_FLIGHT_BYTES, max_messages=IN_FLIGHT
        )
        self._concluded = 0
        self._room, self._done = asyncio.Event(), asyncio.Event()
        self._inquiries: set[asyncio.Task[None]] = set()
        self._inquiry = asyncio.Lock()
        self._subjects: Sequence[str] | BackendUnavailable | None = None

    async def run(self) -> None:
        """Send, and wait for the answers."""
        connection = self._connection
        connection.on_answer, connection.on_denied = self._answered, self._denied
        sending = asyncio.create_task(self._send_all())
        try:
            await self._watch()
        finally:
            connection.on_answer = connection.on_denied = None
            for task in (sending, *self._inquiries):
                task.cancel()
            await asyncio.wait([sending, *self._inquiries])
        self._in_flight.finish()

    # --- Sending -----------------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send what is ready, and what becomes ready as answers come."""
        in_flight, packed = self._in_flight, 0
        self._finish_if_done()
        while in_flight.stop is None:
            if not in_flight.ready or in_flight.is_full:
                self._room.clear()
                await self._room.wait()
                continue
            await self._send(in_flight.ready.popleft())
            packed += 1
            if packed % TURN == 0:
                await asyncio.sleep(0)  # the server gets to work before all is packed

    async def _send(self, index: int) -> None:
        """Send one message, or note why it can't be sent."""
        try:
            outgoing = self._pack(self._messages[index])
        except Exception as error:
            self._conclude(index, as_delivery_error(error))
            return
        token = self._connection.next_token()
        self._in_flight.add(token, index, outgoing)
        try:
            await self._connection.publish(outgoing, token)
        except Exception as error:
            if self._connection.is_lost:
                self._give_up(self._connection.lost())
            else:
                self._conclude_sent(token, as_delivery_error(error))

    # --- Waiting -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Return when all is answered, or nothing more is to be expected."""
        clock, timeout = asyncio.get_running_loop().time, self._connection.timeout
        settled, heard = self._concluded, clock()
        while not self._done.is_set():
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._done.wait()
            except TimeoutError:
                pass
            if self._concluded != settled:
                settled, heard = self._concluded, clock()
            elif self._connection.is_lost:
                self._give_up(self._connection.lost())
                return
            elif clock() - heard >= timeout:
                self._connection.distrust()
                self._give_up(
                    self._connection.unavailable(f"no answer in {self._connection.timeout} seconds")
                )
                return
        self._connection.touch()

    def _finish_if_done(self) -> None:
        if self._in_flight.is_done:
            self._done.set()

    def _give_up(self, error: BackendUnavailable) -> None:
        """Send nothing more; what is in flight may still be answered."""
        self._in_flight.stop = self._in_flight.stop or error
        self._room.set()
        self._finish_if_done()

    # --- Answers -----------------------------------------------------------------------------

    def _answered(self, token: int, body: bytes, headers: bytes) -> None:
        sent = self._in_flight.sent.get(token)
        if sent is None:
            return  # it has its outcome, or is of an earlier batch
        answer = _read(body)
        if answer.get("stream") == self._stream and answer.get("seq"):
            self._conclude_sent(token, None)
        elif error := answer.get("error"):
            if error.get("err_code") == OTHER_STREAM:
                self._find_out(token, sent[1])
            else:
                self._conclude_sent(token, self._refusal(error, sent[1]))
        elif not body and headers.startswith(_NO_RESPONDERS):
            self._find_out(token, sent[1])
        # Else another subscriber has answered. The stream's answer may still come.

    def _denied(self, subject: str) -> None:
        """The server does not let us publish to a subject, and answers none of its messages."""
        for token, (_, outgoing) in list(self._in_flight.sent.items()):
            if outgoing.subject.lower() == subject:
                problem = f"no permission to publish to {outgoing.subject!r}"
                self._conclude_sent(token, self._error(Scope.DESTINATION, problem, outgoing))

    def _find_out(self, token: int, outgoing: Outgoing) -> None:
        """Ask the server, in a task of its own, why the stream did not get a message."""

        async def find_out() -> None:
            async with self._inquiry:
                failure = await self._why_unheard(outgoing)
            self._conclude_sent(token, failure)

        task = asyncio.create_task(find_out())
        self._inquiries.add(task)
        task.add_done_callback(self._inquiries.discard)

    def _conclude_sent(self, token: int, outcome: Outcome) -> None:
        popped = self._in_flight.pop(token)
        if popped is not None:
            self._conclude(popped[0], outcome)

    def _conclude(self, index: int, outcome: Outcome) -> None:
        """Note what became of a message, and let the next one of its key go."""
        self._concluded += 1
        self._in_flight.conclude(index, outcome)
        self._room.set()
        self._finish_if_done()

    # --- What a refusal means ----------------------------------------------------------------

    def _refusal(self, error: Mapping[str, Any], outgoing: Outgoing) -> DeliveryError:
        problem = f"stream {self._stream!r}: {error.get('description')} ({error.get('err_code')})"
        found = scope_of(error)
        if found is Scope.DESTINATION:
            problem = f"{problem}: {outgoing.subject!r}"
        failure = self._error(found, problem, outgoing)
        code = error.get("err_code")
        failure.reason = f"NATS answered error {code}" if isinstance(code, int) else ""
        return failure

    async def _why_unheard(self, outgoing: Outgoing) -> DeliveryError:
        """Return why the stream did not get a message: it is away, or not for the subject."""
        if self._subjects is None:
            self._subjects = await self._subjects_of_stream()
        if isinstance(self._subjects, BackendUnavailable):
            return self._subjects
        if any_overlaps(self._subjects, outgoing.subject):
            return self._connection.unavailable(f"stream {self._stream!r} does not answer")
        problem = f"stream {self._stream!r} does not take the subject {outgoing.subject!r}"
        return self._error(Scope.DESTINATION, problem, outgoing)

    async def _subjects_of_stream(self) -> Sequence[str] | BackendUnavailable:
        try:
            stream = await self._connection.stream_info(self._stream)
        except BackendUnavailable as error:
            return error
        if stream is None:
            return self._connection.unavailable(f"there is no stream {self._stream!r}")
        return stream.config.subjects or ()

    def _error(self, found: Scope, problem: str, outgoing: Outgoing) -> DeliveryError:
        if found is Scope.BROKER or (found is Scope.DESTINATION and outgoing.is_own):
            return self._connection.unavailable(problem)
        return found.error(problem, shared=outgoing.is_own)


def _read(body: bytes) -> dict[str, Any]:
    """Return the object that an answer is, else an empty one."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
