"""MQTT 5: messages of a subscription with QoS 1, acknowledged once their rows are committed.

`consumer` is the consumer itself, `connection` has what the server has sent, and `incoming` reads
and writes the packets of a subscriber.
"""

from .consumer import MQTTConsumer

__all__ = ["MQTTConsumer"]
