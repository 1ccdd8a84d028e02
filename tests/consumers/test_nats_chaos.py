"""NATS from publishers to handlers, while everything on the way is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.consumers.chaos import survive
from tests.support.nats_server import NatsServer, nats_server
from tests.support.workers import Workers


class NATSBroker:
    """A private server, whose stream is created by the backend."""

    def __init__(self, server: NatsServer) -> None:
        options = {"servers": server.url, "stream": "EVENTS"}
        self._server = server
        self.publisher: Mapping[str, Any] = {
            "BACKEND": "django_broadcaster.backends.NATSBackend",
            "OPTIONS": {**options, "create_stream": True},
        }
        self.consumer: Mapping[str, Any] = {
            "CONSUMER": "django_broadcaster.consumers.NATSConsumer",
            "OPTIONS": {**options, "durable": "billing"},
        }

    def restart(self) -> None:
        """Kill the server and start it again."""
        self._server.kill()
        self._server.start()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_each_event_is_handled_once(committing: None, workers: Workers, tmp_path: Path) -> None:
    """5,000 events are handled exactly once, in order, although everything is killed."""
    with nats_server(tmp_path) as server:
        survive(NATSBroker(server), workers)
