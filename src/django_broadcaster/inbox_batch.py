"""Handlers of several events in one transaction, whose notes are one insert into the inbox.

If anything fails, the transaction is rolled back, and the caller runs the handlers of each event by
themselves. So this must never be the last word on an event, and must never let a statement pass
that a rollback does not undo.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from django.db import Error, connections, transaction

from . import tracing
from .events import CloudEvent
from .exceptions import DeliveryError
from .idle_connections import check_connections
from .inbox import call, failed_after_commit, failure_of
from .inbox_notes import Notes
from .registry import Handler
from .transaction_state import RefusedStatement, Watch

MOST_SECONDS: Final = 1.0
"""After this time a shared transaction commits, and leaves the rest to the next one."""

MOST_CALLS: Final = 190
"""Calls that one transaction may hold: the parameters of their notes, by SQLite's lowest limit."""

_REPEATABLE = re.compile(
    r"\s*(select|show|explain)\b"
    r"(?!.*(;\s*\S|\binto\b|\bfor\s+(update|share|no\s+key|key)|\banaly[sz]e\b))"
    r"|\s*(set\s+(?!\s|statement\b|password\b|default\s+role\b)"
    r"(?!.*(\b(global|persist|persist_only)\b|/\*))[^;]+(;\s*|$))+$",
    re.I | re.S,
)
"""Statements on another database that may be repeated: reads, and SET for the session.

Django begins a connection to MariaDB or MySQL with SET. MariaDB's SET STATEMENT runs a statement,
and EXPLAIN ANALYZE runs the one that it explains. The word of a change anywhere in a statement is
enough to refuse it, since a shared transaction only saves time.
"""


class Work(NamedTuple):
    """An event, and the handlers that run for it."""

    event: CloudEvent
    handlers: Sequence[Handler]


class SharedTransaction:
    """Runs the handlers of events in one transaction.

    Args:
        works: The events.
        using: The alias of the inbox's database, which has no open transaction.
        go_on: Called before each handler.
    """

    def __init__(self, works: Sequence[Work], using: str, go_on: Callable[[], object]) -> None:
        self.failures: dict[int, DeliveryError] = {}
        """By the places of events that were handled: the errors of functions after the commit."""
        self.culprit: int | None = None
        """The place of the event whose handler failed; None if it was none of them."""
        self.error: tuple[Handler, Exception] | None = None
        """The culprit's handler and its error, unless the shared transaction may be the cause."""
        self.unsharable: Handler | None = None
        """The handler that failed because it needs a transaction of its own."""
        self.seconds = 0.0
        """How long the transaction was open."""
        self._works = works
        self._using = using
        self._go_on = go_on
        self._connection: Any = connections[using]
        self._has_refused = False
        calls = [(work.event, handler) for work in works for handler in work.handlers]
        self._notes = Notes(calls, using)

    def run(self) -> int:
        """Handle as many events as there is time for; return how many, or 0 after a rollback.

        Raises:
            BaseException: Anything but an Exception, such as SystemExit, after the rollback.
        """
        check_connections()
        known: set[str] = set()
        for _ in range(2):
            try:
                return self._handle(known)
            except _Known:  # an event was delivered again; the transaction has changed nothing
                known = self._notes.known()
            except Exception:  # an error comes again when the event is handled by itself
                return 0
        return 0

    def _handle(self, known: set[str]) -> int:
        after_commit = _AfterCommit(self._connection)
        began = time.monotonic()
        with transaction.atomic(using=self._using, durable=True):
            if not self._notes.write(known):
                raise _Known
            with self._refusing_other_databases():
                done = self._call_all(known, after_commit, began + MOST_SECONDS)
            if rest := self._identities(done):
                self._notes.delete(rest)
        self.seconds = time.monotonic() - began
        self.failures = after_commit.failures()
        return done

    def _call_all(self, known: set[str], after_commit: _AfterCommit, until: float) -> int:
        identities = iter(self._notes.identities)
        done = 0
        for place, (event, handlers) in enumerate(self._works):
            self.culprit = place
            for handler in handlers:
                if next(identities) not in known:
                    self._go_on()
                    self._call(event, handler)
                    after_commit.claim(place, handler)
            done = place + 1
            if time.monotonic() > until:
                break
        self.culprit = None
        return done

    def _call(self, event: CloudEvent, handler: Handler) -> None:
        watch = Watch(self._connection, refuses=True)
        error: Exception | None = None
        try:
            with tracing.processing(event, handler), watch:
                call(handler, event)
        except Exception as raised:
            error = raised
        if watch.has_refused or self._has_refused:
            self.unsharable = handler
        elif error is not None and not (watch.had_errors or isinstance(error, Error)):
            self.error = handler, error
        is_lost = watch.is_broken or watch.may_have_ended
        if error is not None or self.unsharable is not None or is_lost:
            raise _Failed  # not the error, whose traceback would grow

    def _identities(self, start: int) -> list[str]:
        """Return the identities of the notes of the events from a place on."""
        before = sum(len(work.handlers) for work in self._works[:start])
        return self._notes.identities[before:]

    @contextmanager
    def _refusing_other_databases(self) -> Iterator[None]:
        """Refuse changes of other databases, which the rollback would not undo."""

        def refuse(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
            if isinstance(sql, str) and _REPEATABLE.match(sql):
                return execute(sql, params, many, context)
            self._has_refused = True
            raise RefusedStatement("the statement would change another database than the inbox")

        with ExitStack() as wrappers:
            for alias in connections:
                if alias != self._using:
                    wrappers.enter_context(connections[alias].execute_wrapper(refuse))
            yield


class _Failed(Exception):
    """A handler failed, or the transaction that the events share can't commit."""


class _Known(Exception):
    """Some notes were there before."""


class _AfterCommit:
    """The functions that handlers pass to `on_commit`: the failure of one is that of its event.

    Django drops all functions of a transaction after one that failed. Here only those of the same
    handler are dropped, as if it had a transaction of its own.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._claimed = len(connection.run_on_commit)
        self._errors: dict[tuple[int, Handler], BaseException] = {}

    def claim(self, place: int, handler: Handler) -> None:
        """Note that the functions that were added since the last call are those of a handler."""
        hooks = self._connection.run_on_commit
        for index in range(self._claimed, len(hooks)):
            savepoints, function, is_robust = hooks[index]
            if not is_robust:
                own = partial(self._run, (place, handler), function)
                hooks[index] = (savepoints, own, False)
        self._claimed = len(hooks)

    def _run(self, owner: tuple[int, Handler], function: Callable[[], object]) -> None:
        if owner in self._errors:
            return
        try:
            function()
        except (Exception, SystemExit) as error:
            self._errors[owner] = error

    def failures(self) -> dict[int, DeliveryError]:
        """Return one error for each event with functions that failed."""
        found: dict[int, list[tuple[Handler, Exception]]] = defaultdict(list)
        for (place, handler), error in self._errors.items():
            failure = failed_after_commit(error)
            failure.__cause__ = error
            found[place].append((handler, failure))
        return {place: failure_of(failed, attempt=1) for place, failed in found.items()}
