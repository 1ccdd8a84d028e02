"""A relay reads committed rows only, whatever isolation level the settings configure.

At READ UNCOMMITTED MariaDB and MySQL show rows that may still be rolled back, and a relay would
deliver them. PostgreSQL treats this level as READ COMMITTED, and SQLite has no such level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

_MARK = "_broadcaster_reads_committed"
_SET = "SET SESSION TRANSACTION ISOLATION LEVEL READ "


def read_committed(connection: BaseDatabaseWrapper) -> None:
    """Let this connection read committed rows only, also after it was opened again."""
    if connection.vendor == "mysql" and not hasattr(connection, _MARK):
        setattr(connection, _MARK, False)
        if connection.connection is not None:
            _raise_level(connection)


@contextmanager
def own_level_restored(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Restore the isolation level of the connection's owner at the end of the outermost block."""
    if hasattr(connection, _MARK):
        yield
        return
    try:
        yield
    finally:
        was_raised = getattr(connection, _MARK, False)
        if hasattr(connection, _MARK):
            delattr(connection, _MARK)
        if was_raised and connection.connection is not None and connection.is_usable():
            _execute(connection, f"{_SET}UNCOMMITTED")


def _raise_level(connection: BaseDatabaseWrapper) -> None:
    """Raise the session's isolation level if it is READ UNCOMMITTED."""
    level = getattr(connection, "isolation_level", None)
    if level is None:  # the settings leave it to the server
        with connection.cursor() as cursor:
            cursor.execute(
                "SHOW SESSION VARIABLES "
                "WHERE variable_name IN ('tx_isolation', 'transaction_isolation')"
            )
            level = next((str(value) for _, value in cursor.fetchall()), "")
    if level.lower().replace("-", " ") == "read uncommitted":
        _execute(connection, f"{_SET}COMMITTED")
        setattr(connection, _MARK, True)


def _execute(connection: BaseDatabaseWrapper, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def _on_connect(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if hasattr(connection, _MARK):
        _raise_level(connection)


connection_created.connect(_on_connect, dispatch_uid="django_broadcaster.relay.isolation_level")
