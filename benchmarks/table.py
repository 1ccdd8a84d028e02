"""The figures as a table in Markdown and as a page of the docs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from django import get_version
from django.db import connection

from .measure import Figure

_PAGE = """# Benchmarks

`make bench` made these figures on two cores: {machine}.

Every ratio is the median of the ratios of several runs, in which the relay and a bare loop took
turns. Another machine gives other absolute figures. The bare loops are in `benchmarks/bare.py`.
They do the same work with the clients alone and keep no promise. `backlog`, `scheduled`,
`never-analysed`, `held-xmin` and the last lines compare a relay under load with itself.

{table}
"""


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


def write_page(path: str, figures: Sequence[Figure]) -> None:
    """Write the page of the docs with the table."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        server = cursor.fetchone()[0].split()[0]
    machine = (
        f"Python {platform.python_version()}, Django {get_version()}, PostgreSQL {server}, "
        f"{platform.machine()}"
    )
    Path(path).write_text(_PAGE.format(machine=machine, table=as_table(figures)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
