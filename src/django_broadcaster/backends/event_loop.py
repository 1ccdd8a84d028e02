"""An event loop of a backend's own, which runs in the caller's thread while there is work.

The relay is threads. A loop that runs only during a batch needs no thread of its own, and no
handover for each event.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoop:
    """A private event loop; `executor` is where it resolves names."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._selector: selectors.BaseSelector | None = None
        self._executor = executor
        self._runner = asyncio.Runner(loop_factory=self._new_loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, in a copy of the caller's context."""
        result: T = _outside_of_loops(self._runner.run, work, context=copy_context())
        return result

    def cancel(self) -> None:
        """Cancel what an interrupted run has left: it would go on with the next one."""
        self.run(_cancel_others())

    def close(self) -> None:
        """End the loop; what still runs in it is cancelled."""
        _outside_of_loops(self._runner.close)

    def abandon(self) -> None:
        """Close this process's copies of the sockets: the loop is the parent process's."""
        if self._selector is not None:
            for key in self._selector.get_map().values():
                with suppress(OSError):
                    os.close(key.fd)
            self._selector.close()

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        self._selector = selectors.DefaultSelector()
        loop = asyncio.SelectorEventLoop(self._selector)
        if self._executor is not None:
            loop.set_default_executor(self._executor)  # type: ignore[arg-type]
        return loop


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _outside_of_loops(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Do the work in this thread, or in another one if a loop runs in this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work(*arguments, **options)
    with ThreadPoolExecutor(1) as other:
        return other.submit(work, *arguments, **options).result()
