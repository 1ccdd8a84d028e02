"""The publishers API: write events to the outbox in the caller's own transaction.

    with transaction.atomic():
        order = Order.objects.create(...)
        publisher.publish_event("order.placed", "/shop/orders", {"id": order.id})

Importing this module opens no connection and loads no broker's client. An invalid argument raises a
`PublishError` that names it, before any SQL is executed, so that the caller's transaction stays
usable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import (  # noqa: UP035  # `Dict` as on the API page that this class keeps
    Any,
    Dict,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from .backends.base import PublisherBackend
from .backends.event_backend import EventBackend
from .backends.handler import backends
from .events import ABSENT, CloudEvent, as_cloud_event
from .models import OutboxEvent
from .publishing import (
    BATCH_SIZE,
    PublishCall,
    asynchronous,
    event_of,
    publish_many,
    publish_one,
)
from .setting_rules import MAX_RETRIES
from .states import RETRIES_OF_SETTINGS
from .typed_events import keywords_of

__all__ = ["MAX_RETRIES", "OutboxPublisher", "publisher"]


E = TypeVar("E")


class PublishOptions(TypedDict, total=False):
    """The options of `OutboxPublisher.publish`."""

    backend: str | None
    scheduled_at: datetime | None
    max_retries: int
    publisher_config: Dict[str, Any] | None  # noqa: UP006
    source: str | None
    subject: str | None
    event_id: str | None
    time: datetime | None
    partition_key: str | None
    extensions: Mapping[str, Any] | None
    using: str | None


class OutboxPublisher:
    """The publisher of the outbox. Instances have no state and are thread-safe."""

    def __init__(self) -> None:
        pass

    @property
    def _backends(self) -> MutableMapping[str, PublisherBackend]:
        """The backends by alias. A relay of this process uses an instance that is set here, too."""
        return _Backends()

    @_backends.setter
    def _backends(self, backends_by_alias: Mapping[str, PublisherBackend]) -> None:
        """Use these instances instead of those that were set before."""
        mine = _Backends()
        for alias in backends.put_in():
            del mine[alias]
        mine.update(backends_by_alias)

    def _load_backends(self) -> None:
        """Create every configured backend; raises BackendConfigurationError for a wrong setting."""
        for alias in backends.aliases():
            backends[alias]

    def _get_default_backend(self) -> str | None:
        """Return `default` if there is such an alias, else the first alias, else None."""
        return backends.default_alias()

    @overload
    def publish(
        self, event: type[E], data: E, /, **options: Unpack[PublishOptions]
    ) -> OutboxEvent: ...

    @overload
    def publish(self, event: object, /, **options: Unpack[PublishOptions]) -> OutboxEvent: ...

    def publish(
        self,
        event: Any,
        data: Any = ABSENT,
        /,
        *,
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = RETRIES_OF_SETTINGS,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        source: str | None = None,
        subject: str | None = None,
        event_id: str | None = None,
        time: datetime | None = None,
        partition_key: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        using: str | None = None,
    ) -> OutboxEvent:
        """Publish an event of a declared class: see `typed_events.typed_event`.

            publisher.publish(OrderPlaced(order_id=7))
            publisher.publish(OrderPaid, {"order_id": 7})  # if OrderPaid is a TypedDict

        `source`, `subject` and `partition_key` override what the class declares. The rest is as for
        `publish_event`.

        Raises:
            InvalidEvent: The data do not fit the class; `field` is the path to the value, such as
                `data.lines[0].price`. Or an argument is invalid.
            TypeError: The class is not declared.
            PublishError: As for `publish_event`.
        """
        keywords = keywords_of(
            event,
            data,
            source=source,
            subject=subject,
            partition_key=partition_key,
            extensions=extensions,
        )
        return self.publish_event(
            **keywords,
            backend=backend,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            publisher_config=publisher_config,
            event_id=event_id,
            time=time,
            using=using,
        )

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
            event_type: The event's type.
            source: The event's source, a URI reference.
            data: The payload: anything that OUTBOX_JSON_ENCODER encodes, by default Django's JSON
                encoder, or bytes. None is an event without data.
            subject: The subject within the source; also an integer or a UUID.
            backend: An alias of OUTBOX_PUBLISHERS. By default OUTBOX_ROUTES decides, then the alias
                `default`, then the only alias.
            scheduled_at: The earliest time of the delivery; by default now.
            max_retries: The retries after the first attempt; with 0 there is one attempt. By
                default `max_retries` of the event's handlers, the backend's RETRY or OUTBOX_RETRY,
                else OUTBOX_MAX_RETRIES.
            publisher_config: Options for this event; each backend lists its keys.
            event_id: The event's id; also an integer or a UUID. Publishing the same source and id
                to a backend twice writes one row and returns it. By default a new UUIDv7.
            time: The time at which it happened, an aware datetime; by default now.
            partition_key: Events of one key and one backend are delivered in publish order. The
                key is sent as the attribute `partitionkey`. Also an integer or a UUID.
            extensions: Further CloudEvents attributes, with names of `[a-z0-9]{1,20}`.
            data_content_type: The media type of the data; by default `application/json`.
            data_schema: The absolute URI of the schema of the data.
            using: The database alias, by default the one to which the router writes `OutboxEvent`.

        Returns:
            The row; if a route sends the event to several backends, the first row.

        Raises:
            InvalidEvent: An argument is invalid; PayloadTooLarge is one of these errors.
            UnknownBackend: There is no such alias.
            InvalidPublisherConfig: The backend does not know an option.
            WrongTransaction: The event would not commit with the open transaction.
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
        """Publish a CloudEvent to the outbox, with every attribute that it has.

        Accepts a `CloudEvent` and an event of the official `cloudevents` SDK. The default for
        `partition_key` is its extension `partitionkey`. Publishing the same event to a backend
        twice writes one row and returns it. The rest is as for `publish_event`. Raises TypeError
        for any other object.
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
        events: Iterable[object],
        *,
        backend: str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int = RETRIES_OF_SETTINGS,
        publisher_config: Dict[str, Any] | None = None,  # noqa: UP006
        using: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> int:
        """Publish many events, all or none, in a few statements; return how many rows are new.

        The events of a key are delivered in their order in `events`. An event whose id the caller
        passed (every CloudEvent, and a dictionary with an `event_id`) is written once for each
        backend, and not counted if it exists already. An event that a route sends to several
        backends is several rows.

        Args:
            events: Any iterable of CloudEvents, of events of the official SDK, of events of
                declared classes, and of dictionaries with the arguments of `publish_event` except
                `using`, also mixed. A generator is read while its events are written, so that they
                need not all be in memory. Pass a `TypedDict` through `to_cloud_event`.
            backend: As for `publish_event`, for CloudEvents and for dictionaries without it.
            scheduled_at: The same.
            max_retries: The same.
            publisher_config: The same.
            using: The database alias, by default the one to which the router writes `OutboxEvent`.
            batch_size: The most rows that one statement writes.

        Raises:
            PublishError: As for `publish_event`; the error has the `index` of the invalid event.
            TypeError: An item is not an event, or has an unknown keyword; with its index.
            ValueError: `batch_size` is below 1.

        Errors of `events` itself pass. If the call raises, nothing of it is written, and the
        caller's transaction stays usable.
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

    apublish = asynchronous(publish)
    apublish_event = asynchronous(publish_event)
    apublish_cloud_event = asynchronous(publish_cloud_event)
    apublish_events = asynchronous(publish_events)

    def process_pending_events(self, batch_size: int = 100) -> int:
        """Deliver up to `batch_size` pending events of every backend in the calling process.

        For tests, scripts and cron jobs; a service runs `manage.py outbox_worker`. The call takes
        the partitions that no running relay owns, keeps the same guarantees as a relay, and
        releases them.

        Returns:
            The number of events that were attempted.

        Raises:
            WrongTransaction: The call is inside a transaction (except that of a TestCase), and
                would deliver events that are not committed.
        """
        from .relay.inline import deliver_pending

        return deliver_pending(batch_size)

    def _process_single_event(self, event: OutboxEvent) -> bool:
        """Deliver one event in the calling process; return True if its broker acknowledged it.

        Return False if the attempt failed, and also if the event is not deliverable now: it is not
        pending, an earlier event of its key is undelivered, or a running relay owns its partition.
        """
        from .relay.inline import deliver_one

        return deliver_one(event)

    def get_backend_health(self) -> Dict[str, bool]:  # noqa: UP006
        """Return for each alias whether its broker is reachable now."""
        return {alias: backends[alias].health_check() for alias in backends.aliases()}


class _Backends(MutableMapping[str, PublisherBackend]):
    """The backends of the process, configured or set by hand, as the project created them."""

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
"""The instance that applications use."""
