"""Run the demo, and print its result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .destinations import TITLES
from .judge import Verdict, judge
from .opening import open_databases
from .places import fresh_broker, fresh_database, temporary_folder
from .screen import Screen, table
from .worker import Worker, WorkerFailed
from .writers import Diary, WriterFailed, Writers

DATABASES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
BROKERS = ("local", *TITLES)
ORDERS = 2000
EVENTS_PER_ORDER = 3  # placed, paid, shipped
PAUSE = 0.05  # seconds between steps, so that writers are at work until all has been killed


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    db: str
    broker: str
    orders: int
    writers: int
    batch_size: int

    @property
    def events(self) -> int:
        """The number of events that the shop will publish."""
        return self.orders * EVENTS_PER_ORDER


def run(options: Options) -> int:
    """Run the demo on new databases and destinations; return the exit status."""
    screen = Screen()
    screen.plain(introduction(options))
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        for service in services_of(options.broker):
            os.environ.update(stack.enter_context(fresh_database(options.db, service, folder)))
        os.environ.update(stack.enter_context(fresh_broker(options.broker)))
        stack.enter_context(open_databases())
        try:
            return play(options, folder, screen)
        except (WorkerFailed, WriterFailed) as error:
            screen.plain(f"\nThe demo failed: {error}")
            return 1


def services_of(broker: str) -> list[str]:
    """Return the services that run: without a broker, the shop alone."""
    return ["shop"] if broker == "local" else ["shop", "billing"]


def introduction(options: Options) -> str:
    """Return the description of the demo."""
    orders = (
        f"{options.writers} processes place, pay and ship {options.orders:,} orders, with an event "
        "in\neach transaction; one in ten is rolled back."
    )
    if options.broker == "local":
        return (
            f"A shop on {DATABASES[options.db]}. {orders} A relay delivers to its handlers,\n"
            "is killed and replaced. "
            "Then the events that arrived are compared with\nthe committed ones.\n"
        )
    broker = TITLES[options.broker]
    return (
        f"A shop on {DATABASES[options.db]}. {orders} They go through {broker}\n"
        "to billing, a service with a database of its own, which bills each order. The events\n"
        "of its invoices go back to the shop. The workers of both are killed and replaced.\n"
        f"{broker} is restarted, if it was started for this demo. Then what arrived is compared\n"
        "with what was committed.\n"
    )


def play(options: Options, folder: Path, screen: Screen) -> int:
    """Run the steps and print the table; return the exit status."""
    from .drama import Drama
    from .services import the_billing, the_shop

    workers = [
        Worker(name, folder, "--batch-size", str(options.batch_size))
        for name in services_of(options.broker)
    ]
    shop = the_shop(workers[0], options.broker)
    billing = the_billing(workers[1]) if len(workers) > 1 else None
    with ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
        pause = PAUSE if billing else 0.0
        writers = stack.enter_context(Writers(options.orders, options.writers, pause))
        drama = Drama(shop, billing, writers, screen, options.batch_size)
        if billing:
            drama.deliver_until(int(0.1 * options.events))
            drama.kill_publishing()
        drama.deliver_until(int(0.3 * options.events))
        drama.kill_handling()
        if billing:
            drama.deliver_until(int(0.6 * options.events))
            drama.restart_broker(options.broker)
        drama.deliver_all()
        diary = writers.diary()
    verdicts = verdicts_of(diary, options.broker)
    dead_letters = [line for each in (shop, billing) if each for line in each.dead_letters()]
    screen.plain("\n" + conclusion(verdicts, diary, dead_letters))
    return 0 if all(verdict.kept for verdict in verdicts.values()) else 1


def verdicts_of(diary: Diary, broker: str) -> dict[str, Verdict]:
    """Compare what arrived with the diary, which the writers kept outside of the databases."""
    from . import services

    undone = [event.id for event in diary.rolled_back]
    handled = judge(diary.committed, undone, services.handled_events(broker))
    if broker == "local":
        return {"events": handled}
    # Each order is to be billed once. Where its first event was rolled back, its key was not used,
    # or by a later order.
    placed = [services.order_of(event.key) for event in diary.committed if event.sequence == 1]
    not_placed = [event.key for event in diary.rolled_back if event.sequence == 1]
    return {
        "handled": handled,
        "billed": judge(placed, not_placed, services.billed_orders()),
        "noted": judge(placed, not_placed, services.noted_orders()),
    }


def conclusion(verdicts: Mapping[str, Verdict], diary: Diary, dead_letters: list[str]) -> str:
    """Return the table and the conclusion, with the errors of dead letters."""
    kept = all(verdict.kept for verdict in verdicts.values())
    meaning = "Every promise was kept." if kept else "A promise was BROKEN, see the table."
    lines = [table(verdicts, len(diary.rolled_back)), *dead_letters, meaning]
    if len(verdicts) > 1:
        rolled_back = (
            f"{len(diary.rolled_back):,} events were published in rolled-back transactions."
        )
        columns = "Events handled by billing, orders billed, invoices noted by the shop:"
        lines = [rolled_back, columns, *lines]
    return "\n".join(lines)
