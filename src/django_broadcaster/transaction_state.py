"""The state of a connection's transaction on its server, which Django does not track.

A server may end a transaction by itself. PostgreSQL aborts it at the first error, and a COMMIT then
rolls back without an error. MariaDB rolls back a transaction at a deadlock, and the next statement
begins another one. Code may also end a transaction by a statement. If a handler ignores such an
error, its changes are lost, although it seems to have succeeded.
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
"""The driver has no state; only a query of the server can find out."""

_POSTGRES: Final = {1: OPEN, 2: OPEN, 3: ABORTED}
"""States by libpq's PGTransactionStatusType; 0 is idle, and 4 is a closed connection."""


def state_of(connection: Any) -> str:
    """Return NONE, OPEN, ABORTED or UNKNOWN for a Django connection, without a statement."""
    driver = connection.connection
    if driver is None:
        return NONE
    try:
        with connection.wrap_database_errors:
            if connection.vendor == "postgresql":
                return _POSTGRES.get(int(driver.info.transaction_status), NONE)
            if connection.vendor == "sqlite":
                return OPEN if driver.in_transaction else NONE
    except Error:  # the connection is closed
        return NONE
    return UNKNOWN


_ENDS = re.compile(r"\s*(commit|end|abort|rollback(?!\s+(work\s+|transaction\s+)?to\b))\b", re.I)
_ENDS_ON_MYSQL = re.compile(
    # Statements that commit the open transaction before they run.
    r"\s*(begin|start|alter|create(?!\s+temporary)|drop(?!\s+temporary)|rename|truncate|lock|unlock"
    r"|grant|revoke|analyze|optimize|repair|set\s+autocommit)\b",
    re.IGNORECASE,
)


_LASTS = re.compile(r"\s*set\s+(local|transaction|constraints)\b|.*\bset_config\s*\(", re.I | re.S)
"""Statements with an effect that lasts until the end of the transaction, beside changes of rows."""


class RefusedStatement(Exception):
    """A statement that must not run in a transaction that several handlers share."""


class Watch:
    """Observes a connection's open transaction while other code runs, without statements.

    If `refuses` is True, the transaction is shared with other code. Then statements that end it, or
    change it for those that follow, raise RefusedStatement.
    """

    def __init__(self, connection: Any, *, refuses: bool = False) -> None:
        self.is_broken = False
        """Whether the transaction can only be rolled back."""
        self.may_have_ended = False
        """Whether the transaction may have ended, and another one may be open."""
        self.has_refused = False
        """Whether it has refused a statement."""
        self.had_errors = False
        """Whether a statement failed, even in a savepoint that was rolled back."""
        self._connection = connection
        self._refuses = refuses
        self._driver: Any = None
        self._had_errors = False
        self._wrapper: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        connection = self._connection
        self._driver = connection.connection
        self._had_errors, connection.errors_occurred = connection.errors_occurred, False
        self._wrapper = connection.execute_wrapper(self._inspect)
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
        self.had_errors = self.is_broken or self.may_have_ended or connection.errors_occurred
        connection.errors_occurred |= self._had_errors

    def _inspect(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        """Run a statement, and record whether it may end the transaction."""
        if self._refuses and (not isinstance(sql, str) or self._ends(sql) or _LASTS.match(sql)):
            self.has_refused = True
            raise RefusedStatement("the statement needs a transaction that no other event shares")
        if isinstance(sql, str) and self._ends(sql):
            self.may_have_ended = True
        return execute(sql, params, many, context)

    def _ends(self, sql: str) -> bool:
        is_mysql = self._connection.vendor == "mysql"
        return bool(_ENDS.match(sql) or (is_mysql and _ENDS_ON_MYSQL.match(sql)))
