"""Redis Streams from publishers to handlers, while everything on the way is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consumers.chaos import survive
from tests.support.redis_server import RedisServer, redis_server
from tests.support.workers import Workers


class RedisBroker:
    """A server that writes each command to disk before it answers."""

    def __init__(self, server: RedisServer) -> None:
        options = {"host": "127.0.0.1", "port": server.port}
        self._server = server
        self.publisher = {
            "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
            "OPTIONS": {**options, "max_len": None},
        }
        self.consumer = {
            "CONSUMER": "django_broadcaster.consumers.RedisStreamConsumer",
            "OPTIONS": {**options, "group": "billing"},
        }

    def restart(self) -> None:
        """Kill the server and start it again."""
        self._server.kill()
        self._server.start()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_each_event_is_handled_once(committing: None, workers: Workers, tmp_path: Path) -> None:
    """5,000 events are handled exactly once, in order, although everything is killed."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        survive(RedisBroker(server), workers)
