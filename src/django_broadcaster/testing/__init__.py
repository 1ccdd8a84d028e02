"""Helpers for the tests of applications, and of backends.

`capture_events`, `assert_published`, `assert_not_published`, `containing`
    what a piece of code published; with pytest there is the fixture `outbox_events`, too;
`deliver_events`
    deliver here and now, and raise what a handler raised;
`BackendContract`, `make_message`
    the promises of a backend as a test class to subclass; needs pytest.

The names are loaded at first use: pytest imports this package before Django is set up, and who
tests without pytest need not have it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import assert_not_published, assert_published, containing
    from .capture import CapturedEvents, capture_events
    from .contract import BackendContract, make_message
    from .delivery import deliver_events

__all__ = [
    "BackendContract",
    "CapturedEvents",
    "assert_not_published",
    "assert_published",
    "capture_events",
    "containing",
    "deliver_events",
    "make_message",
]

_MODULES = {
    "BackendContract": "contract",
    "CapturedEvents": "capture",
    "assert_not_published": "assertions",
    "assert_published": "assertions",
    "capture_events": "capture",
    "containing": "assertions",
    "deliver_events": "delivery",
    "make_message": "contract",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)
