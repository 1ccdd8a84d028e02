"""MQTT from publishers to handlers, while everything on the way is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.consumers import MQTTConsumer
from tests.consumers.chaos import survive
from tests.support.mosquitto_server import MosquittoServer, mosquitto_server
from tests.support.workers import Workers


class MQTTBroker:
    """A private server, whose session exists before anything is published.

    It stores what it holds when it ends in good order, and not when it is killed.
    """

    def __init__(self, server: MosquittoServer) -> None:
        host, port = server.address
        place = {"host": host, "port": port}
        options = {**place, "topic": "shop/#", "group": "billing"}
        self._server = server
        self.publisher: Mapping[str, Any] = {
            "BACKEND": "django_broadcaster.backends.MQTTBackend",
            "OPTIONS": {**place, "topic": "shop/{type}"},
        }
        self.consumer: Mapping[str, Any] = {
            "CONSUMER": "django_broadcaster.consumers.MQTTConsumer",
            "OPTIONS": options,
        }
        first = MQTTConsumer(alias="billing", **options)
        first.open()
        first.close()

    def restart(self) -> None:
        """End the server in good order and start it again."""
        self._server.end()
        self._server.start()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_each_event_is_handled_once(committing: None, workers: Workers, tmp_path: Path) -> None:
    """5,000 events are handled exactly once, in order, although everything is killed."""
    with mosquitto_server(tmp_path, "max_inflight_messages 0") as server:
        survive(MQTTBroker(server), workers)
