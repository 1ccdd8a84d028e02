"""How processes are started again, and how they end."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from django_broadcaster.relay.supervisor import STEADY_SECONDS, Supervisor, _Place
from tests.support.waiting import wait_until


def die(place: _Place, at: float, times: int) -> list[float]:
    """Let a place's processes die as soon as they have started; return the pauses."""
    place.started_at = at
    return [place.ended(at) for _ in range(times)]


def test_processes_that_keep_dying_are_started_ever_later() -> None:
    """The pause doubles up to half a minute, and stays there however long it goes on."""
    pauses = die(_Place(), at=100.0, times=5000)
    assert pauses[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(pauses[7:]) == {30.0}


def test_a_process_that_lived_is_succeeded_at_once() -> None:
    """A death after a good while is a first one, so a rare crash never costs half a minute."""
    place = _Place()
    die(place, at=100.0, times=10)
    place.started_at = 200.0
    assert place.ended(200.0 + STEADY_SECONDS) == 1.0
    assert place.start_at == 201.0 + STEADY_SECONDS


@pytest.mark.parametrize(
    ("at_the_signal", "well"),
    [("signal.SIG_DFL", True), ("lambda *_: os._exit(0)", True), ("lambda *_: os._exit(1)", False)],
    ids=["before it had begun", "in order", "with a failure"],
)
def test_the_end_of_a_supervised_process_is_judged(
    tmp_path: Path, at_the_signal: str, well: bool
) -> None:
    """Told to stop, a process that had not begun, and so dies of the signal, has ended well."""
    ready = tmp_path / "ready"
    program = (
        "import os, pathlib, signal, time\n"
        f"signal.signal(signal.SIGTERM, {at_the_signal})\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    supervisor = Supervisor([sys.executable, "-c", program], 1, finite=False)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(supervisor.run()))
    thread.start()
    try:
        wait_until(ready.exists, 20, "the process")
    finally:
        supervisor.stop()
        thread.join(30)
    assert ended == [well]


def test_a_process_that_cannot_start_ends_no_other(tmp_path: Path) -> None:
    """A machine without memory or processes to give is tried again; what runs goes on."""
    program, ready = tmp_path / "relay", tmp_path / "ready"
    supervisor = Supervisor([str(program)], 1, finite=False)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(supervisor.run()))
    thread.start()
    try:
        wait_until(lambda: supervisor._places[0].start_at, 20, "a start that fails")
        assert thread.is_alive()
        program.write_text(f"#!/bin/sh\ntouch {ready}\nexec sleep 60\n")
        program.chmod(0o700)
        wait_until(ready.exists, 20, "the process")
    finally:
        supervisor.stop()
        thread.join(30)
    assert ended == [True]
