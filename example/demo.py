"""Kill the relay of a busy shop, then count the events that arrived.

    python example/demo.py                                SQLite, handlers in the relay
    python example/demo.py --db postgres --broker redis
    python example/demo.py --serve                        run the shop instead

Exits with status 0 if every guarantee was kept, 1 if one was broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from crashtest.places import NoServer
from crashtest.play import BROKERS, DATABASES, Options, run
from crashtest.serve import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo or the shop; return the exit status."""
    chosen = parse(arguments)
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop_site.settings"
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        if chosen.serve:
            return serve(chosen.db, chosen.broker, chosen.port)
        return run(
            Options(chosen.db, chosen.broker, chosen.orders, chosen.writers, chosen.batch_size)
        )
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0 if chosen.serve else 130  # an interrupted demo has no result
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Kill the relay of a busy shop, then count the events that arrived.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--db", choices=DATABASES, default="sqlite", help="database of the shop")
    parser.add_argument("--broker", choices=BROKERS, default="local", help="broker of its events")
    parser.add_argument(
        "--orders", type=whole_number, default=2000, metavar="N", help="number of orders"
    )
    parser.add_argument(
        "--writers", type=whole_number, default=4, metavar="N", help="processes that place orders"
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number,
        default=100,
        metavar="N",
        help="maximum of events in a batch of the relay",
    )
    parser.add_argument("--serve", action="store_true", help="run the shop instead of the demo")
    parser.add_argument(
        "--port", type=whole_number, default=8000, metavar="N", help="port of the shop"
    )
    return parser.parse_args(arguments)


def whole_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
