"""RabbitMQ from publishers to handlers, while everything on the way is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.consumers.chaos import survive
from tests.support.rabbitmq_server import RabbitMQServer, rabbitmq_server
from tests.support.workers import Workers


class RabbitMQBroker:
    """A private node, which gives up the connection of a receiver that hangs after seconds."""

    def __init__(self, server: RabbitMQServer) -> None:
        arguments = {"x-single-active-consumer": True}
        self._server = server
        self.publisher: Mapping[str, Any] = {
            "BACKEND": "django_broadcaster.backends.RabbitMQBackend",
            "OPTIONS": {"url": server.url, "queue": "billing", "queue_arguments": arguments},
        }
        self.consumer: Mapping[str, Any] = {
            "CONSUMER": "django_broadcaster.consumers.RabbitMQConsumer",
            "OPTIONS": {"url": server.url, "queue": "billing", "heartbeat": 2},
        }

    def restart(self) -> None:
        """Kill the node and start it again."""
        self._server.kill()
        self._server.start()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_each_event_is_handled_once(committing: None, workers: Workers, tmp_path: Path) -> None:
    """5,000 events are handled exactly once, in order, although everything is killed."""
    with rabbitmq_server(tmp_path) as server:
        survive(RabbitMQBroker(server), workers)
