"""Invoices, and the events that led to them. Both tables are written by event handlers."""

from __future__ import annotations

from django.db import models


class Invoice(models.Model):
    """The invoice of an order.

    `order` is the shop's number. It is not unique, so that a second run of the handler would be
    visible.
    """

    order = models.PositiveBigIntegerField(db_index=True)
    total = models.DecimalField(max_digits=12, decimal_places=2)
    sent_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"invoice {self.pk} for order {self.order}"


class ReceivedEvent(models.Model):
    """An event of the shop; `id` is the order in which the handler ran.

    `event_id` is not unique, for the same reason.
    """

    event_id = models.CharField(max_length=255)
    event_type = models.CharField(max_length=100)
    key = models.CharField(max_length=100, db_index=True)
    sequence = models.PositiveIntegerField()
    received_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.event_type} of {self.key}"
