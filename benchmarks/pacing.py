"""Publishing at a steady rate, and the delays of what arrives.

It imports models, which the processes of the bare loops do not load.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from django_broadcaster.publishers import publisher


def publish_steadily(rate: float, count: int) -> dict[str, float]:
    """Publish so many events a second; return when each publish call returned, by event id."""
    committed: dict[str, float] = {}
    began = time.perf_counter() + 0.2
    for number in range(count):
        while (left := began + number / rate - time.perf_counter()) > 0:
            time.sleep(left)
        event = publisher.publish_event(
            "order.placed", "/bench/orders", {"n": number}, partition_key=f"key-{number % 50}"
        )
        committed[event.event_id] = time.perf_counter()
    return committed


def percentiles(
    committed: Mapping[str, float], arrived: Mapping[str, float]
) -> tuple[float, float]:
    """Return p50 and p99 of the time from the commit to the arrival, in milliseconds."""
    delays = sorted((arrived[event_id] - moment) * 1000 for event_id, moment in committed.items())
    return delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
