"""RabbitMQ: messages of a classic or quorum queue, acknowledged once their rows are committed.

`consumer` is the consumer itself, `connection` has what the server has delivered, and `incoming`
makes messages of frames.
"""

from .consumer import RabbitMQConsumer

__all__ = ["RabbitMQConsumer"]
