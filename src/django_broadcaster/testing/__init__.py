"""Helpers for the tests of applications, and of backends.

`capture_events`, `assert_published`, `assert_not_published`, `containing`
    what a piece of code published; with pytest there is the fixture `outbox_events`, too;
`deliver_events`
    deliver here and now, and raise what a handler raised;
`receive_event`
    write an event as the receiver of a consumer does;
`BackendContract`, `BackendFaultContract`, `Fault`, `make_message`
    the promises of a backend, and the faults that it survives, as test classes to subclass. They
    need pytest;
`ConsumerContract`, `ProducedMessage`, `ConsumerFaultContract`, `ConsumerFault`
    those of a consumer, in the same way.

The names are loaded at first use: pytest imports this package before Django is set up, and who
tests without pytest need not have it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import assert_not_published, assert_published, containing
    from .capture import CapturedEvents, capture_events
    from .consumer_contract import ConsumerContract, ProducedMessage
    from .consumer_faults import ConsumerFault, ConsumerFaultContract
    from .contract import BackendContract, make_message
    from .delivery import deliver_events
    from .faults import BackendFaultContract, Fault
    from .receiving import receive_event

__all__ = [
    "BackendContract",
    "BackendFaultContract",
    "CapturedEvents",
    "ConsumerContract",
    "ConsumerFault",
    "ConsumerFaultContract",
    "Fault",
    "ProducedMessage",
    "assert_not_published",
    "assert_published",
    "capture_events",
    "containing",
    "deliver_events",
    "make_message",
    "receive_event",
]

_MODULES = {
    "BackendContract": "contract",
    "BackendFaultContract": "faults",
    "CapturedEvents": "capture",
    "ConsumerContract": "consumer_contract",
    "ConsumerFault": "consumer_faults",
    "ConsumerFaultContract": "consumer_faults",
    "Fault": "faults",
    "ProducedMessage": "consumer_contract",
    "assert_not_published": "assertions",
    "assert_published": "assertions",
    "capture_events": "capture",
    "containing": "assertions",
    "deliver_events": "delivery",
    "make_message": "contract",
    "receive_event": "receiving",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)
