"""Fixtures of the webhook backend's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from django_broadcaster.backends import WebhookBackend
from django_broadcaster.relay.endpoint_book import attach_endpoints
from tests.support.webhook_server import WebhookServer, webhook_server

MakeBackend = Callable[..., WebhookBackend]


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends as a relay does, for endpoints on this machine; they are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> WebhookBackend:
            backend = WebhookBackend(**{"alias": "default", "allow_private": True, **options})
            attach_endpoints(backend)
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    """An endpoint."""
    with webhook_server() as running:
        yield running


@pytest.fixture
def other() -> Iterator[WebhookServer]:
    """Another endpoint."""
    with webhook_server() as running:
        yield running
