"""The brokers' clients: loaded at first use, and missed by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_broadcaster import backends
from django_broadcaster.exceptions import MissingClient
from django_broadcaster.testing import make_message

over_clients = pytest.mark.parametrize(
    ("backend", "client", "extra"),
    [
        ("KafkaBackend", "confluent_kafka", "kafka"),
        ("MQTTBackend", "paho.mqtt", "mqtt"),
        ("NATSBackend", "nats.aio.client", "nats"),
        ("RabbitMQBackend", "amqp", "rabbitmq"),
        ("RedisStreamBackend", "redis", "redis"),
    ],
)


@over_clients
def test_missing_client_names_the_extra(
    backend: str, client: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its client, publishing says what to install, and the health check is False."""
    monkeypatch.setitem(sys.modules, client, None)
    without = getattr(backends, backend)(alias="default")
    with pytest.raises(MissingClient, match=rf"django-broadcaster\[{extra}\]"):
        without.send(make_message())
    assert without.health_check() is False


@over_clients
def test_importing_loads_no_client(backend: str, client: str, extra: str) -> None:
    """A client is loaded at first use, not when its backend is imported or made."""
    package = client.partition(".")[0]
    code = (
        f"import sys; from django_broadcaster.backends import {backend} as backend; "
        f"backend(alias='default'); sys.exit({package!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
