"""The cursor of a relay's own statements on psycopg 3. Import this module only with that driver."""

from __future__ import annotations

from typing import Any, Final, Self

from psycopg import Connection, Cursor, pq

PREPARE_AFTER: Final = 5
"""Executions of a repeated statement before the server keeps its plan; psycopg's own default."""


class RelayCursor(Cursor[Any]):
    """A cursor with binary results, which reads twice as fast as Django's.

    Args:
        connection: The driver's connection.
        is_repeated: Whether each delivery runs the statement. Then the server keeps its plan, if
            `keep_plans` was called for the connection. Other plans depend on the values.
    """

    def __init__(self, connection: Connection[Any], *, is_repeated: bool) -> None:
        super().__init__(connection)
        self.format = pq.Format.BINARY
        self._prepare = None if is_repeated else False

    def execute(self, query: Any, params: Any = None, **_: Any) -> Self:
        """Execute a statement; return the cursor."""
        return super().execute(query, params, prepare=self._prepare)


def keep_plans(connection: Connection[Any]) -> None:
    """Let the server keep the plans of repeated statements, which takes a session of its own.

    A pooler in transaction mode gives the next statement to a session that lacks the plan.
    """
    if connection.prepare_threshold is None:
        connection.prepare_threshold = PREPARE_AFTER
