"""The processes that place, pay and ship orders concurrently.

Each order has a lane, an entry of a queue. A process takes a lane, runs the next step of its order,
and returns the lane. So different processes often place and pay an order, and its three events are
close together. Once its order is shipped, a lane takes the next order.
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
    """The current order, if there is one, and the number of orders to come."""

    order_id: int | None
    to_come: int


@dataclass
class Diary:
    """The events of one writer: those that committed, and those rolled back."""

    committed: list[Event] = field(default_factory=list)
    rolled_back: list[Event] = field(default_factory=list)


@dataclass
class Desk:
    """The queues that the processes share."""

    lanes: Queue[Lane | None]
    lanes_left: Synchronized[int]
    diaries: Queue[Diary]
    writers: int
    pause: float  # seconds between the steps of a writer

    def retire_lane(self) -> None:
        """Count a lane that has no more orders; after the last one, let all writers end."""
        with self.lanes_left.get_lock():
            self.lanes_left.value -= 1
            if self.lanes_left.value:
                return
        for _ in range(self.writers):
            self.lanes.put(None)


class WriterFailed(Exception):
    """A writer failed; it has printed its error."""


class Writers:
    """The writers' processes, as a context manager."""

    def __init__(self, orders: int, writers: int, pause: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        lanes = min(LANES, orders)
        lanes_left = context.Value("i", lanes)
        self._desk = Desk(context.Queue(), lanes_left, context.Queue(), writers, pause)
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
        """Return True if all writers have returned their diaries; raise WriterFailed."""
        # Read the diaries first: a process with a large one does not end before it is read.
        while True:
            try:
                self._diaries.append(self._desk.diaries.get_nowait())
            except Empty:
                break
        if any(process.exitcode not in (None, 0) for process in self._processes):
            raise WriterFailed("a writer failed; its error is above")
        return len(self._diaries) == self._desk.writers

    def diary(self) -> Diary:
        """Return the diaries of all writers, after they have finished."""
        return Diary(
            [event for diary in self._diaries for event in diary.committed],
            [event for diary in self._diaries for event in diary.rolled_back],
        )


def _write(desk: Desk, number: int) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes; the parent ends this one

    import django

    django.setup()
    from .writer import Writer  # imports models, which require django.setup()

    desk.diaries.put(Writer(desk, seed=number).work())
