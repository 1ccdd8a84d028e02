"""RabbitMQ: every event becomes a persistent message, confirmed by the server.

    content_type, application_headers, body   by the CloudEvents binding for RabbitMQ
    message_id                                the event's id, if it has at most 255 bytes
    delivery_mode                             2, persistent
    expiration                                milliseconds until the event's `expirytime`, if any
    priority, correlation_id, ...             as the event's `publisher_config` says

https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md
The binding of CloudEvents itself is written for AMQP 1.0, and differs in the names of the headers
of binary mode (`header_prefix`). A confirmed message is in every queue it belongs to, and as
durable as the queue is.
"""

from .backend import RabbitMQBackend

__all__ = ["RabbitMQBackend"]
