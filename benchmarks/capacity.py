"""How many relays, partitions and processors a rate needs: arithmetic from measured costs.

    python -m benchmarks capacity --rate 20000

`python -m benchmarks costs` measures and writes the costs. The model has three rules:

- One relay delivers at most what it has delivered alone.
- All relays of a machine deliver at most what its processors carry: the costs of an event in the
  relay, the database and the broker add up.
- Beyond that, costs grow in proportion to the rate.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import mean

from .table import between

COSTS = Path(__file__).with_name("costs.json")
PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "capacity.md"

_COMMAND = re.compile(r"(\$ python -m benchmarks capacity ([^\n]*)\n).*?(```)", re.DOTALL)

MOST_PARTITIONS = 1024
"""The highest OUTBOX_PARTITIONS."""

UNEVEN = 1.1
"""The most partitions of a relay, compared with the average, that the plan accepts."""

BUSY = 0.9
"""The share of a processor from which it counts as the limit."""

DISTURBED = "processors, used by other programs as well"
"""The limit of a measurement that says little: it is to be repeated on a quiet machine."""

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured while some relays delivered a backlog.

    Args:
        relays: The number of relay processes.
        rate: The events a second of all.
        relay_us, database_us, broker_us: The microseconds of processor time of an event.
        wal_bytes: The bytes of an event in the database's log.
        statements: The statements of 1,000 events.
        busy: The share of the machine's processors that was busy, other programs included.
    """

    relays: int
    rate: float
    relay_us: float
    database_us: float
    broker_us: float
    wal_bytes: float
    statements: float
    busy: float

    @property
    def event_us(self) -> float:
        """The microseconds of processor time of an event, everywhere."""
        return self.relay_us + self.database_us + self.broker_us

    def limit(self, processors: int) -> str:
        """Return what limits the rate on a machine with that many processors."""
        if self.rate * self.event_us / 1e6 >= BUSY * processors:
            return "processors"
        if self.rate * self.relay_us / 1e6 >= BUSY * self.relays:
            return "the thread of each relay"
        if self.busy >= BUSY:
            return DISTURBED
        return "waiting for the database and the broker"


@dataclass(frozen=True, slots=True)
class Costs:
    """The measured costs.

    Args:
        machine: The machine and the versions.
        processors: The processors of the machine, which relays, database and broker shared.
        points: A point for each number of relays; the first one is of one relay.
        publish_us: The microseconds of the database for a publish call in its own transaction.
        publish_wal_bytes: The bytes of such a call in the database's log.
        row_bytes: The bytes of a delivered event in the table and its indexes.
    """

    machine: str
    processors: int
    points: Sequence[Point]
    publish_us: float
    publish_wal_bytes: float
    row_bytes: float

    @property
    def alone(self) -> Point:
        """The point of one relay."""
        return self.points[0]

    @property
    def warning(self) -> str:
        """Why the costs are not to be relied on; empty if they are."""
        if any(point.limit(self.processors) == DISTURBED for point in self.points):
            return "Other programs used the machine: the rates are too low. Measure again."
        return ""

    @property
    def event_us(self) -> float:
        """The microseconds of processor time of an event, averaged over all points."""
        return mean(point.event_us for point in self.points)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def load(path: Path = COSTS) -> Costs:
    """Read costs that `save` has written."""
    found = json.loads(path.read_text())
    return Costs(**{**found, "points": [Point(**point) for point in found["points"]]})


def rate_of(costs: Costs, relays: int, processors: int | None = None) -> float:
    """Return the events a second that relays deliver on one machine, database and broker included.

    Without `processors` the machine has as many as the measured one.
    """
    carried = (processors or costs.processors) * 1e6 / costs.event_us
    return min(relays * costs.alone.rate, carried)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate needs, with relays, database and broker on machines of their own."""

    relays: int
    partitions: int
    relay_processors: float
    database_processors: float
    broker_processors: float
    wal_megabytes: float
    statements: float
    table_gigabytes: float
    hottest_key: float
    catch_up_seconds: float


def plan(
    costs: Costs, rate: float, *, load: float = 0.6, days: float = 7, outage: float = 600
) -> Plan:
    """Return what a rate needs.

    Args:
        costs: The measured costs.
        rate: Events a second, published and delivered.
        load: The share of its capacity that everything is used to.
        days: The days for which delivered events are kept.
        outage: Seconds of an outage whose backlog is to be delivered.

    Raises:
        ValueError: The rate needs more relays than there can be partitions.
    """
    needed = max(2, ceil(rate / (costs.alone.rate * load)))
    each = costs.alone
    return Plan(
        relays=needed,
        partitions=partitions_for(needed),
        relay_processors=rate * each.relay_us / 1e6 / load,
        database_processors=rate * (each.database_us + costs.publish_us) / 1e6 / load,
        broker_processors=rate * each.broker_us / 1e6 / load,
        wal_megabytes=rate * (each.wal_bytes + costs.publish_wal_bytes) / 1e6,
        statements=rate * each.statements / 1000,
        table_gigabytes=rate * days * DAY * costs.row_bytes / 1e9,
        hottest_key=min(1.0, each.rate * load / rate),
        catch_up_seconds=rate * outage / (needed * each.rate - rate),
    )


def partitions_for(relays: int) -> int:
    """Return an OUTBOX_PARTITIONS that relays share evenly; raise ValueError for too many."""
    partitions = 64
    while relays > partitions or ceil(partitions / relays) * relays > UNEVEN * partitions:
        partitions *= 2
        if partitions > MOST_PARTITIONS:
            raise ValueError(
                f"{relays} relays can't share {MOST_PARTITIONS} partitions evenly; divide the "
                "events among several backends or databases"
            )
    return partitions


def describe(costs: Costs) -> str:
    """Return the points as a table in Markdown, with the rate that the model gives for each."""
    lines = [
        "| relays | events/s | model | relays, µs | database, µs | broker, µs | WAL, bytes "
        "| statements of 1,000 | processors busy | limit |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for point in costs.points:
        lines.append(
            f"| {point.relays} | {point.rate:,.0f} | {rate_of(costs, point.relays):,.0f} "
            f"| {point.relay_us:.1f} | {point.database_us:.1f} | {point.broker_us:.1f} "
            f"| {point.wal_bytes:,.0f} | {point.statements:.0f} | {point.busy:.0%} "
            f"| {point.limit(costs.processors)} |"
        )
    return "\n".join([*lines, *_warning(costs)])


def answer(costs: Costs, options: argparse.Namespace) -> str:
    """Return the plan for the options of the command line, as text."""
    found = plan(
        costs, options.rate, load=options.load, days=options.days, outage=options.outage * 60
    )
    lines = {
        "relay processes": f"{found.relays}",
        "OUTBOX_PARTITIONS": f"{found.partitions}",
        "processors of the relays": f"{found.relay_processors:.1f}",
        "processors of the database": f"{found.database_processors:.1f}",
        "processors of the broker": f"{found.broker_processors:.1f}",
        "database log": f"{found.wal_megabytes:.1f} MB/s",
        "statements of the relays": f"{found.statements:,.0f}/s",
        "table and indexes": f"{found.table_gigabytes:,.0f} GB for {options.days:g} days",
        "largest share of one key": f"{found.hottest_key:.0%}",
        "backlog of an outage": (
            f"{found.catch_up_seconds / 60:.0f} min after {options.outage:g} min"
        ),
    }
    rows = [f"{name + ':':<28}{value}" for name, value in lines.items()]
    return "\n".join([*rows, *_warning(costs)])


def _warning(costs: Costs) -> list[str]:
    return ["", costs.warning] if costs.warning else []


def with_figures(page: str, costs: Costs) -> str:
    """Return a page with its table of costs, and the output of its commands, made from costs."""
    page = between(page, "costs", f"\n{describe(costs)}\n")
    page = between(page, "machine", costs.machine)
    return _COMMAND.sub(lambda found: f"{found[1]}{_output(found[2], costs)}\n{found[3]}", page)


def _output(words: str, costs: Costs) -> str:
    return answer(costs, _parser().parse_args(words.split()))


def main(words: Sequence[str]) -> None:
    """Print what a rate needs."""
    parser = _parser()
    options = parser.parse_args(words)
    try:
        print(answer(load(options.costs), options))
    except (OSError, ValueError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks capacity",
        description="Print what a rate needs, computed from measured costs.",
    )
    parser.add_argument("--rate", type=_positive, required=True, help="events a second")
    parser.add_argument(
        "--load", type=_share, default=0.6, help="share of the capacity to be used (0.6)"
    )
    parser.add_argument(
        "--days", type=_positive, default=7.0, help="days to keep delivered events (7)"
    )
    parser.add_argument("--outage", type=_positive, default=10.0, help="minutes of an outage (10)")
    parser.add_argument("--costs", type=Path, default=COSTS, help="file of measured costs")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, not {text}")
    return value
