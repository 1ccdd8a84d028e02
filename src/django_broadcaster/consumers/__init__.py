"""The other half: messages of a broker are received, and handlers are given their events.

- `base` is the contract of a consumer, and each broker's consumer has a file of its own.
- `handler` makes the consumers of OUTBOX_CONSUMERS, and `rows` writes what they receive.
- `local` and `tasks` are the backends that run handlers: in the relay, or as Django's tasks.

The names are loaded at first use: models can't be imported before `django.setup()`, and no broker's
client is needed before a consumer is made.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Consumer, Delivery, ReceivedMessage

if TYPE_CHECKING:
    from .http import CloudEventView
    from .kafka import KafkaConsumer
    from .local import LocalBackend
    from .mqtt import MQTTConsumer
    from .nats import NATSConsumer
    from .rabbitmq import RabbitMQConsumer
    from .redis import RedisStreamConsumer
    from .sqs import SQSConsumer
    from .tasks import TasksBackend

__all__ = [
    "CloudEventView",
    "Consumer",
    "Delivery",
    "KafkaConsumer",
    "LocalBackend",
    "MQTTConsumer",
    "NATSConsumer",
    "RabbitMQConsumer",
    "ReceivedMessage",
    "RedisStreamConsumer",
    "SQSConsumer",
    "TasksBackend",
]

_MODULES = {
    "CloudEventView": ".http",
    "KafkaConsumer": ".kafka",
    "LocalBackend": ".local",
    "MQTTConsumer": ".mqtt",
    "NATSConsumer": ".nats",
    "RabbitMQConsumer": ".rabbitmq",
    "RedisStreamConsumer": ".redis",
    "SQSConsumer": ".sqs",
    "TasksBackend": ".tasks",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module, __name__), name)
