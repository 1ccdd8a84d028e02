"""Open the shop at the place that the environment leads to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_shop() -> Iterator[None]:
    """Set Django up, make the tables, fill the shelf; close the connections at the end."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections
    from shop.catalog import stock

    try:
        call_command("migrate", verbosity=0)
        stock()
        yield
    finally:
        connections.close_all()  # a database with connections to it cannot be dropped
