"""The relay under measurement, in this process or in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
from django.conf import settings
from django.db import connection
from django.test.utils import override_settings

from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.signals import batch_settled
from tools import services

from . import outbox

ROOT = Path(__file__).resolve().parent.parent


def drain(database: str = "default") -> float:
    """Deliver every pending event with one relay in this process; return events a second.

    The whole worker runs: threads, lease, heartbeat, circuit. The time runs from its first fetch
    to the settling of its last batch, without its start and its end, as that of the bare loops.
    """
    count = outbox.left(database)
    options = WorkerOptions(
        database=database,
        backends=["default"],
        batch_size=settings.OUTBOX_BATCH_SIZE,
        interval=1.0,
        drain=True,
    )
    worker = Worker(options)
    began = settled_at = 0.0

    def note(seconds: float, **_: object) -> None:
        nonlocal began, settled_at
        settled_at = time.perf_counter()
        began = began or settled_at - seconds

    batch_settled.connect(note)
    try:
        ended_well = worker.run()
    finally:
        batch_settled.disconnect(note)
    if not ended_well or outbox.left(database):
        raise RuntimeError("The relay did not deliver every event.")
    return count / (settled_at - began)


def drain_to(backend: str, **options: object) -> float:
    """Deliver every pending event with one relay to a backend of the package, as `drain` does."""
    entry = {"BACKEND": f"django_broadcaster.backends.{backend}", "OPTIONS": options}
    with override_settings(OUTBOX_PUBLISHERS={"default": entry}):
        return drain()


def start(
    count: int = 1, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[bytes]]:
    """Start `count` workers as processes, whose output goes to the standard error."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "django", "outbox_worker", *arguments]
    return [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=2) for _ in range(count)]


def stop(workers: list[subprocess.Popen[bytes]]) -> None:
    """Stop workers with SIGTERM and wait for them."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait(30)


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sessions() -> dict[int, float]:
    """Return the processor seconds of the database's sessions by their processes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        return {pid: cpu(pid) for (pid,) in cursor.fetchall()}


def used(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return the processor seconds that sessions have used meanwhile which exist at the end."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def peak_megabytes(pid: int) -> float:
    """Return the highest memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split(maxsplit=1)[0]) * 1024 / 1e6


def wait_for_leases(count: int) -> None:
    """Wait until `count` relays share the partitions."""
    _wait(lambda: _sharing() == count, "the relays to share the partitions")


def wait_for_entries(count: int) -> float:
    """Wait until `count` events are delivered; return the time."""
    with client() as broker:
        _wait(lambda: broker.xlen(settings.STREAM) >= count, f"{count} events to be delivered")
    return time.perf_counter()


def wait_for_receiver() -> None:
    """Wait until a receiver may read."""

    def reads() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM django_broadcaster_outboxreceiver WHERE reads IS NOT NULL"
            )
            return cursor.fetchone() is not None

    _wait(reads, "a receiver to read")


def _sharing() -> int:
    """Return how many relays own partitions, 0 while one is free."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN bool_and(relay_id IS NOT NULL) THEN count(DISTINCT relay_id) "
            "ELSE 0 END FROM django_broadcaster_outboxpartition"
        )
        return int(cursor.fetchone()[0])


def _wait(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.01)


def client() -> redis.Redis:
    """Return a client of Redis."""
    return redis.Redis.from_url(services.address("redis"))


def empty_stream() -> None:
    """Delete the stream."""
    with client() as broker:
        broker.delete(settings.STREAM)
