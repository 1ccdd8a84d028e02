"""The shop as a Django app."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """django-broadcaster imports `event_handlers` of every app by itself; nothing to do here."""

    name = "shop"
