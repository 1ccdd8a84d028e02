"""The publishers API: write events to the outbox in the caller's own transaction.

    with transaction.atomic():
        order = Order.objects.create(...)
        publisher.publish_event("order.placed", "/shop/orders", {"id": order.id})

Importing this module opens no connection and imports no broker's client. A call with invalid
arguments raises a `PublishError` before any SQL, so the caller's transaction stays usable. The
error names the argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Dict  # noqa: UP035  # spelled as on the API page that this class keeps

from .backends.base import PublisherBackend
from .backends.event_backend import EventBackend
from .backends.handler import backends
from .events import CloudEvent, as_cloud_event
from .models import OutboxEvent
from .publishing import (
    BATCH_SIZE,
    MAX_RETRIES,
    RETRIES_OF_SETTINGS,
    PublishCall,
    asynchronous,
    event_of,
    publish_many,
    publish_one,
)

__all__ = ["MAX_RETRIES", "OutboxPublisher", "publisher"]


class OutboxPublisher:
    """Writes events to the outbox. Instances have no state and are thread-safe."""

    def __init__(self) -> None:
        pass

    @property
    def _backends(self) -> MutableMapping[str, PublisherBackend]:
        """The backends by alias. This process's relay also uses those that a caller sets here."""
        return _Backends()

    @_backends.setter
    def _backends(self, backends_by_alias: Mapping[str, PublisherBackend]) -> None:
        """Set these instances, in place of those that were set before."""
        mine = _Backends()
        for alias in backends.put_in():
            del mine[alias]
        mine.update(backends_by_alias)

    def _load_backends(self) -> None:
        """Create every configured backend; raise BackendConfigurationError for a wrong setting."""
        for alias in backends.aliases():
            backends[alias]

    def _get_default_backend(self) -> str | None:
        """Return `default` if that alias exists, else the first alias, else None."""
        return backends.default_alias()

    def publish_event(
        self,
        event_type: str,
        source: str,
        data: Any | None = None,
        subject: str = "",
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = RETRIES_OF_SETTINGS,
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

        Args:
            event_type: The type of the event.
            source: The context in which the event happened, a URI reference.
            data: The payload: bytes, or a value that OUTBOX_JSON_ENCODER accepts, by default
                Django's JSON encoder. None is an event without data.
            subject: The subject of the event within the source; also an integer or a UUID.
            backend: An alias of OUTBOX_PUBLISHERS. With None, OUTBOX_ROUTES decide, else the alias
                is `default`, else the only one.
            scheduled_at: The time before which the event is not delivered. The default is now.
            max_retries: Attempts after the first one; 0 means one attempt. The default is
                OUTBOX_MAX_RETRIES.
            publisher_config: Options of this event; each backend documents its keys.
            event_id: If the same source and id are published twice to a backend, one row is written
                and returned. Also an integer or a UUID. The default is a UUIDv7.
            time: The time at which the event happened, an aware datetime. The default is now.
            partition_key: Events with the same key and backend are delivered in publish order.
                The attribute `partitionkey` has the key. Also an integer or a UUID.
            extensions: Further CloudEvents attributes, with names of `[a-z0-9]{1,20}`.
            data_content_type: The media type; the default is `application/json`.
            data_schema: The absolute URI of the data's schema.
            using: Alias of the database, by default where the router writes `OutboxEvent`.

        Returns:
            The row, the first one if a route selects several backends.

        Raises:
            InvalidEvent: An attribute is not valid; PayloadTooLarge is a subclass.
            UnknownBackend: OUTBOX_PUBLISHERS has no such alias.
            InvalidPublisherConfig: `publisher_config` has a key or value that the backend rejects.
            WrongTransaction: The row would not commit with the caller's change.
        """
        call = PublishCall(using, self._get_default_backend)
        event = event_of(
            event_type,
            source,
            data,
            subject,
            event_id=event_id,
            time=call.moment if time is None else time,
            extensions=extensions,
            data_content_type=data_content_type,
            data_schema=data_schema,
        )
        return publish_one(
            call,
            event,
            call.delivery(scheduled_at, max_retries, publisher_config),
            backend=backend,
            partition_key=partition_key,
            unique=event_id is not None,
        )

    def publish_cloud_event(
        self,
        cloud_event: CloudEvent,
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = RETRIES_OF_SETTINGS,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        *,
        partition_key: str | None = None,
        using: str | None = None,
    ) -> OutboxEvent:
        """Publish a CloudEvent to the outbox, with all its attributes.

        If the same event is published twice to a backend, one row is written and returned. The
        other arguments, the result and the errors are those of `publish_event`.

        Args:
            cloud_event: A `CloudEvent` of this package or of the official `cloudevents` SDK.
            backend: As for `publish_event`.
            scheduled_at: As for `publish_event`.
            max_retries: As for `publish_event`.
            publisher_config: As for `publish_event`.
            partition_key: The key. The default is the event's extension `partitionkey`.
            using: As for `publish_event`.

        Raises:
            TypeError: The object is not a CloudEvent.
        """
        call = PublishCall(using, self._get_default_backend)
        return publish_one(
            call,
            as_cloud_event(cloud_event),
            call.delivery(scheduled_at, max_retries, publisher_config),
            backend=backend,
            partition_key=partition_key,
            unique=True,
        )

    def publish_events(
        self,
        events: Iterable[CloudEvent | Mapping[str, Any]],
        *,
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = RETRIES_OF_SETTINGS,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        using: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> int:
        """Publish many events, all or none, in a few statements.

        Events with the same key are delivered in their order in `events`. If the caller gave the
        id of an event, it is written once for each backend, as by `publish_event`. An event has a
        row for each backend that a route selects.

        If an error is raised, the call has written nothing, and the caller's transaction stays
        usable. An error of the iterable `events` is raised unchanged.

        Args:
            events: An iterable of CloudEvents of this package or of the official SDK, and of
                dictionaries with arguments of `publish_event` except `using`. A generator is read
                as its events are written, so they need not all be in memory.
            backend: As for `publish_event`, for events without a value of their own.
            scheduled_at: As for `publish_event`, for events without a value of their own.
            max_retries: As for `publish_event`, for events without a value of their own.
            publisher_config: As for `publish_event`, for events without a value of their own.
            using: Alias of the database, by default where the router writes `OutboxEvent`.
            batch_size: Maximum of rows in one statement.

        Returns:
            The number of new rows.

        Raises:
            PublishError: As for `publish_event`. If one event is the cause, `index` is its place.
            TypeError: An object is not an event, or has an unknown keyword.
            ValueError: `batch_size` is less than 1.
        """
        return publish_many(
            PublishCall(using, self._get_default_backend),
            events,
            batch_size,
            backend=backend,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            publisher_config=publisher_config,
        )

    apublish_event = asynchronous(publish_event)
    apublish_cloud_event = asynchronous(publish_cloud_event)
    apublish_events = asynchronous(publish_events)

    def process_pending_events(self, batch_size: int = 100) -> int:
        """Deliver up to `batch_size` pending events of each backend in this process.

        Use this in tests, scripts and cron jobs; run `manage.py outbox_worker` as a service. It
        has the same guarantees as a relay. It takes the partitions that no running relay owns, and
        releases them at the end.

        Args:
            batch_size: Maximum of events of each backend.

        Returns:
            The number of events that were attempted.

        Raises:
            WrongTransaction: A transaction is open, other than that of a TestCase, so the call
                would deliver events before they commit.
        """
        from .relay.inline import deliver_pending

        return deliver_pending(batch_size)

    def _process_single_event(self, event: OutboxEvent) -> bool:
        """Deliver one event in this process; return True once its broker has acknowledged it.

        Return False if the attempt failed, or if there was none: the event is not pending, an
        earlier event of its key is undelivered, or a running relay owns it.
        """
        from .relay.inline import deliver_one

        return deliver_one(event)

    def get_backend_health(self) -> Dict[str, bool]:  # noqa: UP006
        """Return for each alias True if its broker is available now."""
        return {alias: backends[alias].health_check() for alias in backends.aliases()}


class _Backends(MutableMapping[str, PublisherBackend]):
    """The backends of the process, from the settings or set by a caller."""

    def __getitem__(self, alias: str) -> PublisherBackend:
        if alias not in backends.aliases():
            raise KeyError(alias)
        backend = backends[alias]
        return backend.wrapped if isinstance(backend, EventBackend) else backend

    def __setitem__(self, alias: str, backend: PublisherBackend) -> None:
        backends.put(alias, backend)

    def __delitem__(self, alias: str) -> None:
        backends.remove(alias)

    def __iter__(self) -> Iterator[str]:
        return iter(backends.aliases())

    def __len__(self) -> int:
        return len(backends.aliases())


publisher = OutboxPublisher()
"""The instance for applications."""
