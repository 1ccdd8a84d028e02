"""Metrics, traces and health checks. Delivery does not depend on any of them.

`prometheus` has the metrics of a relay and of the outbox, `opentelemetry` has metrics and traces.
Each needs its extra and is imported on request. `gauges` has the gauges of both.

`health` checks the outbox. `http_server`, `health_file` and `systemd` publish a relay's health,
`reporter` is the thread that calls them, and `monitors` starts them for `outbox_worker`.
"""
