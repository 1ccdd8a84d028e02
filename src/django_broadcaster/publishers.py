"""The publishers API: write events to the outbox in the caller's own transaction.

    with transaction.atomic():
        order = Order.objects.create(...)
        publisher.publish_event("order.placed", "/shop/orders", {"id": order.id})

Importing this module opens no connection and loads no broker's client. Every error about a call's
arguments is a `PublishError` that names the argument, raised before any SQL, so that the caller's
transaction stays usable.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Dict  # noqa: UP035  # spelled as on the API page that this class keeps
from zlib import crc32

import orjson
from django.conf import settings
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from .backends.handler import backends
from .conf import conf
from .events import (
    ABSENT,
    CloudEvent,
    as_cloud_event,
    check_extensions,
    check_string,
    encode_data,
    envelope,
    is_deeper,
)
from .exceptions import (
    InvalidEvent,
    InvalidPublisherConfig,
    PayloadTooLarge,
    UnknownBackend,
    WrongTransaction,
)
from .models import OutboxEvent
from .querysets import growth, identity_of, insert_event, max_depth
from .relay.wakeup import notify_after_commit
from .signals import event_created
from .states import OutboxEventStatus

MAX_RETRIES = 32_767
"""The most that `max_retries` may be: what the smallest of the databases' integer columns holds."""


class OutboxPublisher:
    """Main publisher class for the outbox pattern. Instances hold no state and are thread-safe."""

    def __init__(self) -> None:
        pass

    def _load_backends(self) -> None:
        """Make every configured backend; raises BackendConfigurationError for a wrong setting."""
        for alias in backends.aliases():
            backends[alias]

    def _get_default_backend(self) -> str | None:
        """Return `default` if there is such an alias, else the only alias, else None."""
        aliases = backends.aliases()
        if "default" in aliases:
            return "default"
        return aliases[0] if len(aliases) == 1 else None

    def publish_event(
        self,
        event_type: str,
        source: str,
        data: Any | None = None,
        subject: str = "",
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = 3,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        partition_key: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        data_content_type: str | None = None,
        data_schema: str | None = None,
        using: str | None = None,
    ) -> OutboxEvent:
        """Publish an event to the outbox: it is delivered if and only if the transaction commits.

        event_type, source: required attributes; `source` is a URI reference.
        data: the payload: anything Django's JSON encoder takes, or bytes. None is no data.
        subject: what the event is about, within the source.
        backend: an alias of OUTBOX_PUBLISHERS. None goes by OUTBOX_ROUTES, else to the alias
            `default`, else to the only one.
        scheduled_at: deliver not before this moment; now unless given.
        max_retries: attempts after the first one; 0 tries once.
        publisher_config: options of this one event; each backend lists the keys it knows.
        event_id: publishing the same (source, event_id) to a backend twice writes one row and
            returns it. A UUIDv7 unless given.
        time: when it happened, an aware datetime; now unless given.
        partition_key: events of one key and one backend are delivered in publish order; it
            travels as the attribute `partitionkey`.
        extensions: further CloudEvents attributes, names of `[a-z0-9]{1,20}`.
        data_content_type: media type; `application/json` unless given.
        data_schema: absolute URI of the schema that the data follows.
        using: database alias, by default where the router writes `OutboxEvent`.

        Returns the row; of several by a route, the first. Raises InvalidEvent, of which
        PayloadTooLarge is one, UnknownBackend, InvalidPublisherConfig or WrongTransaction.
        """
        cloud_event = CloudEvent(
            type=event_type,
            source=source,
            id=event_id,
            data=ABSENT if data is None else data,
            subject=subject,
            time=ABSENT if time is None else time,
            data_content_type=data_content_type,
            data_schema=data_schema,
            extensions=extensions,
        )
        return self._publish(
            cloud_event,
            backend=backend,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            publisher_config=publisher_config,
            partition_key=partition_key,
            unique=event_id is not None,
            using=using,
        )

    def publish_cloud_event(
        self,
        cloud_event: CloudEvent,
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = 3,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        *,
        partition_key: str | None = None,
        using: str | None = None,
    ) -> OutboxEvent:
        """Publish a CloudEvent to the outbox, with every attribute that it has.

        Takes our `CloudEvent` and the official `cloudevents` SDK's. Its `partitionkey` extension
        is its key unless `partition_key` is given. Publishing the same event to a backend twice
        writes one row and returns it. Everything else is as for `publish_event`; raises
        TypeError for an object of another kind.
        """
        event = as_cloud_event(cloud_event)
        check_extensions(event.extensions)  # names may be longer in what one receives
        return self._publish(
            event,
            backend=backend,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            publisher_config=publisher_config,
            partition_key=partition_key,
            unique=True,
            using=using,
        )

    def process_pending_events(self, batch_size: int = 100) -> int:
        """Deliver up to `batch_size` pending events of every backend here and now.

        For tests, scripts and cron; `manage.py outbox_worker` is what a service runs. It takes
        the partitions that no running relay owns, keeps the same promises as a relay, and gives
        them back. Returns the number of events that were attempted. Raises RuntimeError inside
        a transaction (but that of a TestCase): it would deliver what has not been committed.
        """
        from .relay.inline import deliver_pending

        return deliver_pending(batch_size)

    def _process_single_event(self, event: OutboxEvent) -> bool:
        """Deliver one event here and now; return True once its broker has acknowledged it.

        False when the attempt failed, and also when it is not the event's turn: it is not
        pending, an earlier event of its key is undelivered, or a running relay owns it.
        """
        from .relay.inline import deliver_one

        return deliver_one(event)

    def get_backend_health(self) -> Dict[str, bool]:  # noqa: UP006
        """Return for each alias whether its broker can be reached now."""
        return {alias: backends[alias].health_check() for alias in backends.aliases()}

    def _publish(
        self,
        event: CloudEvent,
        *,
        backend: str | None,
        scheduled_at: datetime | None,
        max_retries: int,
        publisher_config: Mapping[str, Any] | None,
        partition_key: str | None,
        unique: bool,
        using: str | None,
    ) -> OutboxEvent:
        aliases = self._aliases(event.type, backend)
        columns = {
            **_attributes(event, partition_key),
            **_delivery(scheduled_at, max_retries, publisher_config),
        }
        _fits(columns)
        database = using or router.db_for_write(OutboxEvent)
        _storable(event.data, columns, database)
        for alias in aliases:
            _accepted_by(alias, columns, publisher_config, database)
        _in_right_transaction(database)
        return _insert(columns, aliases, unique, database)

    def _aliases(self, event_type: str, backend: str | None) -> list[str]:
        """Return the aliases that an event goes to; raises UnknownBackend."""
        known = backends.aliases()
        target: Any = [backend]
        if backend is None:
            target = _route(event_type) or self._get_default_backend()
        if not target:
            raise UnknownBackend(None, known)
        aliases = [target] if isinstance(target, str) else list(target)
        for alias in aliases:
            if alias not in known:
                raise UnknownBackend(alias, known)
        return aliases


def _route(event_type: str) -> str | list[str] | None:
    """Return the target of the first pattern of OUTBOX_ROUTES that matches."""
    for pattern, target in conf.ROUTES.items():
        if fnmatchcase(event_type, pattern):
            return target
    return None


def _attributes(event: CloudEvent, partition_key: str | None) -> dict[str, Any]:
    """Return the event's own columns, JSON as text; the key leaves the extensions."""
    extensions = dict(event.extensions)
    extension_key = str(extensions.pop("partitionkey", ""))
    key = extension_key
    if partition_key is not None:
        key = check_string("partition_key", partition_key)
        if extension_key not in ("", key):
            raise InvalidEvent("partition_key", "differs from the event's extension partitionkey")
    binary = isinstance(event.data, bytes | bytearray | memoryview)
    return {
        "event_id": event.id,
        "source": event.source,
        "event_type": event.type,
        "subject": event.subject or "",
        "time": _as_stored(event.time),
        "data_content_type": event.data_content_type or "",
        "data_schema": event.data_schema or "",
        "extensions": encode_data(extensions) if extensions else "{}",
        "data": encode_data(event.data) if event.has_data and not binary else None,
        "data_binary": bytes(event.data) if binary else None,
        "partition_key": key,
        # Without a key the id spreads the events over the partitions.
        "partition": crc32((key or event.id).encode()) % conf.PARTITIONS,
    }


def _delivery(
    scheduled_at: datetime | None, max_retries: int, publisher_config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the columns that say when and how often to deliver; raises InvalidEvent."""
    config = _json_config(publisher_config)
    now = timezone.now()
    due = now if scheduled_at is None else _due(scheduled_at)
    return {
        "publisher_config": config,
        "status": OutboxEventStatus.PENDING if due <= now else OutboxEventStatus.SCHEDULED,
        "scheduled_at": due,
        "created_at": now,
        "max_retries": _retries(max_retries),
    }


def _retries(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_RETRIES:
        return value
    raise InvalidEvent("max_retries", f"must be an integer from 0 to {MAX_RETRIES}, not {value!r}")


def _json_config(config: object) -> str:
    """Return `publisher_config` as JSON text; raises InvalidPublisherConfig."""
    if config is None:
        return "{}"
    if not isinstance(config, Mapping):
        raise InvalidPublisherConfig(f"must be a dictionary, not {config!r}")
    try:
        return encode_data({**config})
    except InvalidEvent as error:
        raise InvalidPublisherConfig(error.message) from error


def _as_stored(moment: datetime | None) -> datetime | None:
    """Return an aware moment as Django stores it, which is naive where USE_TZ is off."""
    if moment is None or settings.USE_TZ:
        return moment
    # Not to the current time zone, which a request may have activated.
    return timezone.make_naive(moment, timezone.get_default_timezone())


def _due(scheduled_at: datetime) -> datetime:
    """Return `scheduled_at` as the database takes it; raises InvalidEvent."""
    if not isinstance(scheduled_at, datetime):
        raise InvalidEvent("scheduled_at", f"must be a datetime, not {scheduled_at!r}")
    if timezone.is_naive(scheduled_at):
        if settings.USE_TZ:
            raise InvalidEvent(
                "scheduled_at", "is naive while USE_TZ is on; use timezone.make_aware(scheduled_at)"
            )
        return scheduled_at
    try:
        return _as_stored(scheduled_at.astimezone(UTC)) or scheduled_at
    except OverflowError as error:
        raise InvalidEvent("scheduled_at", f"is outside of the years 1 to 9999: {error}") from error


def _fits(columns: Mapping[str, Any]) -> None:
    """Raise InvalidEvent for a value that is longer than its column."""
    for name, longest in _max_lengths().items():
        if len(columns[name]) > longest:
            raise InvalidEvent(
                name, f"has {len(columns[name])} characters, its column holds {longest}"
            )


@cache
def _max_lengths() -> dict[str, int]:
    names = ("event_id", "source", "event_type", "subject", "data_content_type", "data_schema")
    fields = (OutboxEvent._meta.get_field(name) for name in (*names, "partition_key"))
    return {field.name: field.max_length for field in fields}  # type: ignore[union-attr,misc]


def _storable(data: Any, columns: Mapping[str, Any], using: str) -> None:
    """Raise InvalidEvent for data that is valid JSON and that this database does not take."""
    levels, text = max_depth(using), columns["data"] or ""
    if levels is None or text.count("[") + text.count("{") <= levels:
        return
    if is_deeper(data, levels):
        raise InvalidEvent(
            "data", f"is nested over {levels} levels deep, the most of this database; flatten it"
        )


def _accepted_by(
    alias: str, columns: Mapping[str, Any], config: Mapping[str, Any] | None, using: str
) -> None:
    """Raise InvalidPublisherConfig or PayloadTooLarge if the backend will never take the event."""
    backend = backends[alias]
    if config:
        backend.validate_config(config)
    limit = backend.max_message_bytes
    if limit is not None:
        size = _size(columns, using)
        if size > limit:
            raise PayloadTooLarge(alias, size, limit)


def _size(columns: Mapping[str, Any], using: str) -> int:
    """Return the bytes of the event in the CloudEvents JSON format, as the relay sends it."""
    extensions = orjson.loads(columns["extensions"])
    if columns["partition_key"]:
        extensions["partitionkey"] = columns["partition_key"]
    message = envelope(
        id=columns["event_id"],
        source=columns["source"],
        type=columns["event_type"],
        time=columns["time"],
        subject=columns["subject"],
        data_content_type=columns["data_content_type"],
        data_schema=columns["data_schema"],
        extensions=extensions,
        data_json=columns["data"],
        data_binary=columns["data_binary"],
    )
    return len(message) + growth(using, columns["data"] or "")


def _in_right_transaction(using: str) -> None:
    """Raise WrongTransaction where the row would not commit with the change it is about."""
    if _in_transaction(connections[using]):
        return
    elsewhere = [c.alias for c in connections.all(initialized_only=True) if _in_transaction(c)]
    if elsewhere:
        raise WrongTransaction(
            f"using: the event would go to database {using!r}, but the open transaction is on "
            f"{', '.join(map(repr, elsewhere))}; open one on {using!r} around the change and the "
            f"publish call, or pass using={elsewhere[0]!r}"
        )
    if conf.REQUIRE_TRANSACTION:
        raise WrongTransaction(
            "published outside of a transaction, which OUTBOX_REQUIRE_TRANSACTION forbids; "
            "wrap the change and the publish call in transaction.atomic()"
        )


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.get_autocommit()


def _insert(columns: dict[str, Any], aliases: list[str], unique: bool, using: str) -> OutboxEvent:
    """Write one row for each alias, all or none, and return the first."""
    if len(aliases) == 1:
        return _insert_one(columns, aliases[0], unique, using)
    with transaction.atomic(using=using, savepoint=False):
        rows = [_insert_one(columns, alias, unique, using) for alias in aliases]
    return rows[0]


def _insert_one(columns: dict[str, Any], alias: str, unique: bool, using: str) -> OutboxEvent:
    identity = None
    if unique:
        identity = identity_of(columns["source"], columns["event_id"], alias)
    row = {**columns, "publisher_backend": alias, "identity": identity}
    event, created = insert_event(OutboxEvent, using, row)
    if created:
        notify_after_commit(using, alias)
        if event_created.has_listeners(OutboxEvent):
            event_created.send_robust(sender=OutboxEvent, event=event)
    return event


publisher = OutboxPublisher()
"""The instance that applications use."""
