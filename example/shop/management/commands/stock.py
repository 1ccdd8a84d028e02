"""Put the products on the shelf: `manage.py stock`."""

from typing import Any

from django.core.management.base import BaseCommand

from shop.catalog import stock


class Command(BaseCommand):
    """Adds the products that are missing."""

    help = "Adds the products that are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        """Add them."""
        stock()
