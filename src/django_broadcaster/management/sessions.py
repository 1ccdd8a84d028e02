"""State of the caller's database session that the relay's own connections do not have.

Multi-tenant libraries set the schema on the connection of the current thread, as does any code that
runs `SET search_path` or `USE`. The threads of the relay have connections of their own.
"""

from __future__ import annotations

from typing import Final

from django.core.management.base import CommandError
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.models import (
    OutboxAttempt,
    OutboxBackendState,
    OutboxEvent,
    OutboxPartition,
    OutboxRelay,
)
from django_broadcaster.relay.log_safety import loggable
from django_broadcaster.store import lacks_migration

_NEEDED: Final = (OutboxEvent, OutboxAttempt, OutboxBackendState, OutboxPartition, OutboxRelay)
"""The models without whose tables no relay can deliver."""

_SCHEMAS: Final = {
    "postgresql": "SELECT array_to_string(current_schemas(false), ', ')",
    "mysql": "SELECT DATABASE()",
}
"""The query for the schemas that tables are looked up in, by vendor; SQLite has none."""


def refuse_other_schema(using: str) -> None:
    """Raise CommandError if new connections use other schemas than the caller's session."""
    connection = connections[using]
    if connection.vendor not in _SCHEMAS:
        return
    was_open = connection.connection is not None
    new = connections.create_connection(using)
    try:
        wanted, found = _schemas(connection), _schemas(new)
    except Error:
        return  # the relay logs the error and waits for the database
    finally:
        new.close()
        if not was_open:
            connection.close()
    if wanted != found:
        raise CommandError(
            f"This session looks up tables in {wanted!r}, but the relay's own connections look in "
            f"{found!r}. Add an alias to DATABASES that looks in {wanted!r}, and run outbox_worker "
            "--database with that alias."
        )


def refuse_missing_tables(using: str) -> str:
    """Raise CommandError if the database lacks a table or a column that a relay needs.

    Return why that cannot be said now, as the database is unavailable; empty if it can.
    """
    connection = connections[using]
    was_open = connection.connection is not None
    try:
        for model in _NEEDED:
            model._default_manager.using(using).filter(pk=0).first()
    except Error as error:
        if lacks_migration(error):
            raise CommandError(
                f"Database {using!r} lacks a table or a column of the outbox. Run manage.py "
                "migrate first, or start the relay with --wait."
            ) from error
        return loggable(error)
    finally:
        if not was_open:
            connection.close()
    return ""


def _schemas(connection: BaseDatabaseWrapper) -> str:
    with connection.cursor() as cursor:
        cursor.execute(_SCHEMAS[connection.vendor])
        (schemas,) = cursor.fetchone()
    return str(schemas)
