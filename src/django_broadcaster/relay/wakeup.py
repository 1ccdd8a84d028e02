"""How a relay learns that there is something to deliver, and how long it waits before it looks.

Polling is always underneath. On PostgreSQL a publisher also sends a NOTIFY once its transaction
has committed, never inside of it, for NOTIFY takes a lock at commit that all transactions of the
server queue for. One is enough for many events: a process sends none within `COALESCE_SECONDS` of
its last, and a relay that was woken keeps polling fast for longer than that.

On a channel of their own, relays tell each other that one has come or that partitions are free, so
that nobody has to look often.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from threading import Event
from typing import Any, NamedTuple
from uuid import uuid4

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.conf import conf

from .telling import told

logger = logging.getLogger("django_broadcaster.relay")

CHANNEL = "django_broadcaster"
SHARES_CHANNEL = "django_broadcaster_shares"
COALESCE_SECONDS = 0.005
RECENT_HOOKS = 8
"""Callbacks of a transaction among which a publisher looks for its own: backends of a fan-out."""

FIRST_PAUSE = 0.001
"""Seconds of the first pause after work ran out; each further one is twice as long."""

AWAKE_PAUSE = 0.02
"""Seconds that pauses hardly exceed while there is work besides deliveries."""

PROBE_SECONDS = 1.0
"""How long a listener waits for its own NOTIFY before it takes it that none gets through."""

_sent: dict[tuple[str, str], float] = {}


def notify_after_commit(connection: BaseDatabaseWrapper, backend: str) -> None:
    """Wake the relays of a backend once the open transaction has committed."""
    if connection.vendor != "postgresql" or not conf.NOTIFY:
        return
    # Django can't tell when a transaction ends that was begun by switching autocommit off.
    if not connection.in_atomic_block and not connection.get_autocommit():
        return
    hook, hooks = _hook(connection.alias, backend), connection.run_on_commit
    # One is enough for many events. If it is of a savepoint that has ended, it can go no more.
    if not any(entry[1] is hook for entry in hooks[-RECENT_HOOKS:]):
        connection.on_commit(hook, robust=True)


@cache
def _hook(using: str, backend: str) -> Callable[[], None]:
    def notify() -> None:  # no `partial`: Django reads its name when it fails
        _notify(using, backend)

    return notify


def _notify(using: str, backend: str) -> None:
    now = time.monotonic()
    if now < _sent.get((using, backend), 0.0) + COALESCE_SECONDS:
        return
    _sent[using, backend] = now
    try:
        _send(connections[using], CHANNEL, backend)
    except Error as error:
        # What the caller wanted has been committed, and a relay finds it when it polls.
        problem = told(error)
        logger.warning(
            "the relay of backend %r could not be woken, it polls: %s",
            backend,
            problem,
            extra={"backend": backend},
        )


def notify_shares(using: str, backend: str) -> None:
    """Let the relays of a backend look at their shares, now or when the transaction commits."""
    connection = connections[using]
    if conf.NOTIFY and connection.vendor == "postgresql":
        _send(connection, SHARES_CHANNEL, backend)


def _send(connection: BaseDatabaseWrapper, channel: str, payload: str) -> None:
    with connection.cursor() as cursor:
        # The caller need not wait for the disk: a NOTIFY leaves nothing behind.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)",
            [channel, payload],
        )


class Poll:
    """Adaptive polling: soon after work, then ever less often, down to once per `interval` seconds.

    `wake` ends a pause at once.
    """

    def __init__(self, interval: float) -> None:
        self.wake = Event()
        self._interval = interval
        self._pause = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether the pauses are as long as they get: there was nothing for a while."""
        return self._pause >= self._interval

    def reset(self) -> None:
        """Note that there was work."""
        self._pause = 0.0

    def stay_awake(self) -> None:
        """Keep the pauses short: there is work, though nothing to deliver."""
        self._pause = min(self._pause, AWAKE_PAUSE)

    def wait(self) -> None:
        """Pause, longer than last time, or until woken."""
        self._pause = min(self._interval, self._pause * 2 or FIRST_PAUSE)
        if self.wake.wait(self._pause):
            self.wake.clear()
            self._pause = 0.0


class Heard(NamedTuple):
    """The backends that have events, and those whose partitions are shared out anew."""

    events: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()


class Listener:
    """Hears the NOTIFY of publishers and relays, on the calling thread's connection to PostgreSQL.

    Where none gets through, behind a pooler in transaction mode for example, it says so once and
    waits without listening.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._state = "new" if self._may_listen() else "deaf"
        self._is_proven = False

    def wait(self, seconds: float, stop: Event) -> Heard:
        """Wait so long, or until notified; return what was heard."""
        if self._state == "new":
            self._state = "listening" if self._listen() else "deaf"
        if self._state == "deaf":
            stop.wait(seconds)
            return Heard()
        return self._receive(seconds)

    def reset(self) -> None:
        """Listen anew: the connection was lost."""
        if self._state == "listening":
            self._state = "new"

    def _may_listen(self) -> bool:
        if not conf.NOTIFY or connections[self._using].vendor != "postgresql":
            return False
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        return bool(is_psycopg3)  # psycopg2 has another interface, and polling serves it

    def _listen(self) -> bool:
        """Listen, where a NOTIFY gets through; once it has, a slow moment can't deny it."""
        self._is_proven = self._is_proven or self._gets_through()
        if self._is_proven:
            for channel in (CHANNEL, SHARES_CHANNEL):
                self._execute(f"LISTEN {channel}")
        else:
            logger.warning(
                "NOTIFY does not get through to this relay on database %r (is there a pooler in "
                "transaction mode?); it polls",
                self._using,
            )
        return self._is_proven

    def _gets_through(self) -> bool:
        """Try whether a NOTIFY of another connection is heard, on a channel of our own.

        Behind a pooler in transaction mode LISTEN stays with a session of the pooler's, and
        whoever is given that next would hear all that the publishers send.
        """
        trial = f"{CHANNEL}_{uuid4().hex}"
        self._execute(f"LISTEN {trial}")
        with closing(connections[self._using].copy()) as other:
            _send(other, trial, "")
        heard = self._hears(trial)
        self._execute(f"UNLISTEN {trial}")
        return heard

    def _hears(self, trial: str) -> bool:
        deadline = time.monotonic() + PROBE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if any(note.channel == trial for note in self._notes(left)):
                return True
        return False

    def _receive(self, seconds: float) -> Heard:
        found = self._notes(seconds)
        return Heard(*(
            frozenset(note.payload for note in found if note.channel == channel)
            for channel in (CHANNEL, SHARES_CHANNEL)
        ))  # fmt: skip

    def _notes(self, seconds: float) -> list[Any]:
        """Wait so long for notifications; return those that came, of any channel."""
        connection = connections[self._using]
        connection.ensure_connection()
        with connection.wrap_database_errors:
            return list(connection.connection.notifies(timeout=seconds, stop_after=1))

    def _execute(self, sql: str) -> None:
        with connections[self._using].cursor() as cursor:
            cursor.execute(sql)
