"""The publishers API: write events to the outbox in the caller's own transaction.

    with transaction.atomic():
        order = Order.objects.create(...)
        publisher.publish_event("order.placed", "/shop/orders", {"id": order.id})

Importing this module opens no connection and loads no broker's client. Every error about a call's
arguments is a `PublishError` that names the argument, raised before any SQL, so that the caller's
transaction stays usable.
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
    """Main publisher class for the outbox pattern. Instances hold no state and are thread-safe."""

    def __init__(self) -> None:
        pass

    @property
    def _backends(self) -> MutableMapping[str, PublisherBackend]:
        """The backends by alias. One that is put in is used by this process's relay, too."""
        return _Backends()

    @_backends.setter
    def _backends(self, backends_by_alias: Mapping[str, PublisherBackend]) -> None:
        """Use these instances, in place of those that were put in before."""
        mine = _Backends()
        for alias in backends.put_in():
            del mine[alias]
        mine.update(backends_by_alias)

    def _load_backends(self) -> None:
        """Make every configured backend; raises BackendConfigurationError for a wrong setting."""
        for alias in backends.aliases():
            backends[alias]

    def _get_default_backend(self) -> str | None:
        """Return `default` if there is such an alias, else the first alias, else None."""
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

        event_type, source: required attributes; `source` is a URI reference.
        data: the payload: anything OUTBOX_JSON_ENCODER takes, by default Django's JSON encoder, or
            bytes. None is no data.
        subject: what the event is about, within the source; also an integer or a UUID.
        backend: an alias of OUTBOX_PUBLISHERS. None goes by OUTBOX_ROUTES, else to the alias
            `default`, else to the only one.
        scheduled_at: deliver not before this moment; now unless given.
        max_retries: attempts after the first one; 0 tries once. OUTBOX_MAX_RETRIES unless given.
        publisher_config: options of this one event; each backend lists the keys it knows.
        event_id: publishing the same (source, event_id) to a backend twice writes one row and
            returns it. Also an integer or a UUID; a UUIDv7 unless given.
        time: when it happened, an aware datetime; now unless given.
        partition_key: events of one key and one backend are delivered in publish order; it
            travels as the attribute `partitionkey`. Also an integer or a UUID.
        extensions: further CloudEvents attributes, names of `[a-z0-9]{1,20}`.
        data_content_type: media type; `application/json` unless given.
        data_schema: absolute URI of the schema that the data follows.
        using: database alias, by default where the router writes `OutboxEvent`.

        Returns the row; of several by a route, the first. Raises InvalidEvent, of which
        PayloadTooLarge is one, UnknownBackend, InvalidPublisherConfig or WrongTransaction.
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

        Takes our `CloudEvent` and the official `cloudevents` SDK's. Its `partitionkey` extension
        is its key unless `partition_key` is given. Publishing the same event to a backend twice
        writes one row and returns it. Everything else is as for `publish_event`; raises
        TypeError for an object of another kind.
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
        """Publish many events, all or none, in a few statements; return how many rows are new.

        events: any iterable, of our CloudEvents, of the official SDK's, and of dictionaries of
            the arguments of `publish_event` (but `using`), in any mixture. A generator is read
            as its events are written, so that they need not all be in memory.
        backend, scheduled_at, max_retries, publisher_config: as for `publish_event`, for the
            events that have none of their own: those that are no dictionary, or one without it.
        using: database alias, by default where the router writes `OutboxEvent`.
        batch_size: rows that one statement writes at the most.

        The events of a key are delivered in their order in `events`. Those whose id the caller
        gave (every CloudEvent, and a dictionary with an `event_id`) are written once for each
        backend, as by `publish_event`, and not counted where they are known. An event that a
        route sends to several backends is several rows.

        Raises what `publish_event` does, with the event's `index` where the fault is in one;
        TypeError with the index for what is no event, or has an unknown keyword; ValueError for
        a `batch_size` below 1; and whatever `events` raises. Nothing of the call is written
        then, and the caller's transaction stays usable.
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
        """Deliver up to `batch_size` pending events of every backend here and now.

        For tests, scripts and cron; `manage.py outbox_worker` is what a service runs. It takes
        the partitions that no running relay owns, keeps the same promises as a relay, and gives
        them back. Returns the number of events that were attempted. Raises WrongTransaction
        inside a transaction (but that of a TestCase): it would deliver what has not been committed.
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


class _Backends(MutableMapping[str, PublisherBackend]):
    """The backends of the process, configured or put in by hand, as the project made them."""

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
