"""What the events of the tests are about."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid4

from django.db import models

from django_broadcaster.model_events import PublishingModel, publishes
from django_broadcaster.typed_events import typed_event


class Order(models.Model):
    """A change that an event is published with: both are there, or neither."""

    number = models.CharField(max_length=50)
    total = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.number


class Customer(models.Model):
    """A model without events, whose deletion cascades to one with events."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


@publishes(
    created="item.created",
    updated="item.updated",
    deleted="item.deleted",
    source="/tests/items",
    fields=["customer", "status", "price"],
    key="customer_id",
)
class Item(PublishingModel):
    """A model with every event; `note` is not in them."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True)
    status = models.CharField(max_length=20, default="new")
    price = models.DecimalField(max_digits=8, decimal_places=2, default=Decimal(0))
    note = models.CharField(max_length=50, default="")

    class Meta:
        base_manager_name = "objects"  # used by `customer.item_set.add()`

    def __str__(self) -> str:
        return self.status


class ItemProxy(Item):
    """Another class for the same table."""

    class Meta:
        proxy = True


class SpecialItem(Item):
    """A child with a table of its own."""

    extra = models.CharField(max_length=50, default="")


@typed_event("parcel.packed", source="/tests/parcels", key="parcel_id")
@dataclass(frozen=True)
class ParcelPacked:
    """An event of a declared class."""

    parcel_id: UUID
    weight: Decimal
    packed_at: str = ""


@publishes(
    created=ParcelPacked,
    updated="parcel.changed",
    deleted="parcel.deleted",
    source="/tests/parcels",
    fields={"parcel_id": "pk", "weight": "kilos"},
)
class Parcel(PublishingModel):
    """A model with a typed event, whose objects have a primary key before they are saved."""

    id = models.UUIDField(primary_key=True, default=uuid4)
    kilos = models.DecimalField(max_digits=6, decimal_places=3)

    def __str__(self) -> str:
        return str(self.kilos)


@publishes(deleted="folder.deleted", source="/tests/folders", fields=["name"])
class Folder(PublishingModel):
    """A model whose deletion cascades to rows of the same table."""

    name = models.CharField(max_length=20)
    parent = models.ForeignKey("self", models.CASCADE, null=True)

    def __str__(self) -> str:
        return self.name
