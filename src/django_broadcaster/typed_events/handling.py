"""The arguments of handlers: a CloudEvent, or the event of the class that its type belongs to."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from asgiref.sync import AsyncToSync

from .declarations import event_types

Arguments = Callable[[Any], tuple[Any, ...]]
"""Returns the arguments of a handler for a CloudEvent."""


def undecoded(event: Any) -> tuple[Any, ...]:
    """Return the CloudEvent alone."""
    return (event,)


def decoded(event: Any) -> tuple[Any, ...]:
    """Return the event of the declared class; raises Rejected or TransientError."""
    declared = event_types.find_type(event.event_type)
    if declared is None:
        raise LookupError(f"no class is declared for events of type {event.event_type!r}")
    return (declared.decode(event),)


def decoded_and_original(event: Any) -> tuple[Any, ...]:
    """Return the event of the declared class and the CloudEvent; raises as `decoded`."""
    return (*decoded(event), event)


def arguments_for(function: Callable[..., object]) -> Arguments:
    """Return how a handler of a declared class is called, by its number of parameters.

    Raises:
        TypeError: The function needs more arguments than two.
    """
    called = function.awaitable if isinstance(function, AsyncToSync) else function
    try:
        parameters = signature(called).parameters.values()
    except ValueError:  # of a function in C, which has no signature
        return decoded
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is Parameter.empty]
    if len(needed) > 2:
        raise TypeError(
            "a handler of a declared class takes the event, and optionally its CloudEvent; this "
            f"function needs {len(needed)} arguments"
        )
    return decoded_and_original if len(needed) == 2 else decoded
