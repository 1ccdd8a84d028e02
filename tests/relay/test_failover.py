"""A replica of PostgreSQL that was behind takes over, behind a pooler: no statement fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from django.db import Error, connections

from django_broadcaster.backends import Message
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay import watermark
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.backends import Script
from tests.support.events import publish, statuses
from tests.support.own_servers import OwnDatabase, as_alias, own_instance, running, service_like
from tests.support.pgbouncer import Pool, pooling
from tests.support.waiting import wait_until
from tools import launch
from tools.servers import Service

from .conftest import drain

if TYPE_CHECKING:
    from django_broadcaster.relay.verdicts import Report

pytestmark = pytest.mark.chaos

COPY = "pg_basebackup --host=127.0.0.1 --port={port} --username=postgres --pgdata={{data}} "
OPTIONS = "--write-recovery-conf --checkpoint=fast --no-sync"


class Pair:
    """A primary behind a pooler, and a replica that is behind until it takes over."""

    def __init__(self, primary: launch.Instance, replica: launch.Instance, pool: Pool) -> None:
        self._primary = primary
        self._replica = replica
        self._pool = pool

    def fail_over(self) -> None:
        """Let the primary die, and the replica take its place for the pooler's clients."""
        self._primary.stop(signal.SIGQUIT)
        self._replica.start()
        place = {**connections.settings["own"], "PORT": self._replica.port, "OPTIONS": {}}
        with as_alias("replica", place), connections["replica"].cursor() as cursor:
            cursor.execute("SELECT pg_promote()")
        self._pool.point_to(self._replica.port)
        wait_until(self._answers, 30, "the pooler to reach the new primary")

    def _answers(self) -> bool:
        connections["beside"].close()
        with suppress(Error), connections["beside"].cursor() as cursor:
            cursor.execute("SELECT timeline_id FROM pg_control_checkpoint()")
            cursor.execute("SELECT inet_server_port(), pg_is_in_recovery()")
            return bool(cursor.fetchone() == (self._replica.port, False))
        return False


@pytest.fixture
def pair(
    committing: None, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Pair, DeliveryLoop]]:
    """A pair, and a relay that delivered much since the replica stopped to follow."""
    monkeypatch.setattr(watermark, "WORTH_CHECKING", 0)
    with (
        own_instance(service_like("postgres")) as primary,
        running(primary) as server,
        own_instance(replica_of(server)) as replica,
        pooling(server.alias) as pool,
        as_alias("beside", pool.place),
        DeliveryLoop(pool.alias, "default") as loop,  # it leaves while there is a server
    ):
        publish("z1", using=pool.alias)
        drain(loop)
        replica.prepare()
        for number in range(60):
            publish(f"z{number + 2}", using=pool.alias)
        for _ in range(4):
            loop.turn(20)
        assert loop.owned.watermark.start > 40
        yield Pair(primary, replica, pool), loop


def replica_of(server: OwnDatabase) -> Service:
    """Return a server that is prepared as a copy of another one, which it is to follow."""
    copy = COPY.format(port=server.instance.port)
    return replace(server.instance.service, prepare=f"{copy}{OPTIONS}")


def go_on(loop: DeliveryLoop) -> None:
    """Take turns until nothing is left, as a relay does that joins again once its lease is lost."""
    for _ in range(200):
        try:
            report: Report = loop.turn(20)
        except LeaseLost:
            loop.join()
            continue
        if not report.found_work and not statuses_pending(loop.using):
            return
    pytest.fail("there is work without end")


def statuses_pending(using: str) -> bool:
    """Tell whether anything is pending."""
    return OutboxEvent.objects.using(using).filter(status="pending").exists()


def test_nothing_is_overtaken_on_a_new_primary_that_was_behind(
    pair: tuple[Pair, DeliveryLoop], scripted: Script
) -> None:
    """An event with an id below the watermark is not delivered after later ones of its key."""
    servers, loop = pair
    servers.fail_over()
    (first,) = publish("k1", using="beside")
    assert first.pk < loop.owned.watermark.start
    while (
        OutboxEvent.objects.using("beside").order_by("id").last().pk <= loop.owned.watermark.start
    ):
        publish("y1", using="beside")
    publish("k2", using="beside")
    go_on(loop)
    names = [name for name in scripted.arrived if name.startswith("k")]
    assert names == ["k1", "k2"]


def test_an_idle_relay_notices_by_its_heartbeat(pair: tuple[Pair, DeliveryLoop]) -> None:
    """The next heartbeat says that the lease counts no more, and it joins again."""
    servers, loop = pair
    loop.lease.renew()
    servers.fail_over()
    with pytest.raises(LeaseLost, match="another database server"):
        loop.lease.renew()
    loop.join()
    loop.lease.renew()


def test_a_batch_from_before_settles_nothing_on_the_new_primary(
    pair: tuple[Pair, DeliveryLoop], scripted: Script
) -> None:
    """Other events that were given the same ids there are delivered, and not taken for it."""
    servers, loop = pair

    def wait(messages: Sequence[Message]) -> list[None]:
        scripted.answer = None
        servers.fail_over()
        for _ in range(70):
            publish("x1", using="beside")
        return [None] * len(messages)

    (old,) = publish("a1", using="pooled")
    scripted.answer = wait
    go_on(loop)
    taken = OutboxEvent.objects.using("beside").get(pk=old.pk)
    assert taken.subject == "x1"
    assert scripted.arrived.count("x1") == 70
    assert set(statuses("beside").values()) == {"published"}
