"""How PostgreSQL carries a relay's statements out, when its statistics are of an empty outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from django_broadcaster.models import OutboxEvent
from django_broadcaster.querysets import RelayRows
from tests.support.archives import grow_old
from tests.support.events import publish_many

By = Callable[[RelayRows, list[int]], object]

BY_ID: dict[str, By] = {
    "fetch": lambda rows, ids: rows.fetch_these(range(64), ids),
    "published": lambda rows, ids: rows.published(ids, keep=True),
    "deleted": lambda rows, ids: rows.published(ids, keep=False),
    "retry": lambda rows, ids: rows.retry([(row_id, 1.0, "busy", 1) for row_id in ids]),
    "bury": lambda rows, ids: rows.bury([(row_id, "no") for row_id in ids]),
    "expire": lambda rows, ids: rows.expire(ids),
    "block": lambda rows, ids: rows.block(ids),
}
"""The statements that are given ids."""


@pytest.fixture
def backlog(committing: None) -> Iterator[list[int]]:
    """A backlog that came after the statistics were taken, when all was delivered; its ids."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    publish_many(2000, "default", keys=10)
    grow_old("default")
    with connections["default"].cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {OutboxEvent._meta.db_table}")
    publish_many(500, "default", keys=10)
    pending = OutboxEvent.objects.filter(status="pending").order_by("id")
    return list(pending.values_list("id", flat=True))


def test_rows_that_are_named_are_looked_up(backlog: list[int]) -> None:
    """No statement reads the index of all that is pending for a batch whose ids it is given."""
    plans: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        execute(f"EXPLAIN {sql}", params, many, context)
        plans.append("\n".join(line for (line,) in context["cursor"].fetchall()))
        return execute(sql, params, many, context)

    rows = RelayRows("default", "default", 0)  # without a lease: nothing is changed
    with connections["default"].execute_wrapper(explain):
        for act in BY_ID.values():
            act(rows, backlog[:10])
    assert len(plans) == len(BY_ID)
    for name, plan in zip(BY_ID, plans, strict=True):
        assert "outboxevent_pkey" in plan, f"{name}: {plan}"
        assert "broadcaster_pending" not in plan, f"{name}: {plan}"
