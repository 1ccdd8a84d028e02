"""The output: lines of text, one line of progress that changes, and a table."""

from __future__ import annotations

import sys
import time

from .judge import Verdict


class Screen:
    """Writes to standard output. On a terminal, the line of progress is overwritten."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._next_progress = 0.0

    def say(self, text: str) -> None:
        """Write a line with the time."""
        self._erase()
        print(f"{self._clock()}  {text}", flush=True)

    def plain(self, text: str) -> None:
        """Write a line without the time."""
        self._erase()
        print(text, flush=True)

    def progress(self, committed: int, arrived: int, backlog: int) -> None:
        """Show the progress: ten times a second on a terminal, else once a second."""
        now = time.monotonic()
        if now < self._next_progress:
            return
        self._next_progress = now + (0.1 if self._terminal else 1.0)
        line = (
            f"{self._clock()}  committed {committed:>7,}"
            f"   arrived {arrived:>7,}   backlog {backlog:>6,}"
        )
        print(f"\r\x1b[K{line}" if self._terminal else line, end=self._end, flush=True)

    @property
    def _end(self) -> str:
        return "" if self._terminal else "\n"

    def _clock(self) -> str:
        return f"{time.monotonic() - self._begin:5.1f} s"

    def _erase(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="")


def table(verdict: Verdict, rolled_back: int) -> str:
    """Return the verdict as a table; `rolled_back` counts events of rolled-back transactions."""
    rows = [
        ("committed", verdict.committed, ""),
        ("delivered", verdict.delivered, ""),
        ("missing", verdict.missing, _mark(verdict.missing)),
        (
            "from rolled-back transactions",
            verdict.rolled_back,
            _mark(verdict.rolled_back, note=f"of {rolled_back:,} published in them"),
        ),
        (
            "duplicates",
            verdict.duplicates,
            _mark(verdict.duplicates, verdict.duplicates_allowed, _allowance(verdict)),
        ),
        ("out of order", verdict.out_of_order, _mark(verdict.out_of_order)),
    ]
    if verdict.unknown:
        rows.append(("never published like this", verdict.unknown, _mark(verdict.unknown)))
    rule = "  " + "-" * 64
    lines = [f"  {label:<30}{count:>8,}   {mark}".rstrip() for label, count, mark in rows]
    return "\n".join([rule, *lines, rule])


def _mark(count: int, allowed: int = 0, note: str = "") -> str:
    mark = "ok" if count <= allowed else "BROKEN"
    return f"{mark}, {note}" if note else mark


def _allowance(verdict: Verdict) -> str:
    if verdict.duplicates_allowed:
        return f"the kill may repeat a batch of {verdict.duplicates_allowed}"
    return "the inbox drops what is sent twice"
