"""Batches of messages for the tests of backends, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_broadcaster.backends import Message, Outcome
from django_broadcaster.exceptions import DeliveryError
from django_broadcaster.testing import make_message


def numbers(count: int, key: str = "", **options: Any) -> list[Message]:
    """Messages whose data is 0, 1, 2, ..."""
    return [make_message(data=number, partition_key=key, **options) for number in range(count)]


def kinds(outcomes: Sequence[Outcome]) -> list[type[DeliveryError] | None]:
    """The types of outcomes."""
    return [None if outcome is None else type(outcome) for outcome in outcomes]


def left_of(messages: Sequence[Message], outcomes: Sequence[Outcome]) -> list[Message]:
    """The messages that were not acknowledged."""
    return [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is not None]


def assert_first_times(stored: Sequence[str], messages: Sequence[Message]) -> None:
    """Assert that all arrived, those of each key in order at their first time."""
    first = list(dict.fromkeys(stored))
    assert set(first) == {message.event_id for message in messages}
    for key in {message.partition_key for message in messages}:
        mine = [message.event_id for message in messages if message.partition_key == key]
        assert [each for each in first if each in set(mine)] == mine
