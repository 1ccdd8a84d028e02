"""Typed events: a class is an event, and its data are validated by that class.

    @typed_event("order.placed", source="/shop/orders", key="order_id")
    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: int

    publisher.publish(OrderPlaced(order_id=7))

This package can be imported before `django.setup()`. It imports pydantic or msgspec only for a
class of theirs.

- `declarations` has the decorators `typed_event` and `upcasts`, and the registry `event_types`.
- `conversion` makes the arguments of a publish call from an event of a declared class.
- `handling` makes the arguments of a handler from a `CloudEvent`.
- `codec` is the contract of what turns a class into JSON values and back. `models` implements it
  for pydantic and msgspec, and `formats` completes msgspec's schemas. `plain` does so for
  dataclasses and `TypedDict`, by the functions of `decoders`, one for each type of field.
"""

from .conversion import from_cloud_event, keywords_of, to_cloud_event
from .declarations import (
    VERSION,
    EventType,
    EventTypes,
    check_type,
    event_types,
    typed_event,
    upcasts,
)

__all__ = [
    "VERSION",
    "EventType",
    "EventTypes",
    "check_type",
    "event_types",
    "from_cloud_event",
    "keywords_of",
    "to_cloud_event",
    "typed_event",
    "upcasts",
]
