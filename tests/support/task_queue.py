"""A backend of Django's tasks (Django 6.0 or newer) whose queue is away."""

from __future__ import annotations

from typing import Any, ClassVar

from django.tasks.backends.base import BaseTaskBackend


class AwayBackend(BaseTaskBackend):
    """Raises the error that its class has."""

    supports_priority = True
    error: ClassVar[Exception]

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Fail."""
        raise self.error
