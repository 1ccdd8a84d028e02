"""The products that the shop starts with."""

from __future__ import annotations

from .models import Product

PRODUCTS = [
    ("Coffee, 250 g", "Ethiopia, washed, roasted on Tuesdays", "9.50"),
    ("Filter papers", "One hundred, unbleached", "4.20"),
    ("Hand grinder", "Steel burrs, quiet enough for the office", "89.00"),
    ("Kettle", "Gooseneck, 0.8 litres", "46.00"),
    ("Mug", "Stoneware, keeps warm for two meetings", "14.00"),
    ("Scale", "To a tenth of a gram, with a timer", "35.00"),
]


def stock() -> None:
    """Create the products that do not exist yet."""
    for name, note, price in PRODUCTS:
        Product.objects.get_or_create(name=name, defaults={"note": note, "price": price})
