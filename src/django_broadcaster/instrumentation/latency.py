"""The histogram of the delivery latency, for every kind of metrics.

A module of its own, because OpenTelemetry needs it before Django is set up.
"""

from typing import Final

MEANING: Final = "Time from due to delivered: one batch a second of each relay and backend."

BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
"""Seconds: from a relay that is notified to an outage of an hour."""
