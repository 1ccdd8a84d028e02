"""A router that sends everything to one database."""

from __future__ import annotations

import os
from typing import Any


class OneDatabase:
    """Reads and writes all models in the database of that alias.

    In a process that a test starts, the alias is in the environment.
    """

    def __init__(self, alias: str | None = None) -> None:
        self._alias = alias or os.environ["BROADCASTER_TEST_DATABASE"]

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Return the alias."""
        return self._alias

    db_for_write = db_for_read
