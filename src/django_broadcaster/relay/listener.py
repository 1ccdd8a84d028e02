"""Wake-ups by NOTIFY, in addition to polling, on PostgreSQL.

A publisher sends a NOTIFY after its transaction has committed, never inside it, because NOTIFY
takes a lock at commit for which all transactions of the server queue. One is enough for many
events: a process sends none within `COALESCE_SECONDS` of its last, and a relay that was woken polls
fast for longer than that.

On a second channel a relay notifies the others when it joins or frees partitions, so that they need
not poll often.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from threading import Event
from typing import Any, NamedTuple
from uuid import uuid4

from django.db import connections

from django_broadcaster.conf import conf
from django_broadcaster.notify import CHANNEL, SHARES_CHANNEL, send

logger = logging.getLogger("django_broadcaster.relay")

PROBE_SECONDS = 1.0
"""How long a listener waits for its own NOTIFY before it concludes that none arrives."""


class Heard(NamedTuple):
    """The backends that have events, and those whose partitions must be rebalanced."""

    events: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()


class Listener:
    """Receives the NOTIFY of publishers and relays, on the calling thread's connection.

    If none arrives, for example behind a pooler in transaction mode, a warning is logged once, and
    the listener waits without listening.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._state = "new" if self._may_listen() else "deaf"
        self.is_proven = False
        """Whether a NOTIFY has arrived, so that sessions are not shared by a pooler."""

    def wait(self, seconds: float, stop: Event) -> Heard:
        """Wait for `seconds` or until notified; return what was received."""
        if self._state == "new":
            self._state = "listening" if self._listen() else "deaf"
        if self._state == "deaf":
            stop.wait(seconds)
            return Heard()
        return self._receive(seconds)

    def reset(self) -> None:
        """Listen again, because the connection was lost."""
        if self._state == "listening":
            self._state = "new"

    def _may_listen(self) -> bool:
        if not conf.NOTIFY or connections[self._using].vendor != "postgresql":
            return False
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        return bool(is_psycopg3)  # psycopg2 has another interface; there the relay polls

    def _listen(self) -> bool:
        """Listen if a NOTIFY arrives. Once one did, a slow moment proves nothing else."""
        self.is_proven = self.is_proven or self._gets_through()
        if self.is_proven:
            for channel in (CHANNEL, SHARES_CHANNEL):
                self._execute(f"LISTEN {channel}")
        else:
            logger.warning(
                "NOTIFY does not reach this relay on database %r, probably because of a pooler in "
                "transaction mode; polling instead.",
                self._using,
            )
        return self.is_proven

    def _gets_through(self) -> bool:
        """Return True if a NOTIFY of another connection arrives, on a channel of our own.

        Behind a pooler in transaction mode LISTEN stays with a session of the pooler, and its next
        client would receive everything that the publishers send.
        """
        trial = f"{CHANNEL}_{uuid4().hex}"
        self._execute(f"LISTEN {trial}")
        with closing(connections[self._using].copy()) as other:
            send(other, trial, "")
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
        """Wait for notifications; return those that arrived, of any channel."""
        connection = connections[self._using]
        connection.ensure_connection()
        with connection.wrap_database_errors:
            return list(connection.connection.notifies(timeout=seconds, stop_after=1))

    def _execute(self, sql: str) -> None:
        with connections[self._using].cursor() as cursor:
            cursor.execute(sql)
