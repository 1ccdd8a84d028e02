"""RabbitMQ: every event becomes a persistent message, confirmed by the server.

    content_type, application_headers, body   by the CloudEvents AMQP binding
    message_id                                the event's id, where it is no longer than 255 bytes
    delivery_mode                             2, persistent

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md is
written for AMQP 1.0. RabbitMQ's own protocol, 0-9-1, carries the same: an application property is a
header here. A confirmed message is in every queue it belongs to, and as durable as the queue is.
"""

from .backend import RabbitMQBackend

__all__ = ["RabbitMQBackend"]
