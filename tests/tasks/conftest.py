"""A project whose tasks go to the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import django
import pytest

from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

BACKEND = "django_broadcaster.tasks.OutboxTaskBackend"
QUEUES = ["default", "reports"]

if django.VERSION >= (6, 0):  # each file is skipped otherwise
    from tests.support import outbox_tasks as tasks


@pytest.fixture
def outbox(database: str, settings: Settings) -> Iterator[str]:
    """The alias of the outbox's database, whose tasks go to it, with two attempts each."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": QUEUES}}
    settings.OUTBOX_MAX_RETRIES = 1
    tasks.CALLS.clear()
    tasks.FAILURES.clear()
    with only_handlers():
        yield database
