"""One publish call: what its events share, and the rows of each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import connections, router
from django.utils import timezone

from django_broadcaster import encryption
from django_broadcaster.backends.base import Message
from django_broadcaster.backends.handler import backends
from django_broadcaster.backends.in_database import InDatabaseBackend
from django_broadcaster.conf import conf
from django_broadcaster.events import ABSENT, CloudEvent, resolved
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.models.managers import aware
from django_broadcaster.registry import event_registry
from django_broadcaster.states import RETRIES_OF_SETTINGS, OutboxEventStatus
from django_broadcaster.store import (
    NewRow,
    identity_of,
    limits_statements,
    may_lack_characters,
)

from .asynchronous import refuse_in_event_loop
from .columns import (
    DeliveryPlan,
    checked_retries,
    columns_of,
    delivery_of,
    sealed,
)
from .destinations import named, routed
from .handing_over import HandedRow
from .limits import check_characters, check_depth, check_size, check_statement

if TYPE_CHECKING:
    from django_broadcaster.tracing import Stamp


def event_of(
    event_type: str,
    source: str,
    data: Any | None = None,
    subject: str = "",
    *,
    event_id: str | None = None,
    time: datetime | None = None,
    extensions: Mapping[str, Any] | None = None,
    data_content_type: str | None = None,
    data_schema: str | None = None,
) -> CloudEvent:
    """Return the event for the keywords of `publish_event`; raises InvalidEvent."""
    return CloudEvent(
        event_type,
        source,
        data,
        subject,
        id=event_id,
        time=ABSENT if time is None else time,
        data_content_type=data_content_type,
        data_schema=data_schema,
        extensions=extensions,
    )


def _with_handlers(event_type: str, aliases: list[str]) -> list[str]:
    """Return the aliases, with `handlers` added if no other backend runs the event's handlers."""
    handlers = backends.of_handlers(event_type)
    return aliases if handlers is None or handlers in aliases else [*aliases, handlers]


class _Target(NamedTuple):
    """A backend that events go to, and the values of their rows that are not of the event."""

    alias: str
    limit: int | None
    """The largest event that it accepts."""

    scope: str
    """The part of a row's identity that is not of the event."""

    values: tuple[Any, ...]
    """The further values of a row, in the order of `NewRow`, without its identity."""

    taker: InDatabaseBackend | None
    """The backend, if it takes the event in the publisher's transaction."""

    config: Mapping[str, Any] | None


class PublishCall:
    """Validates events and makes their rows; reads each setting and the clock once.

    Args:
        using: The database alias, by default the one to which the router writes `OutboxEvent`.
        default: Returns the alias of an event without a backend or a route, or None.
        consumer: The alias of the consumer that has received the events. Two consumers may read
            the same event for different handlers.

    A tracer may set `stamp`, which returns each event as it is to be written.
    """

    def __init__(
        self, using: str | None, default: Callable[[], str | None], *, consumer: str = ""
    ) -> None:
        refuse_in_event_loop()
        self.connection = connections[_alias(using) or router.db_for_write(OutboxEvent)]
        self.stamp: Stamp | None = None
        self._default = default
        self._consumer = consumer
        self._delivery: DeliveryPlan | None = None
        self._known: dict[tuple[str, str | None], list[_Target]] = {}
        self._routed: dict[str, list[str]] = {}
        self._retries: dict[tuple[str, str], int] = {}
        self._use_tz = settings.USE_TZ
        self._now = timezone.now()
        self.moment = self._now if self._use_tz else aware(self._now).astimezone(UTC)
        self._partitions = conf.PARTITIONS
        self._seals = encryption.is_on()
        self._may_lack_characters = may_lack_characters(self.connection)
        self._limits_depth = self.connection.vendor == "mysql"  # MariaDB does, MySQL does not
        self._limits_statements = limits_statements(self.connection)

    def aliases(self, event_type: str, backend: str | None) -> list[str]:
        """Return the aliases of the backends that an event goes to; raises UnknownBackend."""
        if backend is not None:
            return _with_handlers(event_type, named(backend))
        found = self._routed.get(event_type)
        if found is None:
            found = _with_handlers(event_type, routed(event_type, self._default))
            self._routed[event_type] = found
        return found

    def delivery(
        self,
        scheduled_at: datetime | None,
        max_retries: int,
        publisher_config: Mapping[str, Any] | None,
    ) -> DeliveryPlan:
        """Return the validated delivery; raises InvalidEvent or InvalidPublisherConfig."""
        return delivery_of(self._now, scheduled_at, max_retries, publisher_config)

    def rows(
        self,
        event: CloudEvent,
        delivery: DeliveryPlan,
        *,
        backend: str | None,
        partition_key: str | None,
        unique: bool,
    ) -> list[NewRow]:
        """Return a row for each backend that the event goes to; raises PublishError.

        `unique` is True if the caller passed the event's id.
        """
        targets = self._targets(event.event_type, backend, delivery)
        if self.stamp is not None:
            event = self.stamp(event)
        columns = columns_of(event, partition_key, partitions=self._partitions, use_tz=self._use_tz)
        if self._limits_depth:
            check_depth(event.data, columns.data, self.connection)
        for target in targets:
            if target.limit is not None:
                check_size(target.alias, target.limit, columns, self.connection)
        if self._seals:
            columns = sealed(columns, self.connection)
        if self._may_lack_characters:
            check_characters(columns, self.connection)
        if self._limits_statements:
            check_statement(columns, delivery.config_json, self.connection)
        rows: list[NewRow] = []
        for target in targets:
            identity = identity_of(event.source, event.id, target.scope) if unique else None
            values = (*columns, *target.values, identity)
            if target.taker is None:
                rows.append(NewRow._make(values))
            else:
                key, config = columns.partition_key, target.config
                message = Message.of(event, partition_key=key, config=config)
                rows.append(HandedRow.of(values, target.taker, message))
        return rows

    def _targets(
        self, event_type: str, backend: str | None, delivery: DeliveryPlan
    ) -> list[_Target]:
        """Return where an event goes; raises UnknownBackend or InvalidPublisherConfig.

        Most events of a call go the same way, which is found out once.
        """
        if delivery is not self._delivery:
            self._delivery = delivery
            self._known.clear()
        may_be_known = backend is None or type(backend) is str
        if may_be_known and (known := self._known.get((event_type, backend))):
            return known
        aliases = self.aliases(event_type, backend)
        targets = [
            self._target(alias, each)
            for alias, each in zip(
                aliases, self._of_each(event_type, aliases, delivery), strict=True
            )
        ]
        if may_be_known:
            self._known[event_type, backend] = targets
        return targets

    def _target(self, alias: str, delivery: DeliveryPlan) -> _Target:
        backend = backends[alias]
        if delivery.config:
            backend.validate_config(delivery.config)
        config, config_json, status, scheduled_at, max_retries = delivery
        taker = None
        if isinstance(backend, InDatabaseBackend):
            backend.check_database(self.connection)
            if status == OutboxEventStatus.PENDING:
                taker, status = backend, OutboxEventStatus.PUBLISHED.value
        return _Target(
            alias,
            backend.max_message_bytes,
            f"{alias}\0{self._consumer}" if self._consumer else alias,
            (config_json, status, scheduled_at, max_retries, self._now, alias),
            taker,
            config,
        )

    def _of_each(
        self, event_type: str, aliases: list[str], delivery: DeliveryPlan
    ) -> list[DeliveryPlan]:
        """Return the delivery for each alias, with its own number of retries.

        An alias that was added for handlers gets no `publisher_config`.
        """
        deliveries = [delivery] * len(aliases)
        if delivery.config and any(map(backends.adds, aliases[1:])):
            plain = delivery._replace(config=None, config_json="{}")
            added = (plain if backends.adds(alias) else delivery for alias in aliases[1:])
            deliveries = [delivery, *added]
        if delivery.max_retries is not RETRIES_OF_SETTINGS:
            return deliveries
        return [
            each._replace(max_retries=self._retries_of(event_type, alias))
            for alias, each in zip(aliases, deliveries, strict=True)
        ]

    def _retries_of(self, event_type: str, alias: str) -> int:
        """Return the retries of a call without `max_retries`; raises InvalidEvent."""
        found = self._retries.get((event_type, alias))
        if found is None:
            found = checked_retries(backends.max_retries(alias))
            if event_registry.sets_max_retries and backends.runs_handlers(alias):
                found = event_registry.max_retries_for(event_type, found, self._consumer)
            self._retries[event_type, alias] = found
        return found


def _alias(using: object) -> str | None:
    """Return the argument `using`; raises InvalidEvent if it is not a string."""
    alias = resolved(using)
    if alias is None or isinstance(alias, str):
        return alias
    raise InvalidEvent("using", f"must be a database alias, not {alias.__class__.__name__}")
