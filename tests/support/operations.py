"""Operations on events, worked on a step at a time."""

from __future__ import annotations

from typing import Any

import pytest

from django_broadcaster.models import OutboxEvent, OutboxOperation
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.relay.operations import Operations
from django_broadcaster.store import request_operation

STATES = {
    "a1": "pending",
    "b1": "scheduled",
    "c1": "retry",
    "d1": "blocked",
    "e1": "published",
    "f1": "failed",
    "g1": "cancelled",
}
"""The names of seven events, one in each state."""

AFTER: dict[str, dict[str, str | None]] = {
    "retry": {"c1": "retry", "f1": "scheduled"},
    "cancel": dict.fromkeys(("a1", "b1", "c1", "d1", "f1"), "cancelled"),
    "replay": dict.fromkeys(("e1", "f1", "g1"), "scheduled"),
    "purge": dict.fromkeys(("e1", "f1", "g1")),
}
"""Where each of them stands once it was moved; None: it is gone. The others stay."""


def request(kind: str, using: str, by: str = "Ada", **conditions: Any) -> OutboxOperation:
    """Request one, for all events or those of the conditions."""
    selection = EventSelection(**conditions)
    events = OutboxEvent.objects.using(using)
    return request_operation(events, kind, selection, by=by)


def step(relay: Operations) -> bool:
    """Let a relay move a chunk, as if it had rested; return whether it could."""
    relay._next_at = 0.0
    relay.run()
    return relay.is_moving


def work_off(using: str) -> None:
    """Let a relay move all that there is to move."""
    relay = Operations(using)
    for _ in range(1000):
        if not step(relay):
            return
    pytest.fail("there is work without end")
