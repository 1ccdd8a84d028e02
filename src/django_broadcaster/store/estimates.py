"""How many rows there are where counting them would take too long."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from django.db import connections

from django_broadcaster.models import OutboxEvent

from .overview import Overview


class Count(NamedTuple):
    """A number of rows: exact, the database's own estimate, or what there is at least."""

    number: int
    kind: Literal["exact", "estimate", "at least"]


def count_or_estimate(using: str, overview: Overview, status: str) -> Count:
    """Return the events in a status: as the overview has counted them, or an estimate.

    Where the overview stopped it is the planner's estimate, which comes from statistics that may
    be old. It is not used where it says less than has been counted, nor on SQLite, which estimates
    nothing.
    """
    counted: int = getattr(overview, status)
    if status not in overview.at_least:
        return Count(counted, "exact")
    events = OutboxEvent._base_manager.using(using)
    estimate = _planned(events.filter(status=status, publisher_backend=overview.backend))
    return Count(estimate, "estimate") if estimate > counted else Count(counted, "at least")


def _planned(rows: Any) -> int:
    """Return the rows that the planner expects of a query; 0 if it does not say."""
    vendor = connections[rows.db].vendor
    if vendor == "sqlite":
        return 0
    plan: Any = json.loads(rows.explain(format="json"))
    if vendor == "postgresql":
        return int(plan[0]["Plan"]["Plan Rows"])
    # MariaDB and MySQL give a text, which Django takes for a value and encodes once more.
    block = json.loads(plan)["query_block"]
    table = block["nested_loop"][0]["table"] if "nested_loop" in block else block["table"]
    return int(table.get("rows") or table.get("rows_examined_per_scan") or 0)
