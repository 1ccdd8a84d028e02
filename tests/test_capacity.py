"""The capacity model: its arithmetic, what it says of measured points, and its page."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.capacity import (
    DISTURBED,
    PAGE,
    Costs,
    Point,
    answer,
    describe,
    load,
    partitions_for,
    plan,
    rate_of,
    with_figures,
)
from tests.support.docs_runner import ROOT

COMMANDS = re.findall(r"\$ python (-m benchmarks capacity .*)\n([^`]*)```", PAGE.read_text())
"""The commands of the page, each with the output that is shown."""

POINT = Point(
    relays=1,
    rate=20_000,
    relay_us=20,
    database_us=15,
    broker_us=5,
    wal_bytes=400,
    statements=5,
    busy=0.5,
)
COSTS = Costs(
    machine="a machine",
    processors=2,
    points=[POINT],
    publish_us=100,
    publish_wal_bytes=600,
    row_bytes=500,
)


@pytest.mark.parametrize("relays", [2, 4])
def test_the_model_agrees_with_what_was_measured(relays: int) -> None:
    """The rate of several relays follows from the costs, within a factor of two."""
    costs = load()
    (point,) = [point for point in costs.points if point.relays == relays]
    if DISTURBED in {each.limit(costs.processors) for each in (costs.alone, point)}:
        pytest.skip("measured on a busy machine: run python -m benchmarks costs on a quiet one")
    assert 0.5 <= rate_of(costs, relays) / point.rate <= 2


@pytest.mark.parametrize(
    ("relays", "processors", "rate"),
    [(1, 2, 20_000), (2, 2, 40_000), (6, 2, 50_000), (6, 4, 100_000)],
)
def test_relays_deliver_what_each_can_and_the_processors_carry(
    relays: int, processors: int, rate: float
) -> None:
    """Rates add up until the processors are busy: 40 us of each event on all of them."""
    assert rate_of(COSTS, relays, processors) == rate


def test_a_plan_is_in_proportion_to_the_rate() -> None:
    """A plan has all that the rate needs, with the spare capacity that was asked for."""
    found = plan(COSTS, 30_000, load=0.5, days=2, outage=600)
    assert found.relays == 3
    assert found.relay_processors == pytest.approx(30_000 * 20e-6 / 0.5)
    assert found.database_processors == pytest.approx(30_000 * 115e-6 / 0.5)
    assert found.broker_processors == pytest.approx(30_000 * 5e-6 / 0.5)
    assert found.wal_megabytes == pytest.approx(30)
    assert found.statements == pytest.approx(150)
    assert found.table_gigabytes == pytest.approx(30_000 * 2 * 86_400 * 500 / 1e9)
    assert found.hottest_key == pytest.approx(1 / 3)
    assert found.catch_up_seconds == pytest.approx(30_000 * 600 / 30_000)


def test_a_small_rate_has_two_relays() -> None:
    """One relay may fail."""
    assert plan(COSTS, 1).relays == 2


@pytest.mark.parametrize(
    ("relays", "partitions"),
    [(1, 64), (6, 64), (7, 64), (9, 128), (64, 64), (65, 128), (100, 1024)],
)
def test_partitions_are_shared_evenly(relays: int, partitions: int) -> None:
    """No relay has a tenth more than the average, where fewer partitions do not allow it."""
    assert partitions_for(relays) == partitions


def test_more_relays_than_partitions_are_an_error() -> None:
    """The error says what to do."""
    with pytest.raises(ValueError, match=r"1025 relays .*divide the events"):
        partitions_for(1025)


@pytest.mark.parametrize(
    ("point", "limit"),
    [
        (replace(POINT, relays=3, rate=48_000), "processors"),
        (replace(POINT, rate=45_500, database_us=0, broker_us=0), "the thread of each relay"),
        (replace(POINT, busy=0.95), DISTURBED),
        (POINT, "waiting for the database and the broker"),
    ],
)
def test_the_limit_is_named(point: Point, limit: str) -> None:
    """The processor time of an event says what limits the rate."""
    assert point.limit(processors=2) == limit


@pytest.mark.parametrize(("busy", "warns"), [(0.5, False), (0.95, True)])
def test_costs_of_a_busy_machine_have_a_warning(busy: float, warns: bool) -> None:
    """The table and the plan say that the rates are too low."""
    costs = replace(COSTS, points=[replace(POINT, busy=busy)])
    assert ("Measure again" in describe(costs)) is warns
    options = argparse.Namespace(rate=100.0, load=0.6, days=7.0, outage=10.0)
    assert ("Measure again" in answer(costs, options)) is warns


def test_the_page_has_the_measured_costs() -> None:
    """The table and the plans on the page are those of the costs in the repository."""
    page = PAGE.read_text()
    assert with_figures(page, load()) == page
    assert len(COMMANDS) == 2


@pytest.mark.parametrize(("command", "output"), COMMANDS)
def test_each_command_of_the_page_prints_what_the_page_shows(command: str, output: str) -> None:
    """The commands need no server."""
    assert run(command).stdout == output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("", "--rate"),
        ("--rate 0", "--rate: must be a positive number, not 0"),
        ("--rate many", "--rate"),
        ("--rate 1 --load 1", "--load: must be below 1, not 1"),
        ("--rate 1e9", "divide the events"),
        ("--rate 1 --costs nowhere.json", "nowhere.json"),
    ],
)
def test_wrong_arguments_are_named(arguments: str, error: str) -> None:
    """The error names the argument and the rule, and the exit status is 2."""
    done = run(f"-m benchmarks capacity {arguments}")
    assert done.returncode == 2
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def run(arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the root of the repository."""
    command = [sys.executable, *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
