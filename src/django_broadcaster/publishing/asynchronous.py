"""Publish calls in async code: their awaitable form, and the error for the synchronous one."""

from __future__ import annotations

import os
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

from django_broadcaster.exceptions import PublishedFromAsync

Owner = TypeVar("Owner")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def asynchronous(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Coroutine[Any, Any, Result]]:
    """Return the awaitable form of a publish call, with the same arguments, result and errors.

    The awaitable form calls the method by its name, so that a subclass overrides both at once. It
    runs in the thread in which Django runs the synchronous code of a request.
    """
    name = method.__name__

    async def call(owner: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        result: Result = await sync_to_async(getattr(owner, name))(*args, **kwargs)
        return result

    call.__name__ = f"a{name}"
    call.__qualname__ = f"{method.__qualname__.removesuffix(name)}a{name}"
    call.__module__ = method.__module__
    call.__doc__ = f"""Await `{name}` from async code, with the same arguments, result and errors.

        In a view, the call is a transaction of its own, because async code can't hold one open. To
        write a change and its event together, put both into one function and await it by
        `sync_to_async`. In an async handler, the call is part of the handler's transaction. If the
        caller is cancelled meanwhile, the event may or may not have been written.
        """
    call.__signature__ = signature(method)  # type: ignore[attr-defined]
    return call


def refuse_in_event_loop() -> None:
    """Raise PublishedFromAsync if an event loop runs, as Django's own database calls do."""
    try:
        get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise PublishedFromAsync
