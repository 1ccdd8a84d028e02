"""What goes wrong with MQTT while messages are received, on a server of our own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.consumers import Consumer, MQTTConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract, ProducedMessage
from tests.consumers.test_mqtt import publish
from tests.support.mosquitto_server import MosquittoServer, mosquitto_server
from tests.support.redis_server import missing
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options

pytestmark = pytest.mark.chaos

UNLIMITED = "max_inflight_messages 0"
TLS_LISTENER = """
listener {port} 127.0.0.1
allow_anonymous true
require_certificate true
cafile {certificates}/ca.pem
certfile {certificates}/server.pem
keyfile {certificates}/server.key
"""


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[MosquittoServer]:
    """A server that speaks TLS, and wants a client's certificate."""
    config = TLS_LISTENER.replace("{certificates}", str(certificates))
    with mosquitto_server(tmp_path_factory.mktemp("tls"), config) as running:
        yield running


class TestFaults(ConsumerFaultContract):
    """Through a proxy, with a session that exists before anything is published."""

    excluded = {ConsumerFault.MISSING: "a topic of MQTT need not be created"}
    cases = {
        ConsumerFault.CREDENTIALS: ("no login", "wrong password", "unknown user"),
        ConsumerFault.TLS: (*CASES, "server without TLS"),
    }
    timeout_options = {"timeout": 1.0, "keepalive": 1}

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
        self.folder, self.request = tmp_path, request
        with (
            mosquitto_server(tmp_path, UNLIMITED) as self.server,
            TcpProxy(*self.server.address) as self.proxy,
        ):
            first = self.make_consumer(alias=self.alias)
            first.open()
            first.close()
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        place = {"host": "127.0.0.1", "port": self.proxy.port}
        return MQTTConsumer(**{**place, "topic": "t", "group": "billing", **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        kind = "application/cloudevents+json"
        messages = [ProducedMessage(body=each.to_json(), content_type=kind) for each in events]
        publish(self.server, "t", messages)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.end()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        program = shutil.which("mosquitto_passwd") or missing("the program mosquitto_passwd")
        words = [program, "-c", "-b", str(self.folder / "passwords"), "me", "right"]
        subprocess.run(words, check=True, capture_output=True)
        self.server.restart(
            "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {folder}/passwords"
        )
        login = {
            None: {"username": "me", "password": "right"},
            "no login": {},
            "wrong password": {"username": "me", "password": self.secret},
            "unknown user": {"username": self.secret},
        }[case]
        yield self.new_consumer(**login)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        plain = case == "server without TLS"
        server = self.server if plain else self.request.getfixturevalue("tls_server")
        yield self.new_consumer(
            host=host_of(case),
            port=server.port,
            timeout=5.0 if case is None else 1.0,
            **tls_options(self.request.getfixturevalue("certificates"), case),
        )
