"""The state of a connection's transaction as its server has it, which Django does not follow.

A server may end a transaction by itself: PostgreSQL aborts it at the first error and answers COMMIT
with a rollback, without an error; MariaDB rolls back the loser of a deadlock, and what follows is
another transaction. Code may end a transaction by a statement of its own, too. Code that hides such
an error would count as done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self

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


_ENDS = re.compile(r"\s*(commit|end|abort|rollback(?!\s+(work\s+|transaction\s+)?to\b))\b", re.I)
_ENDS_ON_MYSQL = re.compile(
    # What commits the open transaction before it runs.
    r"\s*(begin|start|alter|create(?!\s+temporary)|drop(?!\s+temporary)|rename|truncate|lock|unlock"
    r"|grant|revoke|analyze|optimize|repair|set\s+autocommit)\b",
    re.IGNORECASE,
)


class Watch:
    """Watches a connection's open transaction while other code runs; sends no statement."""

    def __init__(self, connection: Any) -> None:
        self.is_broken = False
        """Whether the transaction can only be rolled back."""
        self.may_have_ended = False
        """Whether it may have ended, so that what is open now may be another one."""
        self._connection = connection
        self._driver: Any = None
        self._had_errors = False
        self._wrapper: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        connection = self._connection
        self._driver = connection.connection
        self._had_errors, connection.errors_occurred = connection.errors_occurred, False
        self._wrapper = connection.execute_wrapper(self._look)
        self._wrapper.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection, state = self._connection, state_of(self._connection)
        if self._wrapper is not None:
            self._wrapper.__exit__(kind, error, trace)
        self.is_broken = state == ABORTED or connection.needs_rollback
        if (
            state == NONE
            or (state == UNKNOWN and connection.errors_occurred)
            or connection.connection is not self._driver
        ):
            self.may_have_ended = True
        connection.errors_occurred |= self._had_errors

    def _look(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        """Carry out a statement, and note whether it ends the transaction."""
        if isinstance(sql, str) and self._ends(sql):
            self.may_have_ended = True
        return execute(sql, params, many, context)

    def _ends(self, sql: str) -> bool:
        is_mysql = self._connection.vendor == "mysql"
        return bool(_ENDS.match(sql) or (is_mysql and _ENDS_ON_MYSQL.match(sql)))
