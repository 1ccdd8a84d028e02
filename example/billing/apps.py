"""Billing as a Django app."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Billing. django-broadcaster imports the `event_handlers` of every app."""

    name = "billing"
