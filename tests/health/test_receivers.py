"""The health of a process with receivers."""

from __future__ import annotations

import json
from dataclasses import replace

from django_broadcaster.relay.health import ReceiverState, RelayState, judge

RECEIVER = ReceiverState(
    consumer="orders",
    doing="waiting for messages",
    silence=0.0,
    has_died=False,
    has_ended=False,
    lease_left=10.0,
    error="",
    lag=3,
    lag_grows=False,
)


def state(receiver: ReceiverState) -> RelayState:
    """Return the state of a process with one receiver."""
    return RelayState(
        process=1,
        is_stopping=False,
        pacemaker_has_died=False,
        pacemaker_silence=0.0,
        loops=(),
        receivers=(receiver,),
    )


def test_broker_that_cannot_be_read_is_reported_without_its_error() -> None:
    """The view is unauthenticated, and the error may name the broker and its user."""
    assert judge(state(RECEIVER), 60).is_ready
    error = "redis://billing@redis.internal: WRONGPASS"
    health = judge(state(replace(RECEIVER, error=error)), 60)
    assert health.is_live
    assert [check.name for check in health.failing] == ["broker"]
    assert "redis" not in json.dumps(health.as_dict())
