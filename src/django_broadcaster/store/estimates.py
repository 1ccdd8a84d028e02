"""Estimates of numbers of rows that would take too long to count."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from django.db import connections

from django_broadcaster.models import OutboxEvent

from .overview import Overview


class Count(NamedTuple):
    """A number of rows: exact, the database's estimate, or a minimum."""

    number: int
    kind: Literal["exact", "estimate", "at least"]


def count_or_estimate(using: str, overview: Overview, status: str) -> Count:
    """Return the number of events in a status.

    If the overview stopped counting, the number is the planner's estimate, whose statistics may be
    old. If the estimate is lower than the count, or on SQLite, which has no estimates, the number
    is the count as a minimum.
    """
    counted: int = getattr(overview, status)
    if status not in overview.at_least:
        return Count(counted, "exact")
    events = OutboxEvent._base_manager.using(using)
    estimate = _planned(events.filter(status=status, publisher_backend=overview.backend))
    return Count(estimate, "estimate") if estimate > counted else Count(counted, "at least")


def _planned(rows: Any) -> int:
    """Return the planner's estimate of a query's rows; 0 if there is none."""
    vendor = connections[rows.db].vendor
    if vendor == "sqlite":
        return 0
    plan: Any = json.loads(rows.explain(format="json"))
    if vendor == "postgresql":
        return int(plan[0]["Plan"]["Plan Rows"])
    # MariaDB and MySQL return text, which Django encodes as JSON a second time.
    block = json.loads(plan)["query_block"]
    table = block["nested_loop"][0]["table"] if "nested_loop" in block else block["table"]
    return int(table.get("rows") or table.get("rows_examined_per_scan") or 0)
