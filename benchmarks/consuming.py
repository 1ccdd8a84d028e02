"""Benchmarks of consumers as a whole: from the broker, or the publisher, to a handler's commit."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import psycopg
import redis
from django.conf import settings
from django.db import connections
from django.test.utils import override_settings

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import Reject
from django_broadcaster.registry import event_registry
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.signals import batch_settled, messages_received
from tools import services

from . import bare_consumers, handling, outbox, pacing, receiving, relays
from .measure import Figure, compare, of_pairs

RATE = 100
COUNT = 500
FAILING_EACH = 1000
CONCURRENCY = 4
"""The threads that run handlers, all in one process."""


def consume(runs: int, events: int) -> list[Figure]:
    """Compare a worker that receives and runs a handler, in one process, with a bare loop."""
    receiving._fill(events)
    ours = partial(_drained, events, _worker)
    failing = partial(_drained, events, partial(_worker, failing_each=FAILING_EACH))
    single = partial(_drained, events, partial(_worker, concurrency=1))
    loop = partial(_drained, events, bare_consumers.drain)
    with handling._table():
        figures = [
            compare("consume, Redis to a handler", ours, loop, wanted=">= 0.6", runs=runs),
            compare("consume, 1 of 1,000 fails", failing, ours, wanted=">= 0.8", runs=runs),
            compare("consume, handlers in one thread", single, loop, runs=runs),
        ]
    relays.empty_stream()
    return figures


def _drained(events: int, drain: Callable[[], float]) -> float:
    """Empty the tables, and let the stream be consumed from its beginning; return events/s."""
    outbox.empty()
    with psycopg.connect(**outbox.address(), autocommit=True) as connection:
        connection.execute("TRUNCATE bench_handled")
    with relays.client() as client, suppress(redis.ResponseError):
        client.xgroup_destroy(settings.STREAM, "consume")
    with relays.client() as client:
        client.xgroup_create(settings.STREAM, "consume", "0")
    return events / drain()


def _worker(*, failing_each: int = 0, concurrency: int = CONCURRENCY) -> float:
    """Receive and handle everything with one worker in this process; return the seconds."""

    def handle(event: CloudEvent) -> None:
        data: dict[str, Any] = event.data
        if failing_each and data["order"] % failing_each == 0:
            raise Reject("no")  # a dead letter at once: the first attempts are measured
        with connections["default"].cursor() as cursor:
            cursor.execute(bare_consumers.ROW, [data["order"], data["customer"]])

    began = ended = 0.0

    def note(seconds: float, **_: object) -> None:
        nonlocal began, ended
        ended = time.perf_counter()
        began = began or ended - seconds

    options = {"url": services.address("redis"), "stream_name": settings.STREAM, "group": "consume"}
    consumer = {"CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer", "OPTIONS": options}
    local = {
        "BACKEND": "django_broadcaster.backends.LocalBackend",
        "OPTIONS": {"concurrency": concurrency},
    }
    event_registry.register("order.*", name="bench")(handle)
    messages_received.connect(note)
    batch_settled.connect(note)
    try:
        with override_settings(
            OUTBOX_CONSUMERS={"bench": consumer}, OUTBOX_PUBLISHERS={"handlers": local}
        ):
            worker = Worker(
                WorkerOptions(
                    database="default",
                    backends=["handlers"],
                    consumers=["bench"],
                    batch_size=settings.OUTBOX_BATCH_SIZE,
                    interval=1.0,
                    drain=True,
                ),
                receiving._thread,
            )
            if not worker.run() or outbox.left():
                raise RuntimeError("The worker did not handle every message.")
    finally:
        event_registry.unregister("bench")
        messages_received.disconnect(note)
        batch_settled.disconnect(note)
    return ended - began


# From one service to the other


def two_services(runs: int, events: int) -> list[Figure]:
    """Compare the time from a commit to the handler's commit in another service, at 100/s."""
    figures = []
    with handling._table():
        for broker in ("redis", "nats"):
            pairs = [(_delays(broker, _ours), _delays(broker, _bare_pair)) for _ in range(runs)]
            for index, (name, wanted) in enumerate((("p50", "<= 3"), ("p99", "<= 5"))):
                figures.append(
                    of_pairs(
                        f"two services, {broker}, {name} at {RATE}/s",
                        [(ours[index], bare[index]) for ours, bare in pairs],
                        unit="ms",
                        wanted=wanted,
                    )
                )
    return figures


def _delays(broker: str, running: Callable[[str], Any]) -> tuple[float, float]:
    """Publish at a steady rate; return p50 and p99 in milliseconds."""
    outbox.empty()
    _make_streams(broker)
    arrived: dict[str, float] = {}
    with running(broker), psycopg.connect(**outbox.address(), autocommit=True) as listener:
        listener.execute("LISTEN bench_handled")

        def listen() -> None:
            for notice in listener.notifies(timeout=60, stop_after=None):
                arrived[notice.payload] = time.perf_counter()
                if len(arrived) >= COUNT:
                    return

        reader = threading.Thread(target=listen)
        reader.start()
        committed = pacing.publish_steadily(RATE, COUNT)
        reader.join(60)
    return pacing.percentiles(committed, arrived)


def _make_streams(broker: str) -> None:
    if broker == "redis":
        relays.empty_stream()
        with relays.client() as client:
            client.xgroup_create(settings.STREAM, "service", "0", mkstream=True)
        return
    asyncio.run(_make_nats())


async def _make_nats() -> None:
    import nats
    from nats.js.errors import NotFoundError

    client = await nats.connect(services.address("nats"))
    jetstream = client.jetstream()
    with suppress(NotFoundError):
        await jetstream.delete_stream(bare_consumers.NATS_STREAM)
    await jetstream.add_stream(name=bare_consumers.NATS_STREAM, subjects=["broadcaster-services.>"])
    await client.close()


@contextmanager
def _ours(broker: str) -> Iterator[None]:
    """A worker that delivers to the broker, and another one that receives and handles."""
    environment = {"BENCH_BROKER": broker, "DJANGO_SETTINGS_MODULE": "benchmarks.service.settings"}
    workers = relays.start(1, "--backend", "default", environment=environment)
    workers += relays.start(
        1, "--backend", "handlers", "--consumer", "service", environment=environment
    )
    try:
        relays.wait_for_leases(2)
        relays.wait_for_receiver()
        yield
    finally:
        relays.stop(workers)


@contextmanager
def _bare_pair(broker: str) -> Iterator[None]:
    """A loop that sends on each NOTIFY, and a loop that reads, writes and acknowledges."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        for target in (bare_consumers.send_loop, bare_consumers.read_loop):
            ready = context.Event()
            process = context.Process(target=target, args=[broker, ready], daemon=True)
            process.start()
            stack.callback(process.join, 10)
            stack.callback(process.terminate)
            if not ready.wait(60):
                raise TimeoutError("the bare loop did not start within 60 s")
        yield
