"""Set up the shop with the database and broker that the environment selects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_shop() -> Iterator[None]:
    """Set up Django, create the tables and products; close the connections at the end."""
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
        connections.close_all()  # a database with connections can't be dropped
