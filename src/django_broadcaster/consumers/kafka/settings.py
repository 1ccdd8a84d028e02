"""The settings of librdkafka for a consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

RESETS: Final[Mapping[str, str]] = {"all": "earliest", "new": "latest"}
"""Kafka's words for the values of `start`."""

METADATA_SECONDS: Final = 30.0
"""Seconds after which a topic or a partition that was added is noticed."""

REFUSED: Final[Mapping[str, str]] = {
    "auto.offset.reset": "give the option 'start' instead",
    "group.id": "give the option 'group' instead",
    "group.instance.id": "give the option 'group_instance_id' instead",
    "session.timeout.ms": "give the option 'session_timeout' instead",
    "socket.timeout.ms": "give the option 'timeout' instead",
    **dict.fromkeys(
        ("enable.auto.commit", "auto.commit.enable", "enable.auto.offset.store"),
        "an offset is committed when the rows of its records are",
    ),
    **dict.fromkeys(
        ("group.protocol", "partition.assignment.strategy"),
        "the consumer needs 'cooperative-sticky' assignment",
    ),
    **dict.fromkeys(("enable.partition.eof", "on_commit"), "the consumer uses it"),
}
"""Settings that the option `config` may not have, and why."""


def settings_of(
    *,
    group: str,
    group_instance_id: str | None,
    start: str,
    session_timeout: float,
    timeout: float,
) -> dict[str, Any]:
    """Return the settings for the options of `KafkaConsumer`."""
    milliseconds = int(timeout * 1000)
    session = int(session_timeout * 1000)
    ours = {
        "group.id": group,
        "auto.offset.reset": RESETS[start],
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "partition.assignment.strategy": "cooperative-sticky",
        "isolation.level": "read_committed",
        "session.timeout.ms": session,
        "heartbeat.interval.ms": min(session // 3, 3000),
        "max.poll.interval.ms": max(session, 300_000),
        "fetch.wait.max.ms": 500,
        "socket.timeout.ms": milliseconds + 1000,
        "socket.connection.setup.timeout.ms": milliseconds,
        "api.version.request.timeout.ms": milliseconds,
        # What is fetched ahead is in memory: two batches are enough.
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 50,
        "topic.metadata.refresh.interval.ms": int(METADATA_SECONDS * 1000),
        "log.connection.close": False,
    }
    if group_instance_id is not None:
        ours["group.instance.id"] = group_instance_id
    return ours
