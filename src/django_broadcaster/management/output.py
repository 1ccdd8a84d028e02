"""The output of commands: tables, JSON, and progress."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

Row = Mapping[str, Any]

GAP = 2
"""Spaces between two columns."""

LEAST_ROOM = 24
"""The narrowest column that text is wrapped in."""

_NUMBER = re.compile(r"~?\d[\d,]*[+%]?")

_UNPRINTABLE = re.compile("[\x7f-\x9f\ud800-\udfff]")
"""Control characters that JSON does not escape, and lone surrogates, which no output encodes."""

BAR_WIDTH = 30
LINE_SECONDS = 5.0
"""Seconds between lines of progress if the output is not a terminal."""


def as_json(value: Any, *, on_one_line: bool = False) -> str:
    """Return a value as JSON, with control characters and lone surrogates escaped."""
    indent = None if on_one_line else 2
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Return a text with its control characters escaped.

    An error may quote any answer of a broker or a receiver, line breaks included.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


class Bad(str):
    """The text of a cell that needs attention."""

    __slots__ = ()


def as_table(
    rows: Sequence[Row], *, width: int | None = None, bad: Callable[[str], str] = str
) -> str:
    """Return rows of the same columns as a table; align numbers right.

    If the table is too wide, columns without a value are left out. If that is not enough, the last
    column is wrapped, or each row is shown as a list of its own.

    Args:
        rows: The rows, by column. Ids and counts alike are shown as `str` does.
        width: The longest line, None for no limit.
        bad: Returns the text of a `Bad` cell in colour.
    """
    if not rows:
        return "(none)"
    columns = [_Column(name, [row[name] for row in rows], bad) for name in rows[0]]
    if _too_wide(columns, width):
        columns = [each for each in columns if each is columns[0] or not each.is_empty]
    if width is None or not _too_wide(columns, width):
        return "\n".join(_lines(columns))
    room = width - sum(each.width + GAP for each in columns[:-1])
    if room >= LEAST_ROOM and not columns[-1].is_number:
        return "\n".join(_lines(columns, room))
    return "\n\n".join(_as_list(columns, index, width) for index in range(len(rows)))


class _Column:
    """A column of a table: its title and its cells, as text."""

    def __init__(self, name: str, values: Sequence[Any], bad: Callable[[str], str]) -> None:
        self.name = name
        self.cells = [_cell(value) for value in values]
        self.is_empty = set(self.cells) <= {"-", "0"}
        figures = set(self.cells) - {"-"}
        self.is_number = bool(figures) and all(_NUMBER.fullmatch(each) for each in figures)
        self.width = max(map(len, [name, *self.cells]))
        self._styles = [bad if isinstance(value, Bad) else str for value in values]

    def line(self, index: int | None) -> str:
        """Return a cell, or the title for None, padded."""
        text = self.name if index is None else self.cells[index]
        padded = text.rjust(self.width) if self.is_number else text.ljust(self.width)
        return padded if index is None else self.styled(index, padded)

    def styled(self, index: int, text: str) -> str:
        """Return a text, which is one of a cell, in the colour of the cell."""
        return self._styles[index](text.rstrip()) + " " * (len(text) - len(text.rstrip()))


def _too_wide(columns: Sequence[_Column], width: int | None) -> bool:
    return width is not None and sum(each.width + GAP for each in columns) - GAP > width


def _lines(columns: Sequence[_Column], room: int | None = None) -> Iterator[str]:
    """Yield the lines of a table; wrap the last column at `room` characters."""
    *others, last = columns
    gap = " " * GAP
    for index in [None, *range(len(last.cells))]:
        start = gap.join([*(each.line(index) for each in others), ""])
        if room is None or index is None:
            yield f"{start}{last.line(index)}".rstrip()
            continue
        indent = " " * sum(each.width + GAP for each in others)
        for text in _wrapped(last.cells[index], room):
            yield f"{start}{last.styled(index, text)}".rstrip()
            start = indent


def _as_list(columns: Sequence[_Column], index: int, width: int) -> str:
    """Return a row as lines of a title and a value."""
    names = max(len(each.name) for each in columns) + GAP
    lines = []
    for each in columns:
        start = each.name.ljust(names)
        for text in _wrapped(each.cells[index], max(width - names, LEAST_ROOM)):
            lines.append(f"{start}{each.styled(index, text)}")
            start = " " * names
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [text]


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S%z}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


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
