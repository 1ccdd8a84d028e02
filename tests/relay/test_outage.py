"""Brokers that go away, hang and are slow, under load."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster.models import OutboxEvent
from tests.support.backends import Gate
from tests.support.events import count, first_arrivals, publish_many
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import wait_until
from tests.support.workers import Workers
from tests.support.writers import writing

from .conftest import Stream, working

if TYPE_CHECKING:
    from pytest_django import Settings

REDIS = "django_broadcaster.backends.RedisStreamBackend"
HANGING = "tests.support.backends.HangingBackend"
SLOW = "tests.support.backends.SlowBackend"
OUTAGE_SECONDS = float(os.environ.get("BROADCASTER_TEST_OUTAGE_SECONDS", "4"))
"""How long the broker is away, at the least. A minute shows nothing that four seconds do not."""


def undelivered() -> Any:
    """Return the events that are not published."""
    return OutboxEvent.objects.exclude(status="published")


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["dies", "hangs"])
def test_an_outage_under_load_costs_nothing(
    committing: None, workers: Workers, tmp_path: Path, trouble: str
) -> None:
    """While writers go on, a broker that dies or hangs costs no retry and makes no dead letter;
    once it is back the relay catches up with the writers by itself."""
    with (
        redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server,
        writing("default", max_retries=0) as writers,
    ):
        options = {
            "url": server.url,
            "max_len": None,
            "socket_timeout": 0.5,
            "connect_timeout": 0.5,
        }
        worker = workers.start(
            "default",
            OUTBOX_PUBLISHERS={"default": {"BACKEND": REDIS, "OPTIONS": options}},
            OUTBOX_CIRCUIT={"maximum": 2.0},
        )
        wait_until(lambda: count("published", "default") > 200, 30, "deliveries")
        begin, end = {"dies": (server.kill, server.start), "hangs": (server.stop, server.resume)}[
            trouble
        ]
        begin()
        long_enough = time.monotonic() + OUTAGE_SECONDS
        wait_until(
            lambda: time.monotonic() > long_enough and count("pending", "default") > 500,
            OUTAGE_SECONDS + 60,
            "an outage under load",
        )
        untouched = ("status", "retry_count", "crash_count", "last_error")
        assert set(undelivered().values_list(*untouched)) == {("pending", 0, 0, "")}
        end()
        wait_until(lambda: count("pending", "default") < 50, 30, "the relay to catch up")
        writers.stop()
        wait_until(lambda: not undelivered().exists(), 30, "every event")
        worker.stop()
        assert worker.end() == 0
        arrived = names_in(server)
    assert not OutboxEvent.objects.filter(retry_count__gt=0).exists()
    assert first_arrivals(arrived) == first_arrivals(writers.committed)


def names_in(server: RedisServer) -> list[str]:
    """Return the names of the events in the server's stream, in order."""
    with server.client() as client:
        entries = client.xrange("events")
    return [json.loads(fields["cloud_event"])["subject"] for _, fields in entries]


@pytest.mark.chaos
def test_a_half_open_circuit_sends_one_small_batch(
    committing: None, tmp_path: Path, settings: Settings
) -> None:
    """A server that refuses everything sees one probe a pause, and full batches once it is well."""
    settings.OUTBOX_CIRCUIT = {"initial": 0.1, "maximum": 0.1, "probe_size": 7}
    backlog, batch = 2007, 500
    with redis_server(tmp_path) as server:
        options = {"url": server.url, "max_len": None}
        settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": REDIS, "OPTIONS": options}}
        server.command("CONFIG", "SET", "min-replicas-to-write", 1)
        publish_many(backlog, "default", keys=100)
        with working("default", batch_size=batch):
            wait_until(lambda: calls(server, "xadd", "rejected_calls") >= batch, 20, "a refusal")
            server.command("CONFIG", "RESETSTAT")
            began = time.monotonic()
            wait_until(lambda: calls(server, "multi") >= 5, 20, "several probes")
            probes, refused = calls(server, "multi"), calls(server, "xadd", "rejected_calls")
            assert probes <= (time.monotonic() - began) / 0.1 + 1
            assert refused <= (probes + 1) * 7

            with server.client() as client, client.pipeline(transaction=True) as at_once:
                at_once.config_resetstat()
                at_once.config_set("min-replicas-to-write", 0)
                at_once.execute()
            wait_until(lambda: not undelivered().exists(), 20, "every event")
        assert calls(server, "xadd") == backlog
        assert calls(server, "multi") == 1 + 2000 / batch
    assert not OutboxEvent.objects.filter(retry_count__gt=0).exists()


def calls(server: RedisServer, command: str, kind: str = "calls") -> int:
    """Return how many such calls of a command the server has counted."""
    statistics = server.command("INFO", "commandstats")
    return int(statistics.get(f"cmdstat_{command}", {}).get(kind, 0))


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["hangs", "is slow"])
def test_a_troubled_backend_holds_up_no_other(
    committing: None, stream: Stream, workers: Workers, tmp_path: Path, trouble: str
) -> None:
    """In one process, one backend delivers a whole backlog while another is stuck, or crawls."""
    sick = {
        "hangs": {"BACKEND": HANGING, "OPTIONS": {"folder": str(tmp_path)}},
        "is slow": {"BACKEND": SLOW, "OPTIONS": {"folder": str(tmp_path), "seconds": 0.05}},
    }[trouble]
    gate = Gate(tmp_path)
    publish_many(1000, "default", keys=20, backend="sick")
    worker = workers.start(
        "default",
        *("--batch-size", "100"),
        OUTBOX_PUBLISHERS={**stream.publishers(REDIS), "sick": sick},
        OUTBOX_SHUTDOWN_TIMEOUT=0.5,
    )
    wait_until(gate.arrived.exists, 20, "the sick backend at work")
    names = publish_many(2000, "default", keys=50)
    healthy, others = (
        OutboxEvent.objects.filter(publisher_backend=alias, status="pending")
        for alias in ("default", "sick")
    )
    wait_until(lambda: not healthy.exists(), 60, "the healthy backend's whole backlog")
    assert others.count() > (999 if trouble == "hangs" else 500)
    assert first_arrivals(stream.names()) == first_arrivals(names)
    worker.stop()
    worker.end()
