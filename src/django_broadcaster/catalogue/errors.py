"""The error of the catalogue."""

from __future__ import annotations


class CatalogueError(ValueError):
    """The catalogue can't be made, or a file has none."""
