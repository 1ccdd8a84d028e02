"""The columns of a row: those of the event, and those that plan its delivery."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from django_broadcaster import encryption
from django_broadcaster.events import CloudEvent, check_identifier, encode_data, resolved
from django_broadcaster.exceptions import InvalidEvent, InvalidPublisherConfig
from django_broadcaster.models import OutboxEvent
from django_broadcaster.setting_rules import MAX_RETRIES
from django_broadcaster.states import RETRIES_OF_SETTINGS, OutboxEventStatus
from django_broadcaster.store import EventColumns, NewRow, as_stored

_PENDING = OutboxEventStatus.PENDING.value
_SCHEDULED = OutboxEventStatus.SCHEDULED.value
_BINARY = (bytes, bytearray, memoryview)


class DeliveryPlan(NamedTuple):
    """When and how often to deliver an event; `config_json` is `config` as it is written.

    `max_retries` may be RETRIES_OF_SETTINGS, which depends on the backend and the event type.
    """

    config: Mapping[str, Any] | None
    config_json: str
    status: str
    scheduled_at: datetime
    max_retries: int


def delivery_of(
    now: datetime,
    scheduled_at: datetime | None,
    max_retries: int,
    publisher_config: Mapping[str, Any] | None,
) -> DeliveryPlan:
    """Return the validated arguments; raises InvalidEvent or InvalidPublisherConfig."""
    config_json = "{}" if publisher_config is None else _json_config(publisher_config)
    due = now if scheduled_at is None else _due(scheduled_at)
    status = _PENDING if due <= now else _SCHEDULED
    if max_retries is not RETRIES_OF_SETTINGS:
        max_retries = checked_retries(max_retries)
    return DeliveryPlan(publisher_config, config_json, status, due, max_retries)


def columns_of(
    event: CloudEvent, partition_key: str | None, *, partitions: int, use_tz: bool
) -> EventColumns:
    """Return the event's own columns, JSON as text; raises InvalidEvent."""
    extensions, key = _without_key(event.extensions, partition_key)
    data = event.data
    binary = isinstance(data, _BINARY)
    columns = EventColumns(
        event.id,
        event.source,
        event.event_type,
        event.subject,
        event.time if use_tz or event.time is None else in_local_time(event.time),
        event.stated_content_type,
        event.data_schema,
        encode_data(extensions) if extensions else "{}",
        encode_data(data) if event.has_data and not binary else None,
        bytes(data) if binary else None,
        None,
        key,
        # Without a key, the id distributes the events over the partitions.
        crc32((key or event.id).encode()) % partitions,
    )
    if attribute_characters(columns) > _shortest():
        _fits(columns)
    return columns


def sealed(columns: EventColumns, connection: BaseDatabaseWrapper) -> EventColumns:
    """Return the columns with the data encrypted; raises BackendConfigurationError.

    The plain text is what the database would have returned, so that the same is delivered.
    """
    data = None if columns.data is None else as_stored(columns.data, connection)
    return columns._replace(
        data=None, data_binary=None, sealed=encryption.seal(data, columns.data_binary)
    )


def attribute_characters(columns: EventColumns | NewRow) -> int:
    """Return the number of characters of all attributes of an event together."""
    return (
        len(columns.event_id)
        + len(columns.source)
        + len(columns.event_type)
        + len(columns.subject)
        + len(columns.data_content_type)
        + len(columns.data_schema)
        + len(columns.extensions)
        + len(columns.partition_key)
    )


def characters(columns: EventColumns | NewRow) -> int:
    """Return the number of characters of an event; a byte of binary data counts as one."""
    data = len(columns.data or "") + len(columns.data_binary or b"") + len(columns.sealed or b"")
    return attribute_characters(columns) + data


def _without_key(
    extensions: Mapping[str, Any], partition_key: str | None
) -> tuple[Mapping[str, Any], str]:
    """Return the extensions without the key, and the key, which has a column of its own."""
    extension_key = ""
    if extensions:
        extensions = dict(extensions)
        extension_key = str(extensions.pop("partitionkey", ""))
    if partition_key is None:
        return extensions, extension_key
    key = check_identifier("partition_key", partition_key)
    if extension_key not in ("", key):
        raise InvalidEvent("partition_key", "differs from the event's extension partitionkey")
    return extensions, key


def _fits(columns: EventColumns) -> None:
    """Raise InvalidEvent if a value is longer than its column."""
    for position, longest in _max_lengths():
        length = len(columns[position])  # type: ignore[arg-type]
        if length > longest:
            name = EventColumns._fields[position]
            raise InvalidEvent(name, f"has {length} characters, its column holds {longest}")


@cache
def _shortest() -> int:
    return min(longest for _, longest in _max_lengths())


@cache
def _max_lengths() -> list[tuple[int, int]]:
    """Return the position and the length of each column of limited text."""
    names = ("event_id", "source", "event_type", "subject", "data_content_type", "data_schema")
    return [
        (EventColumns._fields.index(name), OutboxEvent._meta.get_field(name).max_length)  # type: ignore[union-attr,misc]
        for name in (*names, "partition_key")
    ]


def checked_retries(value: object) -> int:
    """Return a number of retries; raises InvalidEvent."""
    if type(value) is not int:
        value = resolved(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_RETRIES:
        return int(value)
    raise InvalidEvent("max_retries", f"must be an integer from 0 to {MAX_RETRIES}, not {value!r}")


def _json_config(config: object) -> str:
    """Return `publisher_config` as JSON text; raises InvalidPublisherConfig."""
    if not isinstance(config, Mapping):
        raise InvalidPublisherConfig(f"must be a dictionary, not {config!r}")
    try:
        return encode_data({**config})
    except InvalidEvent as error:
        raise InvalidPublisherConfig(error.message) from error


def in_local_time(moment: datetime) -> datetime:
    """Return an aware datetime as Django stores it if USE_TZ is off."""
    # Not in the current time zone: a request may have activated another one.
    return timezone.make_naive(moment, timezone.get_default_timezone())


def _due(scheduled_at: datetime) -> datetime:
    """Return `scheduled_at` as the database takes it; raises InvalidEvent."""
    scheduled_at = resolved(scheduled_at)
    if not isinstance(scheduled_at, datetime):
        raise InvalidEvent("scheduled_at", f"must be a datetime, not {scheduled_at!r}")
    if timezone.is_naive(scheduled_at):
        if settings.USE_TZ:
            raise InvalidEvent(
                "scheduled_at", "is naive while USE_TZ is on; use timezone.make_aware(scheduled_at)"
            )
        return scheduled_at
    try:
        moment = scheduled_at.astimezone(UTC)
        return moment if settings.USE_TZ else in_local_time(moment)
    except OverflowError as error:
        raise InvalidEvent("scheduled_at", f"is outside of the years 1 to 9999: {error}") from error
