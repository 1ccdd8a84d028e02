"""Run the demo, and print its result."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .judge import Verdict, judge
from .opening import open_shop
from .places import fresh_broker, fresh_database, temporary_folder
from .relay import RelayFailed, RelayProcess
from .screen import Screen, table
from .writers import Diary, WriterFailed, Writers

DATABASES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
BROKERS = {"local": "its handlers", "redis": "a Redis stream"}
EVENTS_PER_ORDER = 3  # placed, paid, shipped


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    db: str
    broker: str
    orders: int
    writers: int
    batch_size: int

    @property
    def duplicates_allowed(self) -> int:
        """One batch for the kill; none for handlers, whose inbox drops duplicates."""
        return self.batch_size if self.broker == "redis" else 0


def run(options: Options) -> int:
    """Run the demo on a new database and destination; return the exit status."""
    screen = Screen()
    screen.plain(introduction(options))
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        os.environ.update(stack.enter_context(fresh_database(options.db, folder)))
        os.environ.update(stack.enter_context(fresh_broker(options.broker)))
        stack.enter_context(open_shop())
        try:
            return play(options, folder, screen)
        except (RelayFailed, WriterFailed) as error:
            screen.plain(f"\nThe demo failed: {error}")
            return 1


def introduction(options: Options) -> str:
    """Return the description of the demo."""
    return (
        f"A shop on {DATABASES[options.db]}. {options.writers} processes place, pay and ship "
        f"{options.orders:,} orders, with an event in\neach transaction; one in ten is rolled "
        f"back. A relay delivers to {BROKERS[options.broker]},\nis killed and replaced. "
        "Then the events that arrived are compared with\nthe committed ones.\n"
    )


def play(options: Options, folder: Path, screen: Screen) -> int:
    """Run the steps and print the table; return the exit status."""
    from .arrivals import destination
    from .drama import KILL_AT, Drama, dead_letters

    where = destination()
    relay = RelayProcess(folder / "relay.log", "--batch-size", str(options.batch_size))
    with relay, Writers(options.orders, options.writers) as writers:
        drama = Drama(relay, writers, where, screen, options.batch_size)
        drama.deliver_until(int(KILL_AT * options.orders * EVENTS_PER_ORDER))
        drama.kill_at_work()
        drama.replace_relay()
        drama.deliver_all()
        diary = writers.diary()
    verdict = judge(
        diary.committed,
        diary.rolled_back,
        where.read(),
        duplicates_allowed=options.duplicates_allowed,
    )
    screen.plain("\n" + conclusion(verdict, diary, dead_letters()))
    return 0 if verdict.kept else 1


def conclusion(verdict: Verdict, diary: Diary, dead_letters: list[str]) -> str:
    """Return the table and the conclusion, with the errors of dead letters."""
    meaning = "Every promise was kept." if verdict.kept else "A promise was BROKEN, see the table."
    return "\n".join([table(verdict, len(diary.rolled_back)), *dead_letters, meaning])
