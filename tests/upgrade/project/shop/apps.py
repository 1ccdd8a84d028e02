"""The app imports its handlers as it starts."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The app of the project."""

    name = "shop"

    def ready(self):
        """Import the handlers, so that they are registered."""
        from . import handlers  # noqa: F401
