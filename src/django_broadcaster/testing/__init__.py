"""Helpers for the tests of applications, and of backends.

`capture_events`, `assert_published`, `assert_not_published`, `containing`
    what a piece of code published;
`drain`
    deliver here and now, and raise what a handler raised;
`outbox_clock`
    move time, so that scheduled events and retries become due;
`receive_event`
    write an event as the receiver of a consumer does;
`BackendContract`, `BackendFaultContract`, `Fault`, `make_message`
    the promises of a backend, and the faults that it survives, as test classes to subclass. They
    need pytest;
`ConsumerContract`, `ProducedMessage`, `ConsumerFaultContract`, `ConsumerFault`
    those of a consumer, in the same way.

pytest has the fixtures `published_events`, `drain` and `outbox_clock` as well.

The names are loaded at first use: pytest imports this package before Django is set up, and who
tests without pytest need not have it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import assert_not_published, assert_published
    from .capture import CapturedEvents, capture_events
    from .clock import OutboxClock, outbox_clock
    from .comparison import containing
    from .consumer_contract import ConsumerContract, ProducedMessage
    from .consumer_faults import ConsumerFault, ConsumerFaultContract
    from .contract import BackendContract, make_message
    from .draining import drain
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
    "OutboxClock",
    "ProducedMessage",
    "assert_not_published",
    "assert_published",
    "capture_events",
    "containing",
    "drain",
    "make_message",
    "outbox_clock",
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
    "OutboxClock": "clock",
    "ProducedMessage": "consumer_contract",
    "assert_not_published": "assertions",
    "assert_published": "assertions",
    "capture_events": "capture",
    "containing": "comparison",
    "drain": "draining",
    "make_message": "contract",
    "outbox_clock": "clock",
    "receive_event": "receiving",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)
