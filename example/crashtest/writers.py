"""The processes that place, pay and ship orders, all at the same time.

Each order stands on a lane. Whichever process takes the lane from the desk does the order's next
step and puts the lane back, so an order is often placed by one process and paid by another, and
its three events are never far apart. A lane whose order has been shipped takes the next order.
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from queue import Empty
from typing import NamedTuple

from .judge import Event

LANES = 48


class Lane(NamedTuple):
    """The order that stands here, if one does, and how many are to follow it."""

    order_id: int | None
    to_come: int


@dataclass
class Diary:
    """What one writer did: events by the fate of the transaction that published them."""

    committed: list[Event] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)


@dataclass
class Desk:
    """What the processes share."""

    lanes: Queue[Lane | None]
    lanes_left: Synchronized[int]
    diaries: Queue[Diary]
    writers: int

    def retire_lane(self) -> None:
        """Note that a lane has seen its last order; after the last lane everybody goes home."""
        with self.lanes_left.get_lock():
            self.lanes_left.value -= 1
            if self.lanes_left.value:
                return
        for _ in range(self.writers):
            self.lanes.put(None)


class WriterFailed(Exception):
    """A writer ended with an error, which it has printed."""


class Writers:
    """The processes, as seen by the one who started them. Use as a context manager."""

    def __init__(self, orders: int, writers: int) -> None:
        context = multiprocessing.get_context("spawn")
        lanes = min(LANES, orders)
        self._desk = Desk(context.Queue(), context.Value("i", lanes), context.Queue(), writers)
        for number in range(lanes):
            self._desk.lanes.put(Lane(None, len(range(number, orders, lanes))))
        self._processes: list[SpawnProcess] = [
            context.Process(target=_write, args=(self._desk, number), daemon=True)
            for number in range(writers)
        ]
        self._diaries: list[Diary] = []

    def __enter__(self) -> Writers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def finished(self) -> bool:
        """Tell whether every writer has handed in its diary; raises WriterFailed."""
        # Diaries are read first: one that is large keeps its process alive until it is read.
        while True:
            try:
                self._diaries.append(self._desk.diaries.get_nowait())
            except Empty:
                break
        if any(process.exitcode not in (None, 0) for process in self._processes):
            raise WriterFailed("a writer ended with an error, see above")
        return len(self._diaries) == self._desk.writers

    def diary(self) -> Diary:
        """Return what all of them wrote, once they have finished."""
        return Diary(
            [event for diary in self._diaries for event in diary.committed],
            [event_id for diary in self._diaries for event_id in diary.rolled_back],
        )


def _write(desk: Desk, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody; the parent ends us

    import django

    django.setup()
    from .writer import Writer  # its models need django.setup()

    desk.diaries.put(Writer(desk, seed=number).work())
