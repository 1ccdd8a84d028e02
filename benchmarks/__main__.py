"""Measure and print a table or JSON: `python -m benchmarks [NAME ...] [--json]`.

`python -m benchmarks costs` measures what an event costs with one to six relays, and writes
`benchmarks/costs.json` and the figures in `docs/explanation/capacity.md`.
`python -m benchmarks capacity --rate N` computes what a rate needs from these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

import django

django.setup()

# These import models, which need the setup above.
from benchmarks import (
    blocked,
    brokers,
    bulk,
    capacity,
    consuming,
    costs,
    databases,
    draining,
    handling,
    kafka_connect,
    outbox,
    publishing,
    receiving,
    scaling,
    waiting,
)
from benchmarks.measure import Figure
from benchmarks.table import as_table, write_page

BENCHMARKS: dict[str, Callable[[int, int], list[Figure]]] = {
    "relay": draining.relay,
    "latency": waiting.latency,
    "latency-of-fence": waiting.latency_of_fence,
    "publish": publishing.publish,
    "receive": receiving.receive,
    "consume": consuming.consume,
    "two-services": consuming.two_services,
    "publish-parts": publishing.parts,
    "bulk": bulk.bulk,
    "hotkey": draining.hotkey,
    "never-analysed": draining.never_analysed,
    "held-xmin": draining.held_xmin,
    "backlog": draining.backlog,
    "scheduled": draining.scheduled,
    "idle": waiting.idle,
    "scale": scaling.scale,
    "blocked": blocked.blocked,
    "databases": databases.databases,
    "brokers": brokers.brokers,
    "kafka": kafka_connect.kafka_connect_beside_relay,
    "handlers": handling.handlers,
}


def main() -> int:
    """Run the benchmarks of the command line."""
    if sys.argv[1:2] == ["capacity"]:
        capacity.main(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--runs", type=int, default=5, help="runs of each benchmark (5)")
    parser.add_argument("--events", type=int, default=100_000, help="events in a backlog (100,000)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the table into a page of the docs"
    )
    options = parser.parse_args()
    unknown = set(options.names) - BENCHMARKS.keys() - {"costs"}
    if unknown:
        parser.error(
            f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}"
        )
    outbox.prepare()
    if options.names == ["costs"]:
        found = costs.measure(options.events)
        outbox.empty()
        found.save(capacity.COSTS)
        page = capacity.with_figures(capacity.PAGE.read_text(), found)
        capacity.PAGE.write_text(page)
        print(capacity.describe(found))
        return 0
    figures: list[Figure] = []
    for name in options.names or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with redirect_stdout(sys.stderr):  # commands print there what they do
            measured = BENCHMARKS[name](options.runs, options.events)
        figures += measured
        print(as_table(measured), file=sys.stderr, flush=True)
    outbox.empty()
    print(
        json.dumps([f.as_dict() for f in figures], indent=2) if options.json else as_table(figures)
    )
    if options.write:
        write_page(options.write, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
