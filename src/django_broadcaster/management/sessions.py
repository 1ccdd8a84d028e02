"""State of the caller's database session, which a relay's own connections do not have.

Libraries for tenants set the schema on the connection of the current thread. So does any code that
runs `SET search_path` or `USE`. The relay works in threads, each with a connection of its own.
"""

from __future__ import annotations

from typing import Final

from django.core.management.base import CommandError
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

_SCHEMAS: Final = {
    "postgresql": "SELECT array_to_string(current_schemas(false), ', ')",
    "mysql": "SELECT DATABASE()",
}
"""Where names of tables are looked up, by vendor; SQLite has nothing of the kind."""


def refuse_other_schema(using: str) -> None:
    """Raise CommandError if new connections look up tables elsewhere than the caller's session."""
    connection = connections[using]
    if connection.vendor not in _SCHEMAS:
        return
    was_open = connection.connection is not None
    new = connections.create_connection(using)
    try:
        wanted, found = _schemas(connection), _schemas(new)
    except Error:
        return  # the relay waits for the database, and says so
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


def _schemas(connection: BaseDatabaseWrapper) -> str:
    with connection.cursor() as cursor:
        cursor.execute(_SCHEMAS[connection.vendor])
        (schemas,) = cursor.fetchone()
    return str(schemas)
