"""Set up Django with the databases and the broker that the environment selects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_databases() -> Iterator[None]:
    """Set up Django, create all tables and the products; close the connections at the end."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections
    from shop.catalog import stock

    try:
        for alias in connections:
            call_command("migrate", database=alias, verbosity=0)
        stock()
        yield
    finally:
        connections.close_all()  # a database with connections can't be dropped
