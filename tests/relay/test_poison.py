"""Events that kill the relays which deliver them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings as django_settings
from django.db import connections

from django_broadcaster.backends import Message
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay import poison
from django_broadcaster.relay.batch import Batch
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.pipeline import Pipeline
from tests.app.models import Order
from tests.support.backends import POISON, Answer, Script, recorded, script
from tests.support.events import count, publish, row, statuses
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import SCRIPTED

if TYPE_CHECKING:
    from pytest_django import Settings

HANDLERS = "tests.support.backends.HandlersBackend"
BATCH = 20
DEATHS = ["exit", "segfault", "exit with 0", "out of memory"]


def neighbours(database: str) -> Any:
    """Return the events that kill nobody."""
    return OutboxEvent.objects.using(database).exclude(subject=POISON)


def batches(record: Path) -> list[int]:
    """Return how many events each batch had that was handled to its end."""
    return [len(line["names"]) for line in recorded(record)]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize(
    ("database", "death"),
    list(zip(cycle(django_settings.DATABASES), DEATHS, strict=False)),
    indirect=["database"],
)
def test_poison_is_put_aside_without_anybodys_help(
    database: str, death: str, workers: Workers, tmp_path: Path
) -> None:
    """However an event kills its relays, it is given up, its neighbours lose no attempt, and
    afterwards the relays, which were started again by themselves, deliver full batches."""
    record = tmp_path / "record"
    before = [f"{key}{number}" for number in range(1, 4) for key in "abcdefgh"]
    publish(*before[:10], POISON, *before[10:], using=database)
    worker = workers.start(
        database,
        *("--processes", "2", "--batch-size", str(BATCH)),
        OUTBOX_PUBLISHERS={
            "default": {"BACKEND": HANDLERS, "OPTIONS": {"path": str(record), "death": death}}
        },
        OUTBOX_LEASE_SECONDS=2,
        OUTBOX_POLL_INTERVAL=0.1,
        OUTBOX_MAX_CRASHES=2,
    )
    wait_until(lambda: row(POISON, database).status == "failed", 60, "the poison to be given up")
    wait_until(lambda: count("published", database) == len(before), 60, "its neighbours")
    singly = len(batches(record))
    after = [f"{key}{number}" for number in range(4, 104) for key in "abcdefgh"]
    publish(*after, using=database)
    wait_until(lambda: count("published", database) == len(before + after), 60, "what came later")
    worker.stop()
    assert worker.end() == 0

    poison = row(POISON, database)
    assert (poison.crash_count, poison.retry_count) == (2, 0)
    assert set(neighbours(database).values_list("status", "retry_count")) == {("published", 0)}
    orders = Order.objects.using(database).values_list("number", flat=True)
    assert sorted(orders) == sorted(before + after)
    sizes = batches(record)[singly:]
    assert max(sizes) == BATCH
    # Each of the two relays begins with one event and doubles: 1, 2, 4, 8, 16 before full batches.
    assert len(sizes) <= len(after) / BATCH + 2 * 5 + 5


def test_suspects_of_two_backends_are_not_on_their_way_at_once(
    committing: None, scripted: Script, settings: Settings
) -> None:
    """If one of them kills the process, the other, which a slow broker has, is not to blame."""
    aliases = ("default", "other")
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": SCRIPTED} for alias in aliases}
    sending = {alias: threading.Event() for alias in aliases}
    together: list[bool] = []

    def dawdle(mine: threading.Event, others: threading.Event) -> Answer:
        def answer(messages: Sequence[Message]) -> list[None]:
            mine.set()
            together.append(others.wait(0.5))
            mine.clear()
            return [None] * len(messages)

        return answer

    for alias, other in (aliases, reversed(aliases)):
        publish(f"{alias}1", using="default", backend=alias)
        script(alias).answer = dawdle(sending[alias], sending[other])
    OutboxEvent.objects.update(crash_count=1)
    threads = [threading.Thread(target=take_a_turn, args=[alias]) for alias in aliases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == [False, False]
    assert set(statuses("default").values()) == {"published"}


def test_a_suspect_that_hangs_keeps_other_backends_waiting_once(
    committing: None, scripted: Script, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each of their suspects anew: after a death there may be a whole batch of them."""
    monkeypatch.setattr(poison, "PATIENCE_SECONDS", 2.0)
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": SCRIPTED} for alias in ("default", "other")}
    hangs, ends = threading.Event(), threading.Event()

    def hang(messages: Sequence[Message]) -> list[None]:
        hangs.set()
        ends.wait(60)
        return [None] * len(messages)

    script("default").answer = hang
    publish("a1", using="default", backend="default")
    names = [f"b{number}" for number in range(20)]
    publish(*names, using="default", backend="other")
    OutboxEvent.objects.update(crash_count=1)
    threads = [threading.Thread(target=take_turns, args=["default", 1])]
    threads[0].start()
    assert hangs.wait(20)
    threads.append(threading.Thread(target=take_turns, args=["other", 20]))
    threads[1].start()
    try:
        wait_until(lambda: script("other").arrived == names, 20, "the other backend's")
    finally:
        ends.set()
        for thread in threads:
            thread.join(30)


def test_a_suspect_that_was_cancelled_while_it_waited_is_not_sent(
    committing: None, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn may come seconds after it was read."""
    publish("p1", using="default")
    OutboxEvent.objects.update(crash_count=1)
    waits, select = threading.Event(), Pipeline.select

    def selected(pipeline: Pipeline, batch: Batch) -> Batch:
        waits.set()
        return select(pipeline, batch)

    monkeypatch.setattr(Pipeline, "select", selected)
    thread = threading.Thread(target=take_a_turn, args=["default"])
    with poison.alone():
        thread.start()
        assert waits.wait(20)
        OutboxEvent.objects.all().cancel()
    thread.join(30)
    assert scripted.arrived == []
    assert statuses("default") == {"p1": "cancelled"}


def take_a_turn(alias: str) -> None:
    """Let a relay come, deliver a batch to a backend, and leave."""
    take_turns(alias, 1)


def take_turns(alias: str, count: int) -> None:
    """The same with several batches."""
    try:
        with DeliveryLoop("default", alias) as loop:
            for _ in range(count):
                loop.turn(100)
    finally:
        connections.close_all()
