"""The shop as a Django app."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The shop. django-broadcaster imports the `event_handlers` of every app."""

    name = "shop"
