"""The output of commands: tables, JSON, and progress."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

Row = Mapping[str, Any]

_CONTROLS = re.compile("[\x7f-\x9f]")
"""Control characters that JSON does not escape."""

BAR_WIDTH = 30
LINE_SECONDS = 5.0
"""Seconds between lines of progress if the output is not a terminal."""


def as_json(value: Any, *, on_one_line: bool = False) -> str:
    """Return a value as JSON, with all control characters escaped."""
    indent = None if on_one_line else 2
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Return a text with its control characters escaped.

    An error may quote any answer of a broker or a receiver, line breaks included.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def as_table(rows: Sequence[Row]) -> str:
    """Return rows of the same columns as a table; align numbers right."""
    if not rows:
        return "(none)"
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    right = [all(isinstance(row[name], int | float) for row in rows) for name in names]
    return "\n".join(_line(line, widths, right) for line in [names, *cells])


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S%z}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def whoami() -> str:
    """Return the account and the host, as in `deploy@web1`."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for the account
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


class Progress:
    """Shows progress: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, stream: TextIO, what: str, total: int) -> None:
        self._stream = stream
        self._what = what
        self._total = total
        self._done = 0
        self._is_terminal = stream.isatty()
        self._next_at = time.monotonic() + LINE_SECONDS

    def advance(self, count: int) -> None:
        """Add to the events that are done."""
        self._done += count
        if self._is_terminal:
            filled = BAR_WIDTH * self._done // max(self._total, self._done, 1)
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._stream.write(f"\r{self._what} [{bar}] {self._done:,} of {self._total:,}")
            self._stream.flush()
        elif time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + LINE_SECONDS
            self._stream.write(f"{self._what}: {self._done:,} of {self._total:,}\n")
            self._stream.flush()  # pipes and files are buffered

    def end(self) -> None:
        """End the line of the bar."""
        if self._is_terminal and self._done:
            self._stream.write("\n")
