"""The brokers of the example: how a service publishes to one, and how another consumes from it.

A project needs one entry of each kind. Here are four, so that SHOP_BROKER can choose.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

BROKER = os.environ.get("SHOP_BROKER", "local")
ADDRESSES = {
    "redis": "redis://127.0.0.1:6379/0",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672/",
    "nats": "nats://127.0.0.1:4222",
    "kafka": "kafka://127.0.0.1:9092",
}
HANDLERS = {"BACKEND": "django_broadcaster.backends.LocalBackend"}

# RabbitMQ gives the messages of such a queue to one receiver at a time, which keeps their order.
IN_ORDER = {"x-single-active-consumer": True}


def address(broker: str) -> str:
    """Return the address in the environment, else that on the standard port."""
    return os.environ.get(f"BROADCASTER_{broker.upper()}_URL") or ADDRESSES[broker]


def kafka_servers() -> str:
    """Return the address of Kafka as its client spells it: `host:port`."""
    return urlsplit(address("kafka")).netloc


def publish_to(name: str) -> dict[str, Any]:
    """Return the entry of OUTBOX_PUBLISHERS for a stream, queue or topic."""
    entries: dict[str, tuple[str, dict[str, Any]]] = {
        # By default old entries of a Redis stream are deleted, read or not.
        "redis": ("RedisStreamBackend", {"stream_name": name, "max_len": None}),
        # The backend declares an exchange of that name, too, and binds the queue to it.
        "rabbitmq": (
            "RabbitMQBackend",
            {"exchange": name, "queue": name, "queue_arguments": IN_ORDER},
        ),
        "nats": (
            "NATSBackend",
            {"stream": name, "subject": f"{name}.{{type}}", "create_stream": True},
        ),
        "kafka": ("KafkaBackend", {"topic": name}),
    }
    backend, options = entries[BROKER]
    return {
        "BACKEND": f"django_broadcaster.backends.{backend}",
        "OPTIONS": {**_connection(), **options},
    }


def consume_from(name: str, group: str) -> dict[str, Any]:
    """Return the entry of OUTBOX_CONSUMERS for a stream, queue or topic."""
    entries: dict[str, tuple[str, dict[str, Any]]] = {
        "redis": ("RedisStreamConsumer", {"stream_name": name, "group": group}),
        "rabbitmq": ("RabbitMQConsumer", {"queue": name, "queue_arguments": IN_ORDER}),
        "nats": ("NATSConsumer", {"stream": name, "durable": group}),
        "kafka": ("KafkaConsumer", {"topics": name, "group": group, "session_timeout": 6.0}),
    }
    consumer, options = entries[BROKER]
    return {
        "CONSUMER": f"django_broadcaster.consumers.{consumer}",
        "OPTIONS": {**_connection(), **options},
        "DELIVER_TO": "handlers",
    }


def _connection() -> dict[str, Any]:
    """Return the options that lead to the broker; a backend and a consumer spell them alike."""
    if BROKER == "kafka":
        return {"bootstrap_servers": kafka_servers()}
    return {"servers" if BROKER == "nats" else "url": address(BROKER)}
