"""SQS from publishers to handlers, while all processes are killed, against moto's server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.backends.test_aws import client_options
from tests.consumers.chaos import survive
from tests.support.aws_server import AWSServer, aws_server
from tests.support.workers import Workers

HANG_SECONDS = 3.0


class SQSBroker:
    """A FIFO queue. Moto has no disk: it hangs where another server is killed."""

    def __init__(self, server: AWSServer) -> None:
        options = {
            "queue_url": server.make_queue("events.fifo"),
            "client": client_options(server.url),
            "timeout": 2.0,
        }
        self._server = server
        self.publisher: Mapping[str, Any] = {
            "BACKEND": "django_broadcaster.backends.SQSBackend",
            "OPTIONS": options,
        }
        self.consumer: Mapping[str, Any] = {
            "CONSUMER": "django_broadcaster.consumers.SQSConsumer",
            "OPTIONS": {**options, "visibility_timeout": 5},
        }

    def restart(self) -> None:
        """Let the server hang for longer than the timeout."""
        with self._server.hanging():
            time.sleep(HANG_SECONDS)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_each_event_is_handled_once(committing: None, workers: Workers, tmp_path: Path) -> None:
    """1,500 events are handled exactly once, in order of their groups, although all is killed.

    Moto passes on some dozens of messages a second.
    """
    with aws_server(tmp_path) as server:
        survive(SQSBroker(server), workers, events=1_500)
