"""Delivers to a `PublisherBackend`, which is given an `OutboxEvent` and says whether it is done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from django_broadcaster.exceptions import BackendUnavailable, TransientError

from .base import Message, MessageBackend, PublisherBackend

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent


class EventBackend(MessageBackend):
    """Hands each message to `wrapped` as an event.

    False and exceptions are failed attempts. If the backend's own health check fails then, too, the
    destination is unavailable, and no retry is spent.
    """

    def __init__(self, *, wrapped: PublisherBackend, alias: str) -> None:
        super().__init__(alias=alias)
        self.wrapped = wrapped

    def send(self, message: Message) -> None:
        """Publish one event; raises TransientError, or BackendUnavailable."""
        try:
            done: object = self.wrapped.publish(_event_of(message, self.alias))
        except BackendUnavailable:  # its text is about the destination
            raise
        except Exception as error:
            if not self.health_check():
                # Only its class: the log has the text, and that of the error may quote the event.
                raise BackendUnavailable(
                    f"{self.get_name()}.publish() raised {type(error).__name__}, "
                    "and health_check() failed"
                ) from error
            raise
        if not done:
            name = self.get_name()
            if not self.health_check():
                raise BackendUnavailable(f"{name}.health_check() failed")
            returned = "False" if done is False else type(done).__name__
            raise TransientError(f"{name}.publish() returned {returned} instead of True")

    def health_check(self) -> bool:
        """Return what the backend says; False if it raises."""
        try:
            return bool(self.wrapped.health_check())
        except Exception:
            return False

    def get_name(self) -> str:
        """Return the name of the backend."""
        return self.wrapped.get_name()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Accept every `publisher_config`: only the wrapped backend knows its keys."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "publish() must not save, mark, delete or refresh the event that it is given: the relay "
        "updates its row by what publish() returns or raises"
    )


_REFUSED = dict.fromkeys(("save", "save_base", "delete", "refresh_from_db", "_move"), _refuse)
"""Methods that would reach for the row whose key is the id of the CloudEvent: another one."""


def _event_of(message: Message, alias: str) -> OutboxEvent:
    """Return the event as its row has it; `id` is the id of the CloudEvent, as in version 0.1.

    Its methods that would read or change a row raise RuntimeError.
    """
    # Models can't be imported before `django.setup()`.
    from django_broadcaster.models import OutboxEvent

    extensions = {k: v for k, v in message.extensions.items() if k != "partitionkey"}
    event = OutboxEvent(
        id=message.event_id,
        event_id=message.event_id,
        event_type=message.event_type,
        source=message.source,
        subject=message.subject,
        time=message.time,
        data_content_type=message.data_content_type,
        data_schema=message.data_schema,
        extensions=extensions,
        data=None if message.data_binary is not None else message.event.data,
        data_binary=message.data_binary,
        partition_key=message.partition_key,
        publisher_backend=alias,
        publisher_config=dict(message.config),
        created_at=message.time or datetime.now(UTC),
        retry_count=message.attempt - 1,
    )
    event.__dict__.update(_REFUSED)
    event.__dict__["has_json_null"] = message.data_json == "null"
    return event
