"""The demo: that it passes, that it would notice if it should not, and that it cleans up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from example.crashtest.judge import Event, judge
from tests.support.redis_server import free_port, missing
from tools import restarts, services
from tools.servers import SERVICES

DEMO = Path(__file__).resolve().parent.parent / "example" / "demo.py"
ORDERS = 300
BATCH = 40
ORDERS_WITH_BROKER = 400  # at work for as long as workers are killed
BROKERS = ("redis", "rabbitmq", "nats", "kafka")

PLACED, PAID, SHIPPED = (Event(f"id-{n}", "order-1", n) for n in (1, 2, 3))
OTHER = Event("id-9", "order-2", 1)
LIFE = [PLACED, PAID, SHIPPED]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a demo whose temporary files go to a folder."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SHOP_", "BILLING_"))
    }
    return {**env, "TMPDIR": str(folder), **variables}


def addresses(db: str) -> dict[str, str]:
    """Return the variable that leads to the database server; without one the test is skipped."""
    if db == "sqlite":
        return {}
    service = SERVICES[db]
    return {service.variable: service.address or missing(f"the server of {service.variable}")}


def counts(output: str) -> dict[str, list[int]]:
    """Return the rows of the table that the demo printed."""
    rows = re.findall(r"^  ([a-z][a-z -]+?)((?: +[\d,]+)+)(?:   |$)", output, re.MULTILINE)
    return {
        label: [int(number.replace(",", "")) for number in numbers.split()]
        for label, numbers in rows
    }


def assert_kept(run: subprocess.CompletedProcess[str], committed: list[int]) -> None:
    """Assert that a demo succeeded, and that its table says so for each of its columns."""
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("Every promise was kept.\n")
    none = [0] * len(committed)
    assert counts(run.stdout) == {
        "committed": committed,
        "delivered": committed,
        "missing": none,
        "from rolled-back transactions": none,
        "duplicates": none,
        "out of order": none,
    }


@pytest.mark.chaos
@pytest.mark.parametrize("db", ["sqlite", "postgres"])
def test_the_demo_keeps_every_promise(db: str, tmp_path: Path) -> None:
    """The demo kills a relay at work, and everything arrives once and in order."""
    command = [sys.executable, str(DEMO), "--db", db]
    command += ["--orders", str(ORDERS), "--batch-size", str(BATCH)]
    run = subprocess.run(
        command,
        env=environment(tmp_path, **addresses(db)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert_kept(run, [3 * ORDERS])
    assert "SIGKILL" in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("db", "broker"), [*(("sqlite", broker) for broker in BROKERS), ("postgres", "redis")]
)
def test_two_services_keep_every_promise(db: str, broker: str, tmp_path: Path) -> None:
    """Workers of both and the broker are ended, and each order is billed once, as it comes back."""
    servers = broker if db == "sqlite" else f"{broker},{db}"
    command = [sys.executable, services.__file__, "run", "--only", servers, "--"]
    command += [sys.executable, str(DEMO), "--db", db, "--broker", broker]
    command += ["--orders", str(ORDERS_WITH_BROKER), "--batch-size", str(BATCH)]
    service = SERVICES[broker]
    nowhere = {service.variable: service.at(free_port())}  # so that a new one is started
    run = subprocess.run(
        command,
        env=environment(tmp_path, **addresses(db), **nowhere),
        capture_output=True,
        text=True,
        timeout=280,
    )
    if "MISSING" in run.stdout:
        missing(f"a new server of {broker}")
    assert_kept(run, [3 * ORDERS_WITH_BROKER, ORDERS_WITH_BROKER, ORDERS_WITH_BROKER])
    for happened in (
        "SIGKILL to shop's worker",
        "SIGKILL to billing's worker",
        "was stopped and started again",
    ):
        assert happened in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_somebody_else_is_not_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server that was started for it, the demo says so and stops nothing."""
    monkeypatch.delenv(restarts.VARIABLE, raising=False)
    with pytest.raises(restarts.CannotRestart, match="not started for this command"):
        restarts.restart("redis")
    with restarts.offered() as variables:
        monkeypatch.setenv(*next(iter(variables.items())))
        with pytest.raises(restarts.CannotRestart, match="not started for this command"):
            restarts.restart("redis")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(signum: int, tmp_path: Path) -> None:
    """Ctrl-C ends the demo, its relay and its writers, and removes what it made."""
    unusual = "7919"  # by which its relay is known among all processes
    demo = subprocess.Popen(
        [sys.executable, str(DEMO), "--batch-size", unusual],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    while not re.search(r"arrived +[1-9]", demo.stdout.readline()):
        assert demo.poll() is None
    demo.send_signal(signum)
    rest, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert rest.endswith("Stopped.\n")
    assert list(tmp_path.iterdir()) == []
    assert not [words for words in command_lines() if unusual in words]


def command_lines() -> list[list[str]]:
    """Return the command line of every process, where the system shows them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text().split("\0"))
        except OSError:
            continue  # it has ended meanwhile
    return lines


@pytest.mark.parametrize("kind", ["postgres", *BROKERS])
def test_a_server_that_is_not_there(kind: str, tmp_path: Path) -> None:
    """The demo says which server is unavailable and where its address comes from."""
    choice = ("--db", kind) if kind == "postgres" else ("--broker", kind)
    variable = SERVICES[kind].variable
    nowhere = {variable: SERVICES[kind].at(1)}
    run = subprocess.run(
        [sys.executable, str(DEMO), *choice],
        env=environment(tmp_path, **nowhere),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert "is unavailable" in run.stderr
    assert variable in run.stderr
    assert "Traceback" not in run.stderr


def test_a_good_run_is_found_good() -> None:
    """Events that arrive once, each key in order, break nothing."""
    verdict = judge([*LIFE, OTHER], ["undone"], [PLACED, OTHER, PAID, SHIPPED])
    assert verdict.kept
    assert (verdict.committed, verdict.delivered) == (4, 4)


@pytest.mark.parametrize(
    ("arrived", "what"),
    [
        ([PLACED, SHIPPED], "missing"),
        ([PAID, PLACED, SHIPPED], "out_of_order"),
        ([*LIFE, PAID], "duplicates"),
        ([*LIFE, Event("undone", "order-3", 1)], "rolled_back"),
        ([*LIFE, Event("never seen", "order-3", 1)], "unknown"),
    ],
)
def test_every_kind_of_breakage_is_noticed(arrived: list[Event], what: str) -> None:
    """One event with a wrong fate is counted under that fate alone, and breaks the verdict."""
    verdict = judge(LIFE, ["undone"], arrived)
    assert not verdict.kept
    fates = ("missing", "out_of_order", "duplicates", "rolled_back", "unknown")
    assert {fate: getattr(verdict, fate) for fate in fates} == {f: int(f == what) for f in fates}


def test_an_altered_event_is_not_the_one_that_was_published() -> None:
    """An event that arrives under its id but with another key is missing and unknown."""
    altered = PAID._replace(key="order-7")
    verdict = judge(LIFE, [], [PLACED, altered, SHIPPED])
    assert (verdict.missing, verdict.unknown, verdict.kept) == (1, 1, False)


def test_repeated_events_count_by_their_first_arrival() -> None:
    """A batch that is repeated is so many duplicates, and its repetition overtakes nothing."""
    verdict = judge(LIFE, [], [PLACED, PAID, PLACED, PAID, SHIPPED])
    assert (verdict.duplicates, verdict.out_of_order, verdict.kept) == (2, 0, False)
