"""The handshake by which an endpoint agrees to receive events, before the first one.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md section 4: the sender
asks with OPTIONS and `WebHook-Request-Origin`; only `WebHook-Allowed-Origin` in the answer grants.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from .errors import OK, Answer, Kind, answer_to

REQUEST_ORIGIN: Final = "WebHook-Request-Origin"
ALLOWED_ORIGIN: Final = "WebHook-Allowed-Origin"

GRANTED_SECONDS: Final = 3600.0
"""After so long an endpoint is asked again."""

_MOST: Final = 10_000  # endpoints that are remembered

Ask = Callable[[str], Awaitable[Answer]]


class Handshakes:
    """Which endpoints have agreed. Each is asked once, and again after `GRANTED_SECONDS`.

    An endpoint that does not agree is asked once in each batch that has an event for it.
    """

    def __init__(self) -> None:
        self._granted: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a batch."""
        self._refused: dict[str, Answer] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def obstacle(self, url: str, ask: Ask) -> Answer | None:
        """Return why an endpoint gets no event, or None if it has agreed."""
        if self._has_agreed(url):
            return None
        async with self._turns[url]:
            if url not in self._refused and not self._has_agreed(url):
                self._note(url, await ask(url))
            return self._refused.get(url)

    def _has_agreed(self, url: str) -> bool:
        return time.monotonic() < self._granted.get(url, 0.0)

    def _note(self, url: str, answer: Answer) -> None:
        if answer.kind is not Kind.DELIVERED:
            self._granted.pop(url, None)
            self._refused[url] = answer
            return
        if len(self._granted) >= _MOST:
            self._granted.clear()
        self._granted[url] = time.monotonic() + GRANTED_SECONDS


def verdict(status: int, headers: Mapping[str, str], origin: str) -> Answer:
    """Return what an answer to the handshake means.

    A status alone grants nothing: an endpoint may know OPTIONS and not expect events. An error is
    about the endpoint, as no event was sent.
    """
    answer = answer_to(status, headers.get("Retry-After"))
    if answer is not OK:
        return about_the_endpoint(answer)
    if headers.get(ALLOWED_ORIGIN, "").strip() in ("*", origin):
        return OK
    return Answer(Kind.MISPLACED, f"does not allow events from {origin!r} ({ALLOWED_ORIGIN})")


def about_the_endpoint(answer: Answer) -> Answer:
    """Return the answer to a handshake that failed, which says nothing of an event."""
    kind = answer.kind
    if kind in (Kind.REFUSED, Kind.FAILED, Kind.DOUBTFUL):
        kind = Kind.AWAY
    return replace(answer, kind=kind, text=f"{answer.text} (handshake)")
