"""NATS JetStream: the messages of a stream, by a durable pull consumer.

`consumer` has the options and the contract, `reader` requests messages and keeps their order.

The server gives each message to one receiver, and to another one if it is not acknowledged within
`ack_wait`. It does not wait with later messages meanwhile. So the reader of an ordered consumer
holds messages back while it lacks an earlier one.
"""

from .consumer import NATSConsumer

__all__ = ["NATSConsumer"]
