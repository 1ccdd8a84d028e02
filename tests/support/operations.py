"""Operations in the background: requested, and worked on a step at a time."""

from __future__ import annotations

from typing import Any

import pytest

from django_broadcaster.models import Operation, OutboxEvent
from django_broadcaster.querysets import EventSelection
from django_broadcaster.relay.operations import Operations


def request(kind: str, using: str, by: str = "Ada", **conditions: Any) -> Operation:
    """Request one, for all events or those of the conditions."""
    selection = EventSelection(**conditions)
    events = OutboxEvent.objects.using(using)
    return Operation.objects.using(using).request(events, kind, selection, by=by)


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
