"""The state of a connection's transaction as its server has it, which Django does not follow.

A server may end a transaction by itself, and code may end or begin one by a statement of its own.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import Error

NONE: Final = "none"
OPEN: Final = "open"
ABORTED: Final = "aborted"
"""PostgreSQL refuses every further statement, and answers COMMIT with a rollback."""
UNKNOWN: Final = "unknown"
"""The driver does not say; the server has to be asked."""

_POSTGRES: Final = {1: OPEN, 2: OPEN, 3: ABORTED}
"""By libpq's PGTransactionStatusType; 0 is idle, and 4 a connection that ended."""


def state_of(connection: Any) -> str:
    """Return NONE, OPEN, ABORTED or UNKNOWN for a connection of Django's; sends no statement."""
    driver = connection.connection
    if driver is None:
        return NONE
    try:
        with connection.wrap_database_errors:
            if connection.vendor == "postgresql":
                return _POSTGRES.get(int(driver.info.transaction_status), NONE)
            if connection.vendor == "sqlite":
                return OPEN if driver.in_transaction else NONE
    except Error:  # it is closed
        return NONE
    return UNKNOWN
