"""The NATS consumer and what goes wrong: nothing is lost, and the order of each key is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from django_broadcaster.consumers import Consumer, NATSConsumer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import ConsumerFault, ConsumerFaultContract
from tests.backends.test_nats_faults import (
    APP,
    LOGINS,
    OTHER_SEED,
    STREAM,
    USERS,
    as_admin,
    context,
    running,
    server,
    tls_server,
)
from tests.support.nats_server import (
    NatsServer,
    add_stream,
    ask,
    delete_stream,
    nats_server,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options

__all__ = ["running", "server", "tls_server"]  # fixtures


class TestFaults(ConsumerFaultContract):
    """Through a proxy, with the stream EVENTS."""

    cases = {
        ConsumerFault.MISSING: ("no stream", "no durable"),
        ConsumerFault.CREDENTIALS: (
            *("no login", "wrong password", "unknown user", "wrong token", "wrong key"),
            *("invalid key", "no key file", "no credentials file"),
        ),
        ConsumerFault.TLS: CASES,
    }
    timeout_options = {"timeout": 1.0, "ack_wait": 5.0}
    secret = OTHER_SEED
    missing = STREAM

    @pytest.fixture(autouse=True)
    def _server(
        self, server: NatsServer, tmp_path: Path, request: pytest.FixtureRequest
    ) -> Iterator[None]:
        self.server, self.folder, self.request = server, tmp_path, request
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def make_consumer(self, **options: Any) -> Consumer:
        servers = f"nats://127.0.0.1:{self.proxy.port}"
        defaults = {"servers": servers, "stream": STREAM, "durable": "billing"}
        return NATSConsumer(**{**defaults, **options})

    def produce(self, events: Sequence[CloudEvent]) -> None:
        async def publish(jetstream: Any) -> None:
            for event in events:
                await jetstream.publish("events.produced", event.to_json())

        ask(self.server.url, publish)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(
        self, direction: Literal["request", "reply"], after: int
    ) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def source_missing(self, case: str) -> Iterator[Consumer]:
        async def add_durable(jetstream: Any) -> None:
            await jetstream.add_consumer(STREAM, durable_name="billing")

        if case == "no stream":
            delete_stream(self.server.url, STREAM)
            yield self.new_consumer()
            add_stream(self.server.url, STREAM, "events.>")
        else:
            yield self.new_consumer(create=False)
            ask(self.server.url, add_durable)

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[Consumer]:
        kind, options = {
            None: ("password", LOGINS["password"][1]),
            "no login": ("password", {}),
            "wrong password": ("password", {"username": "app", "password": self.secret}),
            "unknown user": ("password", {"username": "no", "password": self.secret}),
            "wrong token": ("token", {"token": self.secret}),
            "wrong key": ("key", {"nkeys_seed_str": self.secret}),
            "invalid key": ("key", {"nkeys_seed_str": "no seed"}),
            "no key file": ("key", {"nkeys_seed": "/no/such/file"}),
            "no credentials file": ("key", {"user_credentials": "/no/such/file"}),
        }[case]
        with nats_server(self.folder, LOGINS[kind][0]) as server:
            if kind == "password":
                url = server.url.replace("//", "//app:correct@")
                add_stream(url, STREAM, "events.>")
            yield self.new_consumer(servers=server.url, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[Consumer]:
        port = self.request.getfixturevalue("tls_server").port
        certificates = self.request.getfixturevalue("certificates")
        if case is None:
            url = f"tls://127.0.0.1:{port}"
            ask(
                url,
                lambda js: js.add_stream(name=STREAM, subjects=["events.>"]),
                tls=context(certificates),
            )
        servers = f"nats://{host_of(case)}:{port}"
        yield self.new_consumer(servers=servers, **tls_options(certificates, case))


# --- Permissions -------------------------------------------------------------------------------

DOCUMENTED = (
    '"$JS.API.STREAM.INFO.EVENTS"',
    '"$JS.API.CONSUMER.INFO.EVENTS.billing"',
    '"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.billing"',
    '"$JS.API.CONSUMER.MSG.NEXT.EVENTS.billing"',
    '"$JS.ACK.EVENTS.billing.>"',
)
"""What a user has to be permitted to publish to."""


@pytest.mark.parametrize("without", [None, *DOCUMENTED[:4]])
def test_user_with_no_more_than_the_documented_permissions(
    tmp_path: Path, without: str | None
) -> None:
    """They are all that a receiver needs, and each of them is needed."""
    publish = ", ".join(each for each in DOCUMENTED if each != without)
    users = USERS.format(publish=publish, subscribe='"_INBOX_app.>"')
    with nats_server(tmp_path, users) as server, ExitStack() as made:
        add_stream(as_admin(server), STREAM, "events.>")
        options: dict[str, Any] = {"stream": STREAM, "durable": "billing", **APP}
        consumer = NATSConsumer(
            alias="orders", servers=server.url, inbox_prefix="_INBOX_app", **options
        )
        made.callback(consumer.close)

        async def publish_one(jetstream: Any) -> None:
            await jetstream.publish("events.a", b"{}")

        ask(as_admin(server), publish_one)
        if without is not None:
            with pytest.raises(BackendUnavailable, match=r"(?i)permissions violation"):
                _receive_one(consumer)
            return
        _receive_one(consumer)
        assert consumer.lag() == 0


def _receive_one(consumer: NATSConsumer) -> None:
    consumer.open()
    deliveries = consumer.receive(1, 5.0)
    assert len(deliveries) == 1
    consumer.acknowledge(deliveries)
