"""Create and delete the streams, queues or topics of the services, by each broker's own client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import brokers

TITLES = {"redis": "Redis", "rabbitmq": "RabbitMQ", "nats": "NATS", "kafka": "Kafka"}
KAFKA_PARTITIONS = 2
SECONDS = 10.0


class Destinations(Protocol):
    """The streams, queues or topics of a broker."""

    def create(self, names: Sequence[str]) -> None:
        """Connect, and create what neither a backend nor a consumer creates by itself."""

    def delete(self, names: Sequence[str]) -> None:
        """Delete them with their messages."""


class RedisStreams:
    """Streams of Redis, which begin with their first entry."""

    def create(self, names: Sequence[str]) -> None:
        with _redis() as client:
            client.ping()

    def delete(self, names: Sequence[str]) -> None:
        with _redis() as client:
            client.delete(*names)


class RabbitMQQueues:
    """Queues of RabbitMQ and their exchanges, which the backend and the consumer declare."""

    def create(self, names: Sequence[str]) -> None:
        with _rabbitmq():
            pass

    def delete(self, names: Sequence[str]) -> None:
        with _rabbitmq() as connection:
            for name in names:
                channel = connection.channel()
                channel.queue_delete(name)
                channel.exchange_delete(name)


class NATSStreams:
    """Streams of NATS JetStream, which the backend creates."""

    def create(self, names: Sequence[str]) -> None:
        asyncio.run(self._delete([]))

    def delete(self, names: Sequence[str]) -> None:
        asyncio.run(self._delete(names))

    async def _delete(self, names: Sequence[str]) -> None:
        import nats
        from nats.js.errors import NotFoundError

        client = await asyncio.wait_for(
            nats.connect(brokers.address("nats"), max_reconnect_attempts=1, error_cb=_ignore),
            SECONDS,
        )
        try:
            for name in names:
                with contextlib.suppress(NotFoundError):
                    await client.jetstream().delete_stream(name)
        finally:
            await client.close()


class KafkaTopics:
    """Topics of Kafka."""

    def create(self, names: Sequence[str]) -> None:
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import NewTopic

        admin = _kafka()
        admin.list_topics(timeout=SECONDS)
        topics = [NewTopic(name, num_partitions=KAFKA_PARTITIONS) for name in names]
        for created in admin.create_topics(topics, operation_timeout=SECONDS).values():
            try:
                created.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def delete(self, names: Sequence[str]) -> None:
        admin = _kafka()
        # The group of a service is named as the topic of its own events.
        for deletions in (admin.delete_topics(list(names)), admin.delete_consumer_groups([*names])):
            for deleted in deletions.values():
                with contextlib.suppress(Exception):  # what is left does no harm
                    deleted.result()


DESTINATIONS: dict[str, Destinations] = {
    "redis": RedisStreams(),
    "rabbitmq": RabbitMQQueues(),
    "nats": NATSStreams(),
    "kafka": KafkaTopics(),
}


def _redis() -> Any:
    import redis

    return redis.Redis.from_url(brokers.address("redis"))


@contextmanager
def _rabbitmq() -> Iterator[Any]:
    import amqp

    url = urlsplit(brokers.address("rabbitmq"))
    connection = amqp.Connection(
        f"{url.hostname}:{url.port or 5672}",
        userid=unquote(url.username or "guest"),
        password=unquote(url.password or "guest"),
        virtual_host=unquote(url.path[1:]) or "/",
        connect_timeout=SECONDS,
    )
    connection.connect()
    with connection:
        yield connection


def _kafka() -> Any:
    from confluent_kafka.admin import AdminClient

    quiet = {"log_level": 0, "socket.timeout.ms": int(SECONDS * 1000)}
    return AdminClient({"bootstrap.servers": brokers.kafka_servers(), **quiet})


async def _ignore(error: Exception) -> None:
    """Print nothing: the call itself raises the error."""
