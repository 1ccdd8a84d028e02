"""Querysets of events, with the operations of persons and commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from django_broadcaster.signals import rows_inserted, rows_to_insert
from django_broadcaster.states import UNDELIVERED, OutboxEventStatus, sources_of

from .selection import EventSelection

if TYPE_CHECKING:
    from .outbox import OutboxEvent


class DatabaseNow(Now):
    """The database's clock in UTC, which all relays share; leases depend on it."""

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        # CURRENT_TIMESTAMP is in the session's time zone; Django stores UTC.
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **context)


class OutboxEventQuerySet(models.QuerySet["OutboxEvent"]):
    """Events, with the operations on them."""

    def bulk_create(
        self,
        objs: Iterable[OutboxEvent],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> list[OutboxEvent]:
        """Insert events, filled in and delivered like those of `publish_event`.

        Raises PublishError.
        """
        events = list(objs)
        self._for_write = True  # without this, `db` would be where the router reads
        using = self.db
        # Before the transaction: an error must leave the caller's own usable.
        may_skip = ignore_conflicts or update_conflicts
        rows_to_insert.send(self.model, events=events, using=using, may_skip=may_skip)
        with transaction.atomic(using=using, savepoint=False):
            created = super().bulk_create(
                events, batch_size, ignore_conflicts, update_conflicts, *args, **kwargs
            )
            rows_inserted.send(self.model, events=events, using=using)
        return created

    def undelivered(self) -> OutboxEventQuerySet:
        """Return the events that the relay must still deliver, now or later."""
        return self.filter(status__in=UNDELIVERED)

    def dead_letters(self) -> OutboxEventQuerySet:
        """Return the dead letters."""
        return self.filter(status=OutboxEventStatus.FAILED)

    def due(self, now: datetime | None = None) -> OutboxEventQuerySet:
        """Return the events that are due and not delivered."""
        later = models.Q(
            status__in=(OutboxEventStatus.SCHEDULED, OutboxEventStatus.RETRY),
            scheduled_at__lte=now or timezone.now(),
        )
        return self.filter(models.Q(status=OutboxEventStatus.PENDING) | later)

    def matching(self, selection: EventSelection) -> OutboxEventQuerySet:
        """Return the events of a selection."""
        return self.filter(*selection.conditions())

    def in_chunks(self, size: int) -> Iterator[OutboxEventQuerySet]:
        """Yield the events as sets of at most `size`, by ascending id, each fixed as it is read.

        A change of many rows thus takes many short transactions. Rows that the change removes from
        the queryset are neither skipped nor found twice.
        """
        self._for_write = True  # the rows are about to be changed, which a replica does not allow
        last = 0
        while ids := list(
            self.filter(id__gt=last).order_by("id").values_list("id", flat=True)[:size]
        ):
            yield self.model._default_manager.using(self.db).filter(id__in=ids)
            last = ids[-1]

    def cancel(self, *, operation: int | None = None, by: str = "") -> int:
        """Cancel what has not been delivered; return how many.

        An event that a relay is sending at this moment may still arrive. Later events of its key
        are delivered without it. The rows keep the id of the background operation, if any. The
        history of each event has who did it: `by`.
        """
        allowed = self.filter(status__in=sources_of(OutboxEventStatus.CANCELLED))
        now = timezone.now()
        changes = {"status": OutboxEventStatus.CANCELLED, "ended_at": now}
        return allowed._moved("cancel", changes, now, operation, by)

    def replay(
        self, *, at: datetime | None = None, operation: int | None = None, by: str = ""
    ) -> int:
        """Deliver dead letters, cancelled and delivered events again; return how many.

        Their retries start again from 0. Each is delivered before the later events of its key that
        still wait. They are due `at` this time, by default now; of events that are due at the same
        time, those with lower ids are delivered first. The history has who did it: `by`.
        """
        allowed = self.filter(status__in=sources_of(OutboxEventStatus.SCHEDULED))
        now = timezone.now()
        changes = {
            "status": OutboxEventStatus.SCHEDULED,
            "scheduled_at": at or now,
            "published_at": None,
            "ended_at": None,
            "retry_count": 0,
            "crash_count": 0,
        }
        return allowed._moved("replay", changes, now, operation, by)

    def hasten(
        self, *, at: datetime | None = None, operation: int | None = None, by: str = ""
    ) -> int:
        """Make events due `at` a time, by default now, that wait for a retry; return how many.

        The history has who did it: `by`.
        """
        waiting = self.filter(status=OutboxEventStatus.RETRY)
        now = timezone.now()
        return waiting._moved("retry", {"scheduled_at": at or now}, now, operation, by)

    def _moved(
        self, kind: str, changes: dict[str, Any], now: datetime, operation: int | None, by: str
    ) -> int:
        """Change the events, and keep in their history what the change overwrites."""
        self._for_write = True
        mark = {} if operation is None else {"operation": operation}
        with transaction.atomic(using=self.db, savepoint=False):
            self._keep(kind, now, operation, by)
            return self.update(updated_at=now, **changes, **mark)

    def _keep(self, kind: str, now: datetime, operation: int | None, by: str) -> None:
        """Write an `OutboxMove` for each event, in one statement, and lock the events."""
        moves: Any = self.model._meta.apps.get_model("django_broadcaster", "OutboxMove")
        values: dict[str, Any] = {
            "row": F("pk"),
            "moved_at": _constant(now, moves, "moved_at"),
            "kind": _constant(kind, moves, "kind"),
            "status": F("status"),
            "ended_at": Coalesce("published_at", "ended_at"),
            "moved_by": _constant(by[:255], moves, "moved_by"),
            "operation": _constant(operation, moves, "operation"),
        }
        rows = self.select_for_update().order_by().values_list(*values.values())
        connection = connections[self.db]
        try:
            sql, parameters = rows.query.get_compiler(self.db).as_sql()
        except EmptyResultSet:
            return
        quote = connection.ops.quote_name
        columns = ", ".join(quote(moves._meta.get_field(name).column) for name in values)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {quote(moves._meta.db_table)} ({columns}) {sql}", parameters
            )

    def expired(self, before: datetime) -> OutboxEventQuerySet:
        """Return the events that were published before a time."""
        return self.filter(status=OutboxEventStatus.PUBLISHED, published_at__lt=before)


def _constant(value: object, model: Any, field: str) -> Value:
    """Return a value as a column of the table's own type."""
    return Value(value, output_field=model._meta.get_field(field))


def aware(moment: datetime) -> datetime:
    """Return a row's datetime with its time zone, which rows lack if USE_TZ is off."""
    if timezone.is_aware(moment):
        return moment
    # Not the current time zone: a request may have activated another one.
    return timezone.make_aware(moment, timezone.get_default_timezone())


def stored_moment(value: Any, using: str) -> datetime | None:
    """Return a datetime of SQL with its time zone; SQLite's driver may return text."""
    if value is None:
        return None
    moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
    if timezone.is_aware(moment):
        return moment
    zone = connections[using].timezone
    return timezone.make_aware(moment, zone) if zone else aware(moment)
