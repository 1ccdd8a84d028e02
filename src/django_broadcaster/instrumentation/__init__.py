"""What looks on while events are delivered: listeners only, which can break nothing.

`prometheus` has the metrics of a relay and of the outbox, `opentelemetry` those and traces. Each
needs its extra, and is imported only when it is asked for. `outbox` is what both show of the
outbox.
"""
