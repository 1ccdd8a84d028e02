"""The app imports its handlers as it starts, and puts its own backend in."""

from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    """The app of the project."""

    name = "shop"

    def ready(self):
        """Register handlers and the backend, as 0.1.1 documents it."""
        from django_broadcaster.publishers import publisher

        from . import handlers  # noqa: F401
        from .backends import ListBackend

        publisher._backends["list"] = ListBackend(settings.LIST_BACKEND)
