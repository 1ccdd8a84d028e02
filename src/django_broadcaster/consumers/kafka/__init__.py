"""Kafka: the records of topics, as a member of a consumer group.

`consumer` has the options and the contract, `offsets` knows what can be committed.

The group gives each partition to one receiver. A partition that moves to another one is read again
from its committed offset: the outbox skips what the former receiver has stored.
"""

from .consumer import KafkaConsumer

__all__ = ["KafkaConsumer"]
