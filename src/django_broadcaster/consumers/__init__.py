"""Backends that run this project's handlers: in the relay, or as Django's tasks.

The classes are imported at first access, since models can't be imported before `django.setup()`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .local import LocalBackend
    from .tasks import TasksBackend

__all__ = ["LocalBackend", "TasksBackend"]

_MODULES = {"LocalBackend": ".local", "TasksBackend": ".tasks"}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module, __name__), name)
