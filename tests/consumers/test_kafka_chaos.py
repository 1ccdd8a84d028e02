"""Kafka from publishers to handlers, while everything on the way is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consumers.chaos import survive
from tests.support.kafka_server import KafkaServer, kafka_server, make_topic
from tests.support.workers import Workers


class KafkaBroker:
    """A broker with a topic of six partitions, two for each receiver."""

    def __init__(self, server: KafkaServer, offsets: str) -> None:
        self._server = server
        topic = make_topic(server.servers, 6)
        self.publisher = {
            "BACKEND": "django_broadcaster.backends.KafkaBackend",
            "OPTIONS": {"bootstrap_servers": server.servers, "topic": topic},
        }
        self.consumer = {
            "CONSUMER": "django_broadcaster.consumers.KafkaConsumer",
            "OPTIONS": {
                "bootstrap_servers": server.servers,
                "topics": topic,
                "group": "billing",
                "offsets": offsets,
                "session_timeout": 2.0,
            },
        }

    def restart(self) -> None:
        """Kill the broker and start it again."""
        self._server.restart()


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("offsets", ["broker", "database"])
def test_each_event_is_handled_once(
    committing: None, workers: Workers, tmp_path: Path, offsets: str
) -> None:
    """5,000 events are handled exactly once, in order, although everything is killed."""
    with kafka_server(tmp_path) as server:
        survive(KafkaBroker(server, offsets), workers)
