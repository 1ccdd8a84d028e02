"""What the mechanisms of a relay make of each other: probes, crashes, locks, keys, heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Thread, current_thread
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections

from django_broadcaster.backends import Message
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay import sending
from django_broadcaster.relay.decryption import NotDecryptable
from django_broadcaster.relay.lease import Lease
from tests.support.backends import Script
from tests.support.events import publish
from tests.support.waiting import wait_until

from .conftest import Join, drain

if TYPE_CHECKING:
    from pytest_django import Settings

    from django_broadcaster.relay.loop import DeliveryLoop

QUICK = {"initial": 0.001, "maximum": 0.002}


def test_death_in_a_probe_is_laid_to_its_events_alone(
    database: str, scripted: Script, settings: Settings, join: Join
) -> None:
    """The events between those of a probe are no suspects, and go on in whole batches."""
    settings.OUTBOX_CIRCUIT = {**QUICK, "probe_size": 10}
    publish(*(f"a{number}" for number in range(300)), "b1", using=database)
    loop = join()

    def answer(messages: Sequence[Message]) -> list[Exception]:
        if sorted(message.subject for message in messages) == ["a0", "b1"]:
            raise KeyboardInterrupt
        return [BackendUnavailable("down")] * len(messages)

    scripted.answer = answer

    def is_interrupted() -> bool:
        try:
            loop.turn(100)
        except KeyboardInterrupt:
            return True
        return False

    wait_until(is_interrupted, 20, "a probe of two keys")
    loop.forget()
    loop.lease.count_crash()
    suspects = OutboxEvent.objects.using(database).filter(crash_count__gt=0).order_by("id")
    assert [event.subject for event in suspects] == ["a0", "b1"]
    scripted.heal()
    loop.circuit.succeeded()
    before = len(scripted.batches)
    drain(loop, 100)
    assert len(scripted.arrived) == 301
    assert len(scripted.batches) - before < 20


def test_heartbeat_that_overtakes_a_delivery_is_no_failover(
    database: str, scripted: Script, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads renew one lease; the order in which their answers are judged means nothing."""
    if connections[database].vendor != "postgresql":
        pytest.skip("only PostgreSQL tells its timeline")
    publish("a1", using=database)
    lease = join().lease
    asked, judged = Event(), Event()
    errors: list[Exception] = []
    real: Callable[..., None] = Lease._check_server

    def judge(self: Lease, *args: Any) -> None:
        if current_thread().name == "slow":
            asked.set()
            judged.wait(20)
        real(self, *args)

    def begin() -> None:
        try:
            lease.begin_delivery([1])
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    monkeypatch.setattr(Lease, "_check_server", judge)
    thread = Thread(target=begin, name="slow")
    thread.start()
    assert asked.wait(20)
    publish("a2", using=database)
    lease.renew()
    judged.set()
    thread.join()
    assert errors == []


def test_locked_events_keep_no_payloads_in_memory(
    database: str, scripted: Script, settings: Settings, join: Join
) -> None:
    """However many rows an operator has locked, the byte bound of a batch holds."""
    if connections[database].vendor != "postgresql":
        pytest.skip("one kind of lock shows it")
    settings.OUTBOX_BATCH_BYTES = 1_000_000
    settings.OUTBOX_SHUTDOWN_TIMEOUT = 0.1
    data = {"text": "x" * 200_000}
    publisher.publish_events(
        ({"event_type": "a", "source": "/s", "subject": f"n{n}", "data": data} for n in range(20)),
        using=database,
    )
    holder = connections[database].copy()
    holder.set_autocommit(False)
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_broadcaster_outboxevent FOR UPDATE")
        loop = join()
        wait_until(lambda: _all_are_locked(loop), 20, "every event to be delivered")
        assert len(scripted.arrived) == 20
        assert [row.data for row in loop.owned.locked._verdicts.rows] == [None] * 20
    finally:
        holder.rollback()
        holder.close()


def _all_are_locked(loop: DeliveryLoop) -> bool:
    loop.turn(500)
    return len(loop.owned.locked) == 20


def test_probe_of_which_nothing_was_sent_closes_no_circuit(
    database: str,
    scripted: Script,
    settings: Settings,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event whose key is missing never reaches the broker, so it says nothing about it."""
    settings.OUTBOX_CIRCUIT = {**QUICK, "probe_size": 1}

    def decrypted(batch: Sequence[Any]) -> tuple[list[Any], dict[int, Exception]]:
        shut = [row for row in batch if row.subject.startswith("s")]
        error = NotDecryptable(ValueError("no key"))
        return [row for row in batch if row not in shut], {row.id: error for row in shut}

    monkeypatch.setattr(sending, "decrypted", decrypted)
    publish("a1", "b1", using=database)
    scripted.fail("*", BackendUnavailable("down"))
    loop = join()
    loop.turn(2)
    assert not loop.circuit.is_closed
    publish("s1", "s2", using=database)
    sealed = OutboxEvent.objects.using(database).filter(subject__startswith="s")

    def is_tried() -> bool:
        loop.turn(1)
        return not sealed.filter(status="pending").exists()

    wait_until(is_tried, 20, "the sealed events to be tried")
    assert not loop.circuit.is_closed
