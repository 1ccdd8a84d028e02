"""Fixtures of the relay's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from django_broadcaster.backends import locmem
from django_broadcaster.events import CloudEvent
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.verdicts import Report
from django_broadcaster.relay.worker import Worker
from tests.support.backends import Script, forget_scripts, script
from tests.support.clock import Clock
from tests.support.redis_server import shared_url
from tests.support.routing import OneDatabase
from tests.support.workers import Workers, starting_workers

if TYPE_CHECKING:
    from pytest_django import Settings

SCRIPTED = "tests.support.backends.ScriptedBackend"

Join = Callable[..., DeliveryLoop]


@pytest.fixture
def scripted(settings: Settings) -> Iterator[Script]:
    """The script of the backend `default`; retries follow soon, a second time after 2 seconds."""
    forget_scripts()
    locmem.clear()
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": SCRIPTED}}
    settings.OUTBOX_RETRY = {**settings.OUTBOX_RETRY, "jitter": 0.0}
    yield script()
    forget_scripts()


@pytest.fixture
def routed(database: str, settings: Settings) -> str:
    """As `database`, and everything that names no database goes there."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


@pytest.fixture
def clock() -> Clock:
    """The clock of the relays that join."""
    return Clock()


@pytest.fixture
def join(database: str, clock: Clock) -> Iterator[Join]:
    """Return a function that lets a relay join in this process; it leaves after the test."""
    with ExitStack() as joined:

        def enter(alias: str = "default", **options: Any) -> DeliveryLoop:
            return joined.enter_context(DeliveryLoop(database, alias, clock=clock, **options))

        yield enter


def turn(loop: DeliveryLoop, limit: int = 100) -> Report:
    """Take a turn in which everything is due that a relay does from time to time."""
    loop.forget()
    return loop.turn(limit)


def drain(loop: DeliveryLoop, limit: int = 100) -> None:
    """Take turns until there is nothing to do; fails the test if that does not come."""
    for _ in range(1000):
        if not turn(loop, limit).found_work:
            return
    pytest.fail("there is work without end")


class Working:
    """A `Worker` that runs in a thread of the test; `succeeded` is what it returned at its end."""

    def __init__(self, worker: Worker) -> None:
        self.succeeded: bool | None = None
        self.worker = worker
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.succeeded = self.worker.run()

    def stop(self) -> None:
        """Tell it to stop, and wait for its end."""
        self.worker.stop()
        self.end()

    def end(self) -> None:
        """Wait for it to end by itself."""
        self._thread.join(20)
        assert not self._thread.is_alive(), "the worker does not end"


@contextmanager
def working(database: str, *aliases: str, **options: Any) -> Iterator[Working]:
    """Let a worker run in this process, which looks at the outbox often."""
    defaults = {"backends": aliases or ("default",), "batch_size": 10, "interval": 0.02}
    worker = Working(Worker(WorkerOptions(database=database, **{**defaults, **options})))
    try:
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts `outbox_worker` processes, and ends them after the test."""
    with starting_workers(tmp_path) as started:
        yield started


class Stream:
    """A stream of the shared Redis, read with a plain client."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._client: Any = redis.Redis.from_url(url, decode_responses=True)

    def publishers(self, backend: str, **options: Any) -> dict[str, Any]:
        """Return OUTBOX_PUBLISHERS with one backend that appends to the stream."""
        where = {"url": self.url, "stream_name": self.name, "max_len": None}
        return {"default": {"BACKEND": backend, "OPTIONS": {**where, **options}}}

    def __len__(self) -> int:
        return int(self._client.xlen(self.name))

    def names(self) -> list[str]:
        """Return the names of the events that arrived, in order."""
        entries = self._client.xrange(self.name)
        return [json.loads(fields["cloud_event"])["subject"] for _, fields in entries]

    def events(self) -> list[CloudEvent]:
        """Return the events that arrived, in order."""
        entries = self._client.xrange(self.name)
        return [CloudEvent.from_json(fields["cloud_event"]) for _, fields in entries]

    def close(self) -> None:
        """Leave nothing behind."""
        self._client.delete(self.name)
        self._client.close()


@pytest.fixture
def stream() -> Iterator[Stream]:
    """A new stream on the shared Redis."""
    opened = Stream(shared_url(), f"tests:relay:{uuid4()}")
    yield opened
    opened.close()
