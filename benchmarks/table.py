"""The figures as a table in Markdown and in a page of the docs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from django import get_version
from django.db import connection

from .measure import Figure


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| what | ours | beside | unit | ratio | wanted | |", "|---|--:|--:|---|--:|---|---|"]
    for figure in figures:
        mark = {True: "reached", False: "**missed**", None: ""}[figure.reached]
        lines.append(
            f"| {figure.name} | {_number(figure.ours)} | {_number(figure.bare)} | {figure.unit} "
            f"| {figure.ratio:.2f} | {figure.wanted} | {mark} |"
        )
    return "\n".join(lines)


def write_page(path: Path, figures: Sequence[Figure]) -> None:
    """Write the table and the machine into a page of the docs, between its marks."""
    page = between(path.read_text(), "figures", f"\n{as_table(figures)}\n")
    path.write_text(between(page, "machine", machine()))


def between(page: str, name: str, text: str) -> str:
    """Return a page with other text between its two marks of a name.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"the page must have {begin} and {end}")
    return before + begin + text + end + after


def machine() -> str:
    """Return the versions and the kind of the machine, as text."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        server = cursor.fetchone()[0].split()[0]
    return (
        f"Python {platform.python_version()}, Django {get_version()}, PostgreSQL {server}, "
        f"{platform.machine()}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
