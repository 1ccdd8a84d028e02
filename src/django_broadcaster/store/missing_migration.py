"""Errors about a missing table or column: a migration has not been applied."""

from __future__ import annotations

from django.db import Error

MIGRATE = "the database lacks a table or a column of the outbox; run manage.py migrate"

_POSTGRESQL = {"42P01", "42703"}
"""undefined_table, undefined_column:
https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_MYSQL = {1146, 1054}
"""ER_NO_SUCH_TABLE, ER_BAD_FIELD_ERROR:
https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference"""

_SQLITE = ("no such table: ", "no such column: ")


def lacks_migration(error: BaseException) -> bool:
    """Return True if an error means that a table or column does not exist."""
    if not isinstance(error, Error):
        return False
    cause = error.__cause__ or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    number = cause.args[0] if cause.args else None
    return code in _POSTGRESQL or number in _MYSQL or str(error).startswith(_SQLITE)
