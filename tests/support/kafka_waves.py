"""The waves in which a Kafka backend sends a batch, and a broker that freezes between them."""

from __future__ import annotations

from typing import Any

from django_broadcaster.backends import KafkaBackend

from .kafka_server import KafkaServer


def waves(backend: KafkaBackend) -> list[int]:
    """Return a list that gets the number of records of each wave that the backend sends."""
    connection = backend.connection()
    send, sent = connection.send, list[int]()

    def count(wave: Any) -> Any:
        sent.append(len(wave))
        return send(wave)

    connection.send = count  # type: ignore[method-assign]
    return sent


def freeze_at(backend: KafkaBackend, server: KafkaServer, number: int) -> list[int]:
    """Freeze the broker before the backend sends its n-th wave; return `waves`."""
    sent = waves(backend)
    connection = backend.connection()
    send = connection.send

    def freeze(wave: Any) -> Any:
        if len(sent) == number - 1:
            connection.timeout = 0.3
            server.stop()
        return send(wave)

    connection.send = freeze  # type: ignore[method-assign]
    return sent
