"""Billing: it bills the orders of the shop, of which it learns by events."""
