"""Kill the relay of a busy shop, then count what arrived.

    python example/demo.py                                SQLite, handlers in the relay
    python example/demo.py --db postgres --broker redis
    python example/demo.py --serve                        leave the shop running instead

Exits with status 0 if every promise was kept, 1 if one was broken.
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
    """Run what the command line asks for; return the exit status."""
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
        return 0 if chosen.serve else 130  # a demo that was cut off has shown nothing
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Kill the relay of a busy shop, then count what arrived.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--db", choices=DATABASES, default="sqlite", help="where the shop stands")
    parser.add_argument("--broker", choices=BROKERS, default="local", help="where events go")
    parser.add_argument("--orders", type=whole_number, default=2000, metavar="N", help="to place")
    parser.add_argument("--writers", type=whole_number, default=4, metavar="N", help="processes")
    parser.add_argument(
        "--batch-size",
        type=whole_number,
        default=100,
        metavar="N",
        help="events that the relay sends at once",
    )
    parser.add_argument("--serve", action="store_true", help="leave the shop running instead")
    parser.add_argument("--port", type=whole_number, default=8000, metavar="N", help="of --serve")
    return parser.parse_args(arguments)


def whole_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
