"""Clients whose private names may be missing from a later release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from django_broadcaster.backends import RabbitMQBackend
from django_broadcaster.backends.redis.connection import Connection
from tests.support import rabbitmq_server
from tests.support.batches import numbers
from tools.clients import requirements


class Public:
    """An object without its private names."""

    def __init__(self, whole: Any) -> None:
        object.__setattr__(self, "whole", whole)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.whole, name, value)


def test_rabbitmq_needs_no_private_name_of_py_amqp() -> None:
    """Sending, looking for news and closing work without the private name of the transport."""
    url, name = rabbitmq_server.shared_url(), f"test-{uuid4().hex}"
    backend = RabbitMQBackend(alias="default", url=url, exchange=name, queue=name)
    try:
        connection = backend.connection()
        connection.connection = Public(connection.connection)
        for _ in range(2):
            assert backend.send_batch(numbers(3)) == [None] * 3
        assert backend.connection() is connection
        backend.close()
        assert len(rabbitmq_server.take(url, name)) == 6
    finally:
        rabbitmq_server.remove(url, name)


def test_redis_needs_no_private_name_of_the_pool() -> None:
    """A child process leaves a connection alone where the pool does not list its sockets."""
    client = SimpleNamespace(connection_pool=SimpleNamespace())
    Connection(client, "a server", replicas=0, timeout=1.0).abandon()


def test_client_whose_private_functions_are_overridden_has_an_upper_bound() -> None:
    """A release of nats-py that may change them is not installed with the extra."""
    (requirement,) = requirements()["nats"]
    assert "<" in requirement
