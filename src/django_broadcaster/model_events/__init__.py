"""Model events: a model declares the events that its changes publish.

    @publishes(
        created="order.created",
        updated="order.updated",
        deleted="order.deleted",
        source="/shop/orders",
        fields=["customer_id", "status"],
    )
    class Order(PublishingModel): ...

The events are written in the transaction of the change.

- `decorator` has `publishes`; `declarations` has the registry of what it declares.
- `receivers` publish the events of `save` and `delete`.
- `querysets` publish those of the methods for which Django sends no signal; `base` has the abstract
  model that opens a transaction in `save`.
- `rows` reads the declared fields before and after a change.
- `publication` writes the events, one by one or gathered, and has `suppressed`.
"""

from .base import PublishingModel
from .declarations import ModelEvents, ModelEventsRegistry, model_events
from .decorator import publishes
from .publication import suppressed
from .querysets import PublishingManager, PublishingQuerySet

__all__ = [
    "ModelEvents",
    "ModelEventsRegistry",
    "PublishingManager",
    "PublishingModel",
    "PublishingQuerySet",
    "model_events",
    "publishes",
    "suppressed",
]
