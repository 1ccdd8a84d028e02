"""Kill the workers of busy services, then count the events that arrived.

    python example/demo.py                                SQLite, handlers in the relay
    python example/demo.py --db postgres --broker redis   two services, over a broker
    python example/demo.py --serve                        run the services instead

Exits with status 0 if every guarantee was kept, 1 if one was broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where `tools` is

from crashtest.places import NoServer
from crashtest.play import BROKERS, DATABASES, ORDERS, Options, run, services_of
from crashtest.serve import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo or the shop; return the exit status."""
    chosen = parse(arguments)
    with_billing = chosen.broker != "local"
    settings = "crashtest.settings" if with_billing else "shop_site.settings"
    os.environ.update(DJANGO_SETTINGS_MODULE=settings, SHOP_BROKER=chosen.broker, SHOP_DB=chosen.db)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        if chosen.serve:
            return serve(services_of(chosen.broker), chosen.db, chosen.broker, chosen.port)
        orders = getattr(chosen, "orders", ORDERS // 4 if with_billing else ORDERS)
        return run(Options(chosen.db, chosen.broker, orders, chosen.writers, chosen.batch_size))
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0 if chosen.serve else 130  # an interrupted demo has no result
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Kill the workers of busy services, then count the events that arrived.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--db", choices=DATABASES, default="sqlite", help="kind of the databases")
    parser.add_argument("--broker", choices=BROKERS, default="local", help="broker of the events")
    parser.add_argument(
        "--orders",
        type=whole_number,
        metavar="N",
        default=argparse.SUPPRESS,
        help=f"number of orders (default: {ORDERS}, a quarter of it with a broker)",
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
    parser.add_argument("--serve", action="store_true", help="run the services instead of the demo")
    parser.add_argument(
        "--port",
        type=whole_number,
        default=8000,
        metavar="N",
        help="port of the shop",
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
