"""Kafka: the records of topics, as a member of a consumer group.

`consumer` has the options and the contract, and follows the partitions that the group gives it.
`records` makes messages of records, `offsets` knows what can be committed, and `lag` asks for the
records that wait. `settings` are those of librdkafka.

The group gives each partition to one receiver. A partition that moves to another one is read again
from its committed offset: the outbox skips what the former receiver has stored.
"""

from .consumer import KafkaConsumer

__all__ = ["KafkaConsumer"]
