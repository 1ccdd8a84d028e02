"""Publish calls and async code: the awaitable form of a call, and the refusal of the other."""

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

    It runs the method of that name, so that a subclass overrides both at once, in the thread
    where Django runs all synchronous code of a request.
    """
    name = method.__name__

    async def call(owner: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        result: Result = await sync_to_async(getattr(owner, name))(*args, **kwargs)
        return result

    call.__name__ = f"a{name}"
    call.__qualname__ = f"{method.__qualname__.removesuffix(name)}a{name}"
    call.__module__ = method.__module__
    call.__doc__ = f"""Await `{name}` from async code; the arguments, result and errors are its own.

        The call is a transaction of its own: async code can't hold one open. To write a change and
        its event together, put both into one function and await it by `sync_to_async`. A caller
        that is cancelled while it awaits does not know whether the event was written.
        """
    call.__signature__ = signature(method)  # type: ignore[attr-defined]
    return call


def refuse_in_event_loop() -> None:
    """Raise PublishedFromAsync where an event loop runs, as Django's own database calls do."""
    try:
        get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise PublishedFromAsync
