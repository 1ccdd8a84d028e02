"""Benchmarks of a relay some of whose keys fail; the others must stay at full speed."""

from __future__ import annotations

from collections.abc import Sequence

from django.conf import settings
from django.db import connection
from django.test.utils import override_settings

from django_broadcaster.backends import Message, Outcome
from django_broadcaster.backends.redis import RedisStreamBackend
from django_broadcaster.exceptions import Held, TransientError

from . import outbox, relays
from .measure import Figure, compare

FAILING = "key-500"


class OneKeyFails(RedisStreamBackend):
    """Delivers all events except those of one key."""

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send the other keys; fail the first event of the key and hold its later ones."""
        good = [message for message in messages if message.partition_key != FAILING]
        sent = iter(super().send_batch(good))
        outcomes: list[Outcome] = []
        failed = False
        for message in messages:
            if message.partition_key != FAILING:
                outcomes.append(next(sent))
            else:
                outcomes.append(
                    Held("after the failed event") if failed else TransientError("always fails")
                )
                failed = True
        return outcomes


def blocked(runs: int, events: int) -> list[Figure]:
    """Compare a relay with 1 failing key of 1,000, and with 10,000 keys in retry, with neither."""
    return [
        compare(
            "1 key of 1,000 failing",
            lambda: _one_fails(events),
            lambda: _drain(events),
            wanted=">= 0.95",
            runs=runs,
        ),
        compare(
            "10,000 keys in retry",
            lambda: _drain(events, waiting=10_000),
            lambda: _drain(events),
            wanted=">= 0.95",
            runs=runs,
        ),
    ]


def _drain(events: int, waiting: int = 0) -> float:
    outbox.empty()
    relays.empty_stream()
    if waiting:
        _add_waiting(waiting)
    outbox.fill(events)
    return relays.drain()


def _one_fails(events: int) -> float:
    """Return the rate at which the events of the other keys are delivered.

    The retry delay is an hour, so that the drain ends before the failed event is due again.
    """
    publishers = {
        "default": {
            "BACKEND": "benchmarks.blocked.OneKeyFails",
            "OPTIONS": settings.OUTBOX_PUBLISHERS["default"]["OPTIONS"],
            "RETRY": {"initial": 3600.0, "maximum": 3600.0},
        }
    }
    outbox.empty()
    relays.empty_stream()
    outbox.fill(events)
    with override_settings(OUTBOX_PUBLISHERS=publishers):
        return relays.drain()


def _add_waiting(count: int) -> None:
    """Add one event in retry for each of `count` other keys, due in an hour."""
    outbox.fill(count, keys=count, maintain=False)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_broadcaster_outboxevent SET status = 'retry', "
            "partition_key = 'waiting-' || id, scheduled_at = now() + interval '1 hour'"
        )
