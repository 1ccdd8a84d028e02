"""Redis Streams: a consumer group reads one or several streams.

consumer   the consumer: its options, and from replies to deliveries
entries    what an entry says: the body and the fields of a message, and the event in it
group      one stream: new entries, and those that other readers of the group hold

The group stores which entries were given to which reader and are not acknowledged. A reader's name
is new each time that the consumer is opened, so what is pending under any other name was left by a
reader that is gone, or that has lost the right to read.
"""

from .consumer import RedisStreamConsumer

__all__ = ["RedisStreamConsumer"]
