"""Names of tables and columns, shared SQL, and functions that run statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections

PREFIX = "django_broadcaster_"
EVENTS = "django_broadcaster_outboxevent"
RELAYS = "django_broadcaster_outboxrelay"
PARTITIONS = "django_broadcaster_outboxpartition"
JSON_COLUMNS = ("extensions", "data", "publisher_config")
BACKENDS = "django_broadcaster_outboxbackendstate"
ATTEMPTS = "django_broadcaster_outboxattempt"
ARCHIVE = "django_broadcaster_outboxarchivedevent"
OPERATIONS = "django_broadcaster_outboxoperation"
SAMPLES = "django_broadcaster_outboxsample"
RECEIVERS = "django_broadcaster_outboxreceiver"

NOW = {
    "postgresql": "statement_timestamp()",
    "mysql": "UTC_TIMESTAMP(6)",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
"""The database's clock in UTC, in statements with parameters."""

FREE_PARTITIONS = (
    f"SELECT COUNT(*) FROM {PARTITIONS} WHERE COALESCE(backend, '') = %s AND number < %s "
    "AND COALESCE(relay_id, 0) = 0"
)
"""The number of a backend's partitions, below OUTBOX_PARTITIONS, without a relay.

COALESCE keeps PostgreSQL from using an index of this small table. Until a vacuum, its indexes have
every earlier version of every partition.
"""

ALIVE = {
    "postgresql": "heartbeat_at >= statement_timestamp() - %s * interval '1 second'",
    "mysql": "heartbeat_at >= UTC_TIMESTAMP(6) - INTERVAL %s SECOND",
    "sqlite": "heartbeat_at >= strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', -%s || ' seconds')",
}
"""The condition that a relay had a heartbeat in OUTBOX_LEASE_SECONDS, by the database's clock."""


def run(using: str, *statements: str) -> None:
    """Run statements without parameters."""
    with connections[using].cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


def change(using: str, sql: str, *params: Any) -> int:
    """Run a statement with parameters; return the number of changed rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


def select(using: str, sql: str, *params: Any) -> Sequence[Any]:
    """Return the rows of a query."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
