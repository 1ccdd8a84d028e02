"""Writers that go on publishing whatever the database does, and the judgement on what arrived."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import Error, connections

from django_broadcaster.models import OutboxEvent
from tests.support.events import first_arrivals, publish


class Load:
    """One writer for each key. `committed` are the events whose commit the database confirmed.

    An event whose commit failed is left alone: it may be in the outbox all the same.
    """

    def __init__(self, database: str, keys: str, pause: float) -> None:
        self.committed: list[str] = []
        self.refused = 0
        self._database = database
        self._pause = pause
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._writers = [threading.Thread(target=self._write, args=[key]) for key in keys]

    def _write(self, key: str) -> None:
        number = 0
        try:
            while not self._stopping.wait(self._pause):
                number += 1
                self._publish(f"{key}{number}")
        except BaseException as error:
            self._failures.append(error)
        finally:
            connections.close_all()

    def _publish(self, name: str) -> None:
        try:
            publish(name, using=self._database)
        except Error:
            self.refused += 1
            connections[self._database].close()
            self._stopping.wait(0.05)
        else:
            self.committed.append(name)

    def start(self) -> None:
        """Let them write."""
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        """Let them finish what they are at; raises what none of them foresaw."""
        self._stopping.set()
        for writer in self._writers:
            writer.join(60)
            assert not writer.is_alive(), "a writer does not end"
        if self._failures:
            raise self._failures[0]


@contextmanager
def writing(database: str, keys: str = "abcdef", *, pause: float = 0.01) -> Iterator[Load]:
    """Let a writer for each key publish for the time of the block, or until `stop`."""
    load = Load(database, keys, pause)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def all_settled(database: str) -> bool:
    """Tell whether every event is published."""
    return not OutboxEvent.objects.using(database).exclude(status="published").exists()


def repeats(arrived: Sequence[str], committed: Sequence[str], database: str) -> int:
    """Return how many deliveries were repeats, if all else is as it should be.

    Everything committed is in the outbox. Everything in the outbox has arrived, and nothing else.
    The first arrivals of each key are in the order of its rows.
    """
    events = OutboxEvent.objects.using(database).order_by("id")
    rows = list(events.values_list("subject", flat=True))
    assert set(committed) <= set(rows), "the database lost what it had committed"
    assert set(arrived) == set(rows)
    assert first_arrivals(arrived) == first_arrivals(rows)
    return len(arrived) - len(rows)
