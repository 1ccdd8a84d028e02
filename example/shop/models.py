"""Products and orders, and the tables that the event handlers write."""

from __future__ import annotations

from django.db import models


class Product(models.Model):
    """A product that can be ordered."""

    name = models.CharField(max_length=100)
    note = models.CharField(max_length=200, blank=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """An order of a quantity of one product."""

    class Status(models.TextChoices):
        """The statuses of an order, in their sequence."""

        PLACED = "placed"
        PAID = "paid"
        SHIPPED = "shipped"

    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
    total = models.DecimalField(max_digits=12, decimal_places=2)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PLACED)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk}"

    @property
    def key(self) -> str:
        """The partition key of the order's events, which are delivered in their order."""
        return f"order-{self.pk}"

    @property
    def sequence(self) -> int:
        """The number of the status: 1 placed, 2 paid, 3 shipped."""
        return self.Status.values.index(self.status) + 1

    @property
    def next_status(self) -> str | None:
        """The next status; None if the order is shipped."""
        later = self.Status.values[self.sequence :]
        return later[0] if later else None


class ReceivedEvent(models.Model):
    """An event that a handler received; `id` is the order of arrival.

    `event_id` is not unique, so that a second run of the handler would be visible.
    """

    event_id = models.CharField(max_length=255)
    event_type = models.CharField(max_length=100)
    key = models.CharField(max_length=100, db_index=True)
    sequence = models.PositiveIntegerField()
    received_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.event_type} of {self.key}"


class Parcel(models.Model):
    """The parcel of a shipped order."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE)
    tracking = models.CharField(max_length=40)
    packed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.tracking


class InvoiceNote(models.Model):
    """The invoice that billing sent for an order.

    Neither column is unique, so that a second run of the handler would be visible.
    """

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="invoices")
    number = models.PositiveBigIntegerField()
    noted_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"invoice {self.number} for {self.order}"
