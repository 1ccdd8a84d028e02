"""The output: lines of text, one line of progress that changes, and a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

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

    def progress(self, numbers: Mapping[str, int]) -> None:
        """Show the progress: ten times a second on a terminal, else once a second."""
        now = time.monotonic()
        if now < self._next_progress:
            return
        self._next_progress = now + (0.1 if self._terminal else 1.0)
        shown = "   ".join(f"{label} {number:>6,}" for label, number in numbers.items())
        line = f"{self._clock()}  {shown}"
        print(f"\r\x1b[K{line}" if self._terminal else line, end=self._end, flush=True)

    @property
    def _end(self) -> str:
        return "" if self._terminal else "\n"

    def _clock(self) -> str:
        return f"{time.monotonic() - self._begin:5.1f} s"

    def _erase(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="")


def table(verdicts: Mapping[str, Verdict], rolled_back: int) -> str:
    """Return the verdicts as the columns of a table, with titles if there are several.

    `rolled_back` counts the events of rolled-back transactions.
    """
    columns = list(verdicts.values())
    rows = [
        _row("committed", [each.committed for each in columns]),
        _row("delivered", [each.delivered for each in columns]),
        _row("missing", [each.missing for each in columns], "ok"),
        _row(
            "from rolled-back transactions",
            [each.rolled_back for each in columns],
            f"ok, of {rolled_back:,} published in them" if len(columns) == 1 else "ok",
        ),
        _row(
            "duplicates",
            [each.duplicates for each in columns],
            "ok, the inbox drops what is sent twice" if len(columns) == 1 else "ok",
        ),
        _row("out of order", [each.out_of_order for each in columns], "ok"),
    ]
    if any(each.unknown for each in columns):
        rows.append(_row("never published like this", [each.unknown for each in columns], "ok"))
    if len(columns) > 1:
        rows.insert(0, _row("", list(verdicts)))
    rule = "  " + "-" * 64
    return "\n".join([rule, *rows, rule])


def _row(label: str, cells: Sequence[int | str], mark: str = "") -> str:
    """Return a row; `mark` is for numbers that have to be zero, and are."""
    text = "".join(f"{cell:>9,}" if isinstance(cell, int) else f"{cell:>9}" for cell in cells)
    if mark and any(cells):
        mark = "BROKEN"
    return f"  {label:<29}{text}   {mark}".rstrip()
