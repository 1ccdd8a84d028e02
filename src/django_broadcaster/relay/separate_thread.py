"""The thread that runs code of the project: handlers, backends, archives, signal receivers.

Such code may leave its database connections in any state, and close them. If they were the relay's
own, the relay would settle in whatever schema a handler has set. Django's connections belong to
threads, so a relay hands such code to a separate thread, once for a batch, and waits.

Each call runs in a copy of the caller's context: a tracer's span is passed on, and what the code
sets (language, time zone, context variables) ends with the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar

from django.db import connections

from django_broadcaster.idle_connections import check_connections, return_to_pools
from django_broadcaster.transaction_state import ABORTED, OPEN, state_of

from .db_connections import drop_all_connections, drop_connection

T = TypeVar("T")

CHECK_SECONDS = 1.0
"""Seconds between checks whether the thread is still alive."""


END_SECONDS = 2.0
"""Seconds that the thread has to close its connections."""


class Runner(Protocol):
    """Runs code of the project."""

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the function and return what it returns; raises what it raises."""

    def end(self) -> None:
        """Release what the runner holds; it may be used again."""


class CallingThread:
    """Runs code where it is called, on the connections of the caller.

    `process_pending_events` does this: in a test case, handlers have to see its transaction.
    """

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the function in a copy of the context."""
        return copy_context().run(function, *args, **kwargs)

    def end(self) -> None:
        """Do nothing: the connections are the caller's."""


class InTurn:
    """Runs calls of a backend that other deliveries of the process use as well, one at a time."""

    def __init__(self, runner: Runner, lock: RLock, prepare: Callable[[], object]) -> None:
        self._runner = runner
        self._lock = lock
        self._prepare = prepare

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Prepare the backend for this delivery, and call the function, once it is its turn."""

        def call() -> T:
            with self._lock:
                self._prepare()
                return function(*args, **kwargs)

        return self._runner.run(call)

    def end(self) -> None:
        """Release what the runner holds."""
        self._runner.end()


class SeparateThread:
    """Runs code in one thread, which starts with the first call and has its own connections.

    After each call, connections are returned to their pools, and those with an open transaction are
    closed. Only one thread may call `run` and `start`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the function there and wait for it; raises RuntimeError if the thread crashed."""
        return self.begin(function, *args, **kwargs).result()

    def begin(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Call[T]:
        """Call the function there after the calls that have begun; return at once."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            thread = self._thread = self._start()
        call: Call[T] = Call(copy_context(), lambda: function(*args, **kwargs), thread)
        self._calls.put(call)
        return call

    def end(self) -> None:
        """End the thread, which closes its connections; do not wait for a call that hangs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            self._calls = SimpleQueue()
            thread.join(END_SECONDS)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=_work, args=[self._calls], name=self._name, daemon=True)
        thread.start()
        return thread


class Call(Generic[T]):
    """One call, and its result or error."""

    __slots__ = ("_context", "_error", "_function", "_is_done", "_result", "_thread")

    def __init__(
        self, context: Context, function: Callable[[], T], thread: threading.Thread
    ) -> None:
        self._context = context
        self._function = function
        self._thread = thread
        self._is_done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for the call; return False if it has not ended by then.

        Raises:
            RuntimeError: The thread crashed.
        """
        if self._is_done.wait(seconds):
            return True
        if not self._thread.is_alive() and not self._is_done.is_set():
            raise RuntimeError(f"The thread {self._thread.name!r} crashed.")
        return False

    def result(self) -> T:
        """Wait for the call, and return what the function returned; raises what it raised."""
        while not self.wait(CHECK_SECONDS):
            pass
        try:
            if self._error is not None:
                raise self._error
            result: T = self._result
            return result
        finally:
            del self  # the error refers to this frame

    def make(self) -> None:
        """Call the function, in its own thread."""
        try:
            _renew_connections()
            self._result = self._context.run(self._function)
        except BaseException as error:  # raised in the thread that waits
            self._error = error
        finally:
            try:
                _leave_transactions()
                return_to_pools()
            except Exception as error:
                self._error = self._error or error
            self._is_done.set()


def _work(calls: SimpleQueue[Call[Any] | None]) -> None:
    try:
        while (call := calls.get()) is not None:
            call.make()
            del call
    finally:
        drop_all_connections()


def _renew_connections() -> None:
    """Close connections that are broken, changed or too old, as Django does between requests.

    `CONN_MAX_AGE = 0` closes a connection when a request ends. Here are no requests, so connections
    are kept, unless they belong to a pool. Django would also check each connection at every call;
    `check_connections` does that once a second.
    """
    connection: Any  # the type stubs lack Django's flags
    for connection in connections.all(initialized_only=True):
        if not connection.settings_dict["CONN_MAX_AGE"]:
            connection.close_at = None
        is_checked = connection.health_check_done
        connection.close_if_unusable_or_obsolete()
        connection.health_check_done = is_checked
    check_connections()


def _leave_transactions() -> None:
    """Drop connections that the code left in the middle of a transaction."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or state_of(connection) in (OPEN, ABORTED):
            drop_connection(connection.alias)
            del connections[connection.alias]
