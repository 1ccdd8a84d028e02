"""The database's clock, by which all relays decide which events are due and which are old."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

_EPOCH = {
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())",
    # UNIX_TIMESTAMP would depend on the session's time zone.
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000",
}
"""Seconds since 1970 by the database's clock; SQLite uses the clock of the process."""

MAX_AGE = 60.0
"""Seconds after which a reading of the database's clock is replaced by a new one."""

_django_clocks: list[None] = []
"""One item for each block of `django_clock` that is open; lists change atomically."""


@contextmanager
def django_clock() -> Iterator[None]:
    """Let each `DatabaseClock` follow `django.utils.timezone.now` in the block.

    For tests: they move Django's clock, and can't move that of the database.
    """
    _django_clocks.append(None)
    try:
        yield
    finally:
        _django_clocks.pop()


class DatabaseEpoch(models.Func):
    """Seconds since 1970 by the database's clock; 0 on SQLite."""

    output_field: models.Field[Any, Any] = models.FloatField()

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper, *_: Any, **__: Any) -> Any:
        """Return the expression for the database's vendor."""
        return _EPOCH.get(connection.vendor, "0.0"), ()


class DatabaseClock:
    """The time by a database's clock, without a statement for each call.

    The process's monotonic clock advances the last reading, so the process's time of day has no
    effect. The time is ahead by at most the duration of that query. One thread uses an instance.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._is_own = connections[using].vendor not in _EPOCH
        self._epoch = 0.0
        self._jump = 0.0
        self._asked_at = -MAX_AGE

    def ask(self) -> None:
        """Read the database's clock; raise the database's errors."""
        if self._is_own:
            return
        asked_at = time.monotonic()
        with connections[self._using].cursor() as cursor:
            cursor.execute(f"SELECT {_EPOCH[connections[self._using].vendor]}")
            epoch = float(cursor.fetchone()[0])
        self.note(epoch, asked_at)

    def note(self, epoch: float, asked_at: float) -> None:
        """Take over a reading.

        Args:
            epoch: Seconds since 1970 by the database's clock.
            asked_at: The monotonic clock when the statement was sent.
        """
        if self._is_own:
            return
        if self._epoch:
            self._jump += max(0.0, epoch - (self._epoch + (asked_at - self._asked_at)))
        self._epoch, self._asked_at = epoch, asked_at

    def take_jump(self) -> float:
        """Return the seconds by which the database's clock jumped ahead since the last call.

        A slow query counts as a jump.
        """
        jump, self._jump = self._jump, 0.0
        return jump

    @property
    def is_old(self) -> bool:
        """Whether `now` would query the database."""
        return not self._is_own and time.monotonic() >= self._asked_at + MAX_AGE

    def timestamp(self) -> float:
        """Return the seconds since 1970."""
        if _django_clocks:
            return timezone.now().timestamp()
        if self._is_own:
            return time.time()
        if self.is_old:
            self.ask()
        return self._epoch + (time.monotonic() - self._asked_at)

    def now(self) -> datetime:
        """Return the time as `django.utils.timezone.now` does: naive if USE_TZ is False."""
        return datetime.fromtimestamp(self.timestamp(), UTC if settings.USE_TZ else None)
