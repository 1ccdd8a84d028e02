"""Kafka: every event becomes one record of a topic, by the CloudEvents protocol binding.

    key       the event's key; records of one key are in one partition, in order
    value     structured mode: the whole event, in the JSON format
              binary mode: the data; null for an event without any (in a compacted topic, a
              tombstone: the record of that key is deleted)
    headers   `content-type`, and in binary mode `ce_` and the name for each attribute

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
Needs Kafka 0.11 or newer, or what speaks its protocol. Where ACLs are used, the user may write to
and describe its topics.
"""

from .backend import KafkaBackend

__all__ = ["KafkaBackend"]
