"""The pytest plugin: its fixtures are there as soon as django-broadcaster is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .capture import CapturedEvents


@pytest.fixture
def outbox_events() -> Iterator[CapturedEvents]:
    """The `OutboxEvent`s published by the test, in order; see `capture_events`."""
    # Here, because pytest loads plugins before Django is set up.
    from .capture import capture_events

    with capture_events() as events:
        yield events
