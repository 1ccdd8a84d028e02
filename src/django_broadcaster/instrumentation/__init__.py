"""What looks on while events are delivered: listeners only, which can break nothing.

`prometheus` has the metrics of a relay and of the outbox, `opentelemetry` those and traces. Each
needs its extra, and is imported only when it is asked for. `outbox` is what both show of the
outbox.

`health` judges the outbox. `serving`, `health_file` and `systemd` are the ways in which the health
of a relay is told, `reporting` is the thread that tells it, and `watching` puts them together.
"""
