"""Capture the events that code publishes.

with capture_events() as events:
    place_order()
assert_published("order.placed", events=events, subject="42")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

from django.db import connections

from django_broadcaster.signals import event_created

from .description import describe

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent


class CapturedEvents(Sequence["OutboxEvent"]):
    """The events that code has published so far, in order; reads like a list.

    An event that was rolled back is not among them, savepoints included. One whose transaction is
    still open is: Django's `TestCase` never commits its own.
    """

    def __init__(self) -> None:
        self._captured: list[_Captured] = []

    def clear(self) -> None:
        """Forget the events so far."""
        self._captured.clear()

    def _add(self, event: OutboxEvent) -> None:
        self._captured.append(_Captured(event))

    def _live(self) -> list[OutboxEvent]:
        return [captured.event for captured in self._captured if captured.is_live()]

    @overload
    def __getitem__(self, index: int) -> OutboxEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[OutboxEvent]: ...
    def __getitem__(self, index: int | slice) -> OutboxEvent | list[OutboxEvent]:
        return self._live()[index]

    def __iter__(self) -> Iterator[OutboxEvent]:
        return iter(self._live())

    def __len__(self) -> int:
        return len(self._live())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CapturedEvents):
            return self._live() == other._live()
        return self._live() == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes, as a list does

    def __repr__(self) -> str:
        """Return the events, one in a line, for the messages of failed tests."""
        lines = "".join(f"\n  {describe(event)}," for event in self._live())
        return f"[{lines}\n]" if lines else "[]"


class _Captured:
    """One event, and a commit hook that tells whether it has been rolled back.

    Django drops the hooks of a transaction or savepoint that is rolled back, and runs the others.
    """

    def __init__(self, event: OutboxEvent) -> None:
        self.event = event
        self._connection = connections[event._state.db or "default"]
        self._is_committed = False
        if self._connection.in_atomic_block or self._connection.get_autocommit():
            self._connection.on_commit(self._commit)
        else:
            self._commit()  # of a transaction that Django does not follow

    def _commit(self) -> None:
        self._is_committed = True

    def is_live(self) -> bool:
        """Return True unless the event was rolled back."""
        hooks = self._connection.run_on_commit
        return self._is_committed or any(hook[1] == self._commit for hook in hooks)


@contextmanager
def capture_events(backend: str | None = None) -> Iterator[CapturedEvents]:
    """Collect the events published in the block, one for each backend that they go to, in order.

    `backend` limits them to those for one alias. An event is there as soon as the publish call
    returns, and no longer once it is rolled back. Threads are included.
    """
    events = CapturedEvents()

    def collect(event: OutboxEvent, **_: Any) -> None:
        if backend is None or event.publisher_backend == backend:
            events._add(event)

    event_created.connect(collect, weak=False)
    try:
        yield events
    finally:
        event_created.disconnect(collect)
