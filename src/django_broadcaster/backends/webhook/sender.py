"""A batch in flight: many endpoints at once, and each key in order.

A key is a lane: its next event is sent when the one before was delivered. So no later event of a
key is sent before one that failed. Events without a key have a lane each. Lanes run at once, within
the limits of the backend and of each endpoint. The earliest event that may be sent is first.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Semaphore
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Final

from django_broadcaster.backends.base import Message

from .errors import Answer, Kind
from .signatures import Signer

OutboxAttempt = Callable[[int], Awaitable[Answer]]

ABOUT_THE_ENDPOINT: Final = frozenset({Kind.AWAY, Kind.FORBIDDEN, Kind.GONE})
ABOUT_THE_ONLY_ENDPOINT: Final = ABOUT_THE_ENDPOINT | {Kind.MISPLACED}


@dataclass(slots=True)
class Endpoint:
    """The state of an endpoint in this batch.

    `stopped` is why nothing more is sent to it, `last_failure` the last attempt that failed, and
    `slots` how many requests it gets at once.
    """

    url: str
    slots: int
    signer: Signer
    attempted: bool = False
    delivered: int = 0
    doubted: Answer | None = None
    stopped: Answer | None = None
    last_failure: Answer | None = None

    def note(self, answer: Answer, stopping: frozenset[Kind]) -> None:
        """Draw the conclusions of one answer."""
        self.attempted = True
        if answer.kind is Kind.DELIVERED:
            self.delivered += 1
            return
        if answer.kind in (Kind.REFUSED, Kind.LOCAL):
            return
        self.last_failure = answer
        if answer.kind is Kind.DOUBTFUL:
            self.doubted = answer
        elif answer.kind in stopping:
            self.stopped = answer

    def conclude(self, answer: Answer) -> Answer:
        """Return what an answer meant, now that the batch is over.

        An event without an answer is the cause itself where others were delivered, and nothing
        says that the endpoint went away meanwhile. Else the endpoint is, also for events that there
        was no time to send.
        """
        doubted = self.doubted
        if doubted is None or answer.kind not in (Kind.DOUBTFUL, Kind.UNSENT):
            return answer
        if self.delivered and not self.stopped:
            return answer
        known = answer if answer.kind is Kind.DOUBTFUL else doubted
        return replace(known, kind=Kind.AWAY, sent=answer.sent)

    @property
    def failure(self) -> Answer | None:
        """The failure of the endpoint itself, if it failed."""
        failure = self.stopped or self.last_failure
        return failure and self.conclude(failure)


@dataclass(slots=True)
class Sender:
    """One batch: `answers` has one for each message, None where an earlier one of its key failed.

    attempt: sends the message with that index.
    endpoints: the endpoint of each message.
    stopping: kinds of answers after which an endpoint gets nothing more.
    max_in_flight: requests at once.
    seconds: after that nothing more is begun; what is in flight is waited for.
    """

    messages: Sequence[Message]
    endpoints: Sequence[Endpoint]
    attempt: OutboxAttempt
    stopping: frozenset[Kind]
    max_in_flight: int
    seconds: float
    answers: list[Answer | None] = field(init=False)
    _followers: dict[int, int] = field(init=False)
    _ends_at: float = field(init=False)
    _ended: Answer | None = field(init=False, default=None)

    async def run(self) -> None:
        """Send everything."""
        self.answers = [None] * len(self.messages)
        self._ends_at = time.monotonic() + self.seconds
        first, self._followers = _lanes(self.messages)
        several = len({endpoint.url for endpoint in self.endpoints}) > 1
        async with asyncio.TaskGroup() as tasks:
            if several:
                # Every lane waits by itself, lest those for a slow endpoint be in others' way.
                slots = Semaphore(self.max_in_flight)
                each = {endpoint.url: Semaphore(endpoint.slots) for endpoint in self.endpoints}
                for index in first:
                    tasks.create_task(self._take_turns(index, slots, each))
            elif first:
                # A few workers share the lanes, which costs much less than a task for each.
                for _ in range(min(self.max_in_flight, self.endpoints[0].slots, len(first))):
                    tasks.create_task(self._work(first))

    async def _work(self, ready: list[int]) -> None:
        """Send the earliest of all events that may go, until there is none; `ready` is a heap."""
        while ready:
            index = heappop(ready)
            if await self._send(index) and index in self._followers:
                heappush(ready, self._followers[index])

    async def _take_turns(
        self, index: int | None, slots: Semaphore, each: Mapping[str, Semaphore]
    ) -> None:
        """Send the events of one lane when the limits of their endpoints and of all let them."""
        while index is not None:
            async with each[self.endpoints[index].url], slots:
                delivered = await self._send(index)
            index = self._followers.get(index) if delivered else None

    async def _send(self, index: int) -> bool:
        """Send one event; return whether the next one of its key may go."""
        endpoint = self.endpoints[index]
        answer = self._obstacle(endpoint)
        if answer is None:
            answer = await self.attempt(index)
            endpoint.note(answer, self.stopping)
            if answer.kind is Kind.LOCAL:
                self._ended = answer
        self.answers[index] = answer
        return answer.kind is Kind.DELIVERED

    def _obstacle(self, endpoint: Endpoint) -> Answer | None:
        """Return why nothing is sent to an endpoint any more, if that is so."""
        if reason := endpoint.stopped or self._ended:
            return reason if not reason.sent else replace(reason, sent=False)
        if time.monotonic() < self._ends_at:
            return None
        return Answer(Kind.UNSENT, "not sent, because the batch took too long", sent=False)


def _lanes(messages: Sequence[Message]) -> tuple[list[int], dict[int, int]]:
    """Return the first event of each lane, in order, and what follows each event in its lane."""
    first: list[int] = []
    followers: dict[int, int] = {}
    last: dict[str, int] = {}
    for index, message in enumerate(messages):
        key = message.partition_key
        if key in last:
            followers[last[key]] = index
        else:
            first.append(index)
        if key:
            last[key] = index
    return first, followers
