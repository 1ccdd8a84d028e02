"""The destinations of events, each in a file of its own; `base` is the contract.

The names are loaded at first use, so importing this package loads no broker's client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Message, MessageBackend, Outcome, PublisherBackend, Shown

if TYPE_CHECKING:
    from .celery import CeleryBackend
    from .console import ConsoleBackend
    from .debezium import DebeziumBackend
    from .dummy import DummyBackend
    from .kafka import KafkaBackend
    from .locmem import LocMemBackend
    from .mqtt import MQTTBackend
    from .nats import NATSBackend
    from .rabbitmq import RabbitMQBackend
    from .redis import RedisStreamBackend
    from .sns import SNSBackend
    from .sqs import SQSBackend
    from .webhook import WebhookBackend

    # Import them from `consumers` to derive from them.
    LocalBackend: type[MessageBackend]
    TasksBackend: type[MessageBackend]

__all__ = [
    "CeleryBackend",
    "ConsoleBackend",
    "DebeziumBackend",
    "DummyBackend",
    "KafkaBackend",
    "LocMemBackend",
    "LocalBackend",
    "MQTTBackend",
    "Message",
    "MessageBackend",
    "NATSBackend",
    "Outcome",
    "PublisherBackend",
    "RabbitMQBackend",
    "RedisStreamBackend",
    "SNSBackend",
    "SQSBackend",
    "Shown",
    "TasksBackend",
    "WebhookBackend",
]

_MODULES = {
    "CeleryBackend": ".celery",
    "ConsoleBackend": ".console",
    "DebeziumBackend": ".debezium",
    "DummyBackend": ".dummy",
    "KafkaBackend": ".kafka",
    "LocalBackend": "django_broadcaster.consumers.local",
    "MQTTBackend": ".mqtt",
    "LocMemBackend": ".locmem",
    "NATSBackend": ".nats",
    "RabbitMQBackend": ".rabbitmq",
    "RedisStreamBackend": ".redis",
    "SNSBackend": ".sns",
    "SQSBackend": ".sqs",
    "TasksBackend": "django_broadcaster.consumers.tasks",
    "WebhookBackend": ".webhook",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module, __name__), name)
