"""From publishers to handlers over a broker, while everything on the way is killed.

    publishers ─► outbox ─► two relays ─► broker ─► three receivers ─► outbox ─► the same relays
                                                                                 ─► handlers

A test of a broker writes a `ChaosBroker` and calls `survive`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.db import connections, transaction
from django.test import override_settings

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxReceiver
from django_broadcaster.publishers import publisher
from tests.app.models import Order
from tests.support.events import SOURCE, first_arrivals
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers

EVENTS = 5_000
KEYS = 25
BATCH = 50
KILLS = 15
STALLS = (3, 7, 11)
"""The kills after which a receiver is suspended as well, for longer than its lease."""

STALL_SECONDS = 10.0
SECONDS = 90.0
"""The longest that the events may take after the last kill."""

DATABASE = "default"


class Rollback(Exception):
    """Rolls a publisher's transaction back."""


class ChaosBroker(Protocol):
    """A running broker of the test's own, which keeps its messages when it is killed."""

    publisher: Mapping[str, Any]
    """The backend's entry of OUTBOX_PUBLISHERS."""

    consumer: Mapping[str, Any]
    """The consumer's entry of OUTBOX_CONSUMERS, without DELIVER_TO."""

    def restart(self) -> None:
        """Kill the broker and start it again; return when it answers."""


@dataclass
class Publishers:
    """A thread that publishes, and rolls back each fifth transaction.

    `committed` are the names of the published events, in the order of each key.
    """

    events: int
    committed: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        """Publish everything."""
        try:
            for number in range(self.events // BATCH):
                if number % 5 == 0:
                    self._publish([f"rolled_back_{number}{each}-0" for each in range(BATCH)])
                batch = range(number * BATCH, (number + 1) * BATCH)
                names = [f"k{each % KEYS}-{each // KEYS}" for each in batch]
                self._publish(names)
                self.committed += names
                time.sleep(0.1)  # so that there is load for as long as processes are killed
        except BaseException as error:
            self.failures.append(error)
        finally:
            connections.close_all()

    def _publish(self, names: list[str]) -> None:
        events = [
            CloudEvent(
                "order.placed",
                SOURCE,
                {"name": name},
                subject=name,
                id=name,
                extensions={"partitionkey": name.partition("-")[0]},
            )
            for name in names
        ]
        try:
            with transaction.atomic(using=DATABASE):
                publisher.publish_events(events, backend="broker", using=DATABASE)
                if names[0].startswith("rolled_back"):
                    raise Rollback
        except Rollback:
            pass

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish for the time of the block, and to the end after it."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            thread.join(SECONDS)
        assert not thread.is_alive(), "the publishers hang"
        assert self.failures == []


class Processes:
    """Three receivers and two relays, each replaced when it is killed."""

    def __init__(self, broker: ChaosBroker, workers: Workers) -> None:
        self._workers = workers
        self._settings = {
            "OUTBOX_PUBLISHERS": publishers_of(broker),
            "OUTBOX_CONSUMERS": {"billing": {**broker.consumer, "DELIVER_TO": "handlers"}},
            "OUTBOX_LEASE_SECONDS": 2,
            "OUTBOX_MAX_CRASHES": 100,  # the kills are no fault of an event
            "OUTBOX_CIRCUIT": {"initial": 0.05, "maximum": 0.5},
            "OUTBOX_RETRY": {"initial": 0.05, "factor": 2.0, "maximum": 1.0},
        }
        self._kinds = ["receiver"] * 3 + ["relay"] * 2
        self._running = [self._start(kind) for kind in self._kinds]

    def _start(self, kind: str) -> Worker:
        command, options = "outbox_consumer", ["--batch-size", "40"]
        if kind == "relay":
            command, options = "outbox_worker", ["--batch-size", "60", "--interval", "0.05"]
            options += ["--exclude-consumer", "billing"]
        return self._workers.start(DATABASE, *options, command=command, **self._settings)

    def kill(self, place: int) -> None:
        """Kill one, and start another of its kind."""
        assert self._running[place].runs, self._running[place].output
        self._running[place].kill()
        self._running[place] = self._start(self._kinds[place])

    def reader(self) -> int | None:
        """Return the place of the receiver that reads; None if several do."""
        receivers = OutboxReceiver.objects.using(DATABASE).filter(reads="billing")
        names = [str(name).rpartition(":")[2] for name in receivers.values_list("name", flat=True)]
        pids = [str(each.pid) for each in self._running[:3]]
        return next((pids.index(name) for name in names if name in pids), None)

    def stall(self, place: int) -> None:
        """Suspend one until it was replaced, and let it go on.

        One that was suspended within a transaction is not replaced: it holds the lock of its row.
        """
        suspended = self._running[place]
        handled, deadline = handled_events(), time.monotonic() + STALL_SECONDS
        suspended.freeze()
        while handled_events() < handled + 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        suspended.thaw()

    def stop(self) -> list[int]:
        """Ask all to end; return their exit statuses."""
        for each in self._running:
            each.stop()
        return [each.end() for each in self._running]

    @property
    def output(self) -> str:
        """The ends of the logs of all that run."""
        return "\n".join(f"--- {each.output[-3000:]}" for each in self._running)


def publishers_of(broker: ChaosBroker) -> dict[str, Any]:
    """Return OUTBOX_PUBLISHERS."""
    handlers = {"BACKEND": "tests.support.backends.HandlersBackend"}
    return {"broker": dict(broker.publisher), "handlers": handlers}


def survive(broker: ChaosBroker, workers: Workers, events: int = EVENTS) -> None:
    """Kill and suspend processes under load, restart the broker once, and judge the result.

    Each event was handled exactly once, those of a key in the order in which they were published,
    and none of a transaction that was rolled back.
    """
    chance = random.Random(20240229)
    publishers = Publishers(events)
    with override_settings(OUTBOX_PUBLISHERS=publishers_of(broker)):
        processes = Processes(broker, workers)
        with publishers.running():
            for kills in range(KILLS):
                handled = handled_events()
                wait_until(
                    lambda handled=handled: (
                        len(publishers.committed) == events or handled_events() > handled + 50
                    ),
                    SECONDS,
                    f"progress\n{processes.output}",
                )
                if kills == KILLS // 2:
                    broker.restart()
                if kills in STALLS:
                    reader, any_receiver = processes.reader(), chance.randrange(3)
                    processes.stall(any_receiver if reader is None else reader)
                processes.kill(chance.randrange(5))
        wait_for_all(processes, publishers)
    judge(publishers.committed)
    assert processes.stop() == [0] * 5, processes.output


def wait_for_all(processes: Processes, publishers: Publishers) -> None:
    """Wait until each event has been handled and settled, and nothing more happens."""
    deadline = time.monotonic() + SECONDS
    while handled_events() < len(publishers.committed):
        assert time.monotonic() < deadline, f"{handled_events()} handled\n{processes.output}"
        time.sleep(0.1)
    unsettled = OutboxEvent.objects.using(DATABASE).exclude(status="published")
    wait_until(lambda: not unsettled.exists(), SECONDS, "every event to be settled")


def handled_events() -> int:
    """Return how many events were handled."""
    return Order.objects.using(DATABASE).count()


def judge(committed: list[str]) -> None:
    """Assert that the handlers' table has each event once, in the order of its key."""
    handled = list(Order.objects.using(DATABASE).order_by("pk").values_list("number", flat=True))
    assert len(handled) == len(set(handled)), "events were handled twice"
    assert set(handled) == set(committed)
    assert first_arrivals(handled) == first_arrivals(committed)
