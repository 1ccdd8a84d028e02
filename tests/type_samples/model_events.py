"""A project's models with events; nothing here is run."""

from __future__ import annotations

from typing import ClassVar, Self, assert_type

from django.db import models

from django_broadcaster.model_events import (
    PublishingManager,
    PublishingModel,
    publishes,
    suppressed,
)


@publishes(created="ticket.created", source="/shop", fields=["title"], key="id")
class Ticket(PublishingModel):
    """A model with the manager of its base class."""

    title = models.CharField(max_length=10)

    def __str__(self) -> str:
        return self.title


@publishes(updated="note.updated", source="/shop", fields={"text": "title"})
class Note(models.Model):
    """A model with its own manager."""

    title = models.CharField(max_length=10)

    objects: ClassVar[PublishingManager[Self]] = PublishingManager()

    def __str__(self) -> str:
        return self.title


@suppressed(Ticket, Note)
def create() -> Ticket:
    """Decorated functions keep their types."""
    assert_type(Ticket.objects.create(title="x"), Ticket)
    assert_type(Note.objects.create(title="x"), Note)
    with suppressed():
        return Ticket.objects.create(title="x")


assert_type(create(), Ticket)
