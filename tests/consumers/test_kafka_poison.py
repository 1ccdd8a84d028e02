"""Records of any bytes become dead letters in the database, and reading goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from django_broadcaster.consumers.rows import MALFORMED_TYPE
from django_broadcaster.models import OutboxEvent
from tests.support.kafka_events import publish
from tests.support.kafka_raw import produce_with_header
from tests.support.kafka_server import committed_offsets, make_topic, produce, shared_servers
from tests.support.waiting import wait_until

from .test_receiver import SECONDS, receiving

POISON: Mapping[str, tuple[bytes | None, bytes | None, Mapping[str, Any]]] = {
    "nothing": (None, None, {}),
    "no key": (None, b"\xff\x00\xfe", {}),
    "tombstone": (b"order-1", None, {}),
    "no bytes": (b"order-1", b"", {}),
    "binary key": (b"\xff\x00", b"{}", {}),
    "binary header": (b"order-1", b"bad", {"trace": b"\xff\x00\xfe"}),
    "header without a value": (b"order-1", b"bad", {"trace": None}),
    "huge header": (b"order-1", b"bad", {"trace": b"\xff" * 900_000}),
    "many headers": (b"order-1", b"bad", {f"h{number}": b"x" for number in range(10_000)}),
    "binary attributes": (b"order-1", b"{}", {"ce_id": b"\xff", "ce_specversion": b"1.0"}),
}


@pytest.fixture
def servers() -> str:
    """The address of the shared broker."""
    return shared_servers()


@pytest.fixture
def topic(servers: str, settings: Any) -> str:
    """A topic of one partition, which the consumer reads."""
    made = make_topic(servers)
    handlers = {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    settings.OUTBOX_PUBLISHERS = {"handlers": handlers}
    settings.OUTBOX_CONSUMERS = {
        "orders": {
            "CONSUMER": "django_broadcaster.consumers.KafkaConsumer",
            "OPTIONS": {"bootstrap_servers": servers, "topics": made, "group": made},
        }
    }
    return made


def test_any_bytes_become_a_dead_letter_and_reading_goes_on(
    database: str, servers: str, topic: str
) -> None:
    """Each record that holds no event is a dead letter with its bytes, between two events."""
    publish(servers, topic, ["k-first"])
    produce(servers, topic, POISON.values())
    produce_with_header(servers, topic, b"bad", b"\xff\xfe")
    publish(servers, topic, ["k-last"])
    end = len(POISON) + 3
    with receiving(database, limit=100):
        wait_until(lambda: committed_offsets(servers, topic, topic) == {0: end}, SECONDS, "the end")
    first, *poison, last = OutboxEvent.objects.using(database).order_by("id")
    assert (first.event_id, last.event_id) == ("k-first", "k-last")
    assert {(each.status, each.event_type) for each in poison} == {("failed", MALFORMED_TYPE)}
    bodies = [value or b"" for _, value, _ in POISON.values()]
    assert [bytes(each.data_binary or b"") for each in poison] == [*bodies, b"bad"]
    assert all(each.last_error for each in poison)
    assert "headers can't be read: UnicodeDecodeError" in poison[-1].last_error
