"""The quick look at an event's size, which spares most events the exact one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from django_broadcaster.events import CloudEvent
from django_broadcaster.publishing.columns import columns_of
from django_broadcaster.publishing.limits import most_bytes
from tests.events.strategies import EVENTS


def check(event: CloudEvent) -> None:
    """Fail if an event may take more bytes than the quick look says."""
    columns = columns_of(event, None, partitions=64, use_tz=True)
    data = columns.data or ""
    spaces = data.count(",") + data.count(":")  # that databases add at the most
    assert most_bytes(columns) >= len(event.to_json()) + spaces


@given(EVENTS)
def test_no_event_is_larger_than_the_quick_look_says(event: CloudEvent) -> None:
    """The bound holds for any event, with the spaces that a database may add to its data."""
    check(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": '"' * 512, "id": "\\" * 255},
        {"subject": "😀" * 512, "id": "\u2028" * 255},
        {"data": ["\x01" * 1000, ":,", {}]},
        {"data": b"x"},
        {"data": "😀" * 1000},
        {"data": [[], [], []] * 100},
        {"extensions": {"e" * 20: '"' * 500, "partitionkey": '"' * 255}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_no_character_is_larger_than_the_quick_look_says(changes: dict[str, Any]) -> None:
    """The bound holds where every character is escaped, or takes four bytes."""
    check(CloudEvent(**{"event_type": "t", "source": "s", **changes}))
