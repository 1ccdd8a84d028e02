"""Calls of librdkafka that have no timeout of their own, such as closing a client.

To close a client is to wait for the threads of librdkafka, and Python waits in the same way where a
client is deallocated without it. No signal interrupts that. So such a call has a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def bounded(call: Callable[[], T], seconds: float, name: str) -> T:
    """Make a call in a daemon thread, and wait for it.

    A client that only the call refers to is deallocated in that thread, too.

    Args:
        call: The call.
        seconds: The longest wait. The thread stays until the call ends, if it ever does.
        name: The name of the thread.

    Raises:
        TimeoutError: The call has not ended.
    """
    outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcomes.put((call(), None))
        except BaseException as error:
            outcomes.put((None, error))

    Thread(target=run, name=name, daemon=True).start()
    try:
        result, error = outcomes.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"{name}: no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    found: T = result
    return found
