"""Gives a webhook backend the table in which endpoints that fail are written down."""

from __future__ import annotations

from django_broadcaster.backends import WebhookBackend
from django_broadcaster.backends.base import MessageBackend
from django_broadcaster.endpoints import Endpoints


def attach_endpoints(backend: MessageBackend) -> None:
    """Attach the endpoints of a webhook backend, also of one that is given events."""
    webhook = getattr(backend, "wrapped", backend)
    if isinstance(webhook, WebhookBackend):
        webhook.book = Endpoints(backend.alias)
