"""Billing's events."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from django_broadcaster.typed_events import typed_event


@typed_event("invoice.sent", source="/billing/invoices", subject="invoice")
@dataclass(frozen=True)
class InvoiceSent:
    """An order was billed. The key is that of the order."""

    invoice: int
    order: int
    total: Decimal
