"""Helpers for the tests of applications, and of backends.

`capture_events`, `assert_published`
    what a piece of code published; with pytest there is the fixture `outbox_events`, too;
`BackendContract`, `make_message`
    the promises of a backend as a test class to subclass; needs pytest.

The names are loaded at first use: pytest imports this package before Django is set up, and who
tests without pytest need not have it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture import assert_published, capture_events
    from .contract import BackendContract, make_message

__all__ = ["BackendContract", "assert_published", "capture_events", "make_message"]

_MODULES = {
    "BackendContract": "contract",
    "assert_published": "capture",
    "capture_events": "capture",
    "make_message": "contract",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)
