"""From an event of a declared class to the arguments of a publish call, and to a CloudEvent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, overload

from django_broadcaster.events import ABSENT, CloudEvent, check_identifier

from .declarations import VERSION, EventType, event_types

T = TypeVar("T")


def keywords_of(event: Any, data: Any = ABSENT, **given: Any) -> dict[str, Any]:
    """Return the arguments of `publish_event` for an event of a declared class.

    Args:
        event: The event; or a declared class, if `data` is given.
        data: The event of the class; a `TypedDict` can't be recognised without its class.
        given: Arguments of the call, which override the declaration unless they are None. Its
            extensions are added.

    Raises:
        InvalidEvent: The event does not fit its class.
        TypeError: The class is not declared, or `data` is not an event of it.
    """
    declared, event = _declared(event, data)
    found = {
        "event_type": declared.type,
        "source": declared.source,
        "data": declared.data_of(event),
        "subject": declared.subject_of(event),
        "partition_key": declared.key_of(event),
        "data_schema": declared.data_schema or None,
        **{name: value for name, value in given.items() if value is not None},
    }
    extensions = found.get("extensions", {})
    if isinstance(extensions, Mapping):  # others are an error of the publish call
        found["extensions"] = {**extensions, VERSION: declared.version}
    return found


def _declared(event: Any, data: Any) -> tuple[EventType[Any], Any]:
    """Return the declaration of an event, and the event."""
    if data is ABSENT:
        if isinstance(event, type):
            raise TypeError(
                f"pass an event of {event.__qualname__}, or the class and the data, not the class"
            )
        if isinstance(event, dict) and event_types.find(type(event)) is None:
            raise TypeError(
                "a dictionary has no class; pass the declared TypedDict first, and then the data"
            )
        return event_types.of(type(event)), event
    if not isinstance(event, type):
        raise TypeError(
            "pass an event alone, or a declared class and its data, not "
            f"{type(event).__qualname__} and data"
        )
    declared: EventType[Any] = event_types.of(event)
    if not declared.is_instance(data):
        raise TypeError(
            f"the data of {event.__qualname__} must be an event of it, not "
            f"{type(data).__qualname__}"
        )
    return declared, data


@overload
def to_cloud_event(
    event: type[T],
    data: T,
    /,
    *,
    source: str | None = ...,
    subject: str | None = ...,
    event_id: str | None = ...,
    time: datetime | None = ...,
    partition_key: str | None = ...,
    extensions: Mapping[str, Any] | None = ...,
) -> CloudEvent: ...


@overload
def to_cloud_event(
    event: object,
    /,
    *,
    source: str | None = ...,
    subject: str | None = ...,
    event_id: str | None = ...,
    time: datetime | None = ...,
    partition_key: str | None = ...,
    extensions: Mapping[str, Any] | None = ...,
) -> CloudEvent: ...


def to_cloud_event(
    event: Any,
    data: Any = ABSENT,
    /,
    *,
    source: str | None = None,
    subject: str | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    partition_key: str | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> CloudEvent:
    """Return the CloudEvent of an event of a declared class, as `publish` sends it.

    Use it in tests of handlers, and for a `TypedDict` in `publish_events`. The arguments, and the
    errors, are those of `OutboxPublisher.publish`.
    """
    found = keywords_of(
        event,
        data,
        source=source,
        subject=subject,
        partition_key=partition_key,
        extensions=extensions,
    )
    key = found.pop("partition_key")
    if key is not None:
        found["extensions"]["partitionkey"] = check_identifier("partition_key", key)
    return CloudEvent(id=event_id, time=ABSENT if time is None else time, **found)


def from_cloud_event(event_class: type[T], event: CloudEvent) -> T:
    """Return the event of a declared class that a CloudEvent has.

    Use it in handlers of several event types, and in programs that read a broker themselves.

    Args:
        event_class: The class.
        event: The CloudEvent, whose data may have an older version.

    Raises:
        Rejected: The data do not fit the class; the text names the field.
        TransientError: The version is newer than that of the class.
        DeliveryError: An upcaster raised it, such as `Retry`.
        django.db.Error: An upcaster raised it.
        TypeError: The class is not declared.
        ValueError: The CloudEvent has another type.
    """
    declared = event_types.of(event_class)
    if event.event_type != declared.type:
        raise ValueError(
            f"event_type: must be {declared.type!r}, the type of {event_class.__qualname__}, not "
            f"{event.event_type!r}"
        )
    return declared.decode(event)
