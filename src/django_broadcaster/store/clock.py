"""The database's clock, which all relays share: it decides what is due, and what is old."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

_EPOCH = {
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())",
    # Not UNIX_TIMESTAMP, which goes by the session's time zone.
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000",
}
"""Seconds since 1970 by the database's clock; SQLite has none but that of the process."""

MAX_AGE = 60.0
"""Seconds after which the database is asked again if nobody has noted its clock meanwhile."""


class DatabaseEpoch(models.Func):
    """Seconds since 1970 by the database's clock; 0 on SQLite."""

    output_field: models.Field[Any, Any] = models.FloatField()

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper, *_: Any, **__: Any) -> Any:
        """Return the expression of the database's kind."""
        return _EPOCH.get(connection.vendor, "0.0"), ()


class DatabaseClock:
    """Tells what time it is by a database's clock, without a statement for each question.

    What the database said goes on by the process's monotonic clock, so the process's own time of
    day has no effect. It is ahead by the time that the answer took, at most. One thread uses it.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._is_own = connections[using].vendor not in _EPOCH
        self._epoch = 0.0
        self._jump = 0.0
        self._asked_at = -MAX_AGE

    def ask(self) -> None:
        """Ask the database; raises its errors."""
        if self._is_own:
            return
        asked_at = time.monotonic()
        with connections[self._using].cursor() as cursor:
            cursor.execute(f"SELECT {_EPOCH[connections[self._using].vendor]}")
            epoch = float(cursor.fetchone()[0])
        self.note(epoch, asked_at)

    def note(self, epoch: float, asked_at: float) -> None:
        """Note what another statement said that was sent at a moment of the monotonic clock."""
        if self._is_own:
            return
        if self._epoch:
            self._jump += max(0.0, epoch - (self._epoch + (asked_at - self._asked_at)))
        self._epoch, self._asked_at = epoch, asked_at

    def take_jump(self) -> float:
        """Return the seconds by which the database's clock jumped ahead since the last call.

        An answer that took long counts as a jump.
        """
        jump, self._jump = self._jump, 0.0
        return jump

    @property
    def is_old(self) -> bool:
        """Whether `now` would ask the database."""
        return not self._is_own and time.monotonic() >= self._asked_at + MAX_AGE

    def timestamp(self) -> float:
        """Return the seconds since 1970."""
        if self._is_own:
            return time.time()
        if self.is_old:
            self.ask()
        return self._epoch + (time.monotonic() - self._asked_at)

    def now(self) -> datetime:
        """Return the moment as `django.utils.timezone.now` does: naive where USE_TZ is off."""
        return datetime.fromtimestamp(self.timestamp(), UTC if settings.USE_TZ else None)
