"""The pytest plugin: its fixtures are there as soon as django-broadcaster is installed.

pytest loads plugins before Django is set up, and in projects without Django. So this module imports
nothing of Django, and the fixtures import theirs when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent

    from .capture import CapturedEvents
    from .clock import OutboxClock


@pytest.fixture
def published_events(request: pytest.FixtureRequest) -> Iterator[CapturedEvents]:
    """The `OutboxEvent`s published by the test, in order; see `capture_events`."""
    _require_app(request)
    from .capture import capture_events

    with capture_events() as events:
        yield events


@pytest.fixture
def drain(request: pytest.FixtureRequest) -> Callable[..., list[OutboxEvent]]:
    """The function that delivers every event that is due."""
    _require_app(request)
    from .draining import drain as function

    return function


@pytest.fixture
def outbox_clock(request: pytest.FixtureRequest) -> Iterator[OutboxClock]:
    """A clock that the test moves, so that scheduled events and retries become due."""
    _require_app(request)
    from .clock import outbox_clock as clock_of_block

    with clock_of_block() as clock:
        yield clock


def _require_app(request: pytest.FixtureRequest) -> None:
    """Fail the test if its project does not use django-broadcaster."""
    from django.apps import apps

    if not (apps.ready and apps.is_installed("django_broadcaster")):
        pytest.fail(
            f"The fixture {request.fixturename!r} needs Django to be set up, with "
            "'django_broadcaster' in INSTALLED_APPS. Use pytest-django, and add the app.",
            pytrace=False,
        )
