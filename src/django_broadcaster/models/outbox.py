"""The outbox and its archive."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.db import models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..encryption import unseal
from ..events import JSON_NULL, CloudEvent, EventJSONEncoder
from ..events.grammar import is_json_type
from ..events.json_format import parse_json
from ..exceptions import IllegalTransition, Rejected, TransientError
from ..schema import ExactCharField, PartialIndex
from ..signals import (
    event_failed,
    event_published,
    event_retried,
    rows_inserted,
    rows_to_insert,
)
from ..states import RETRIES_OF_SETTINGS, UNDELIVERED, OutboxEventStatus
from .managers import OutboxEventQuerySet, aware


class OutboxEvent(models.Model):
    """One event for one backend. `id` is its position: it orders the events of a key."""

    id = models.BigAutoField(primary_key=True)
    event_id = models.CharField(max_length=255, blank=True)
    spec_version = models.CharField(max_length=10, default="1.0", db_default="1.0")
    source = models.CharField(max_length=512)
    event_type = models.CharField(max_length=255)
    subject = models.CharField(max_length=512, blank=True, default="")
    time = models.DateTimeField(null=True, default=timezone.now)
    data_content_type = models.CharField(max_length=255, blank=True, default="")
    data_schema = models.CharField(max_length=2000, blank=True, default="")
    extensions = models.JSONField(default=dict, blank=True, encoder=EventJSONEncoder)
    data = models.JSONField(null=True, blank=True, encoder=EventJSONEncoder)
    data_binary = models.BinaryField(null=True, blank=True)
    sealed = models.BinaryField(
        null=True,
        editable=False,
        help_text=_("The data, if they are encrypted; data and data_binary are empty then."),
    )
    identity = models.CharField(  # noqa: DJ001  # only NULL is left out of a unique index
        max_length=64,
        null=True,
        editable=False,
        help_text=_("Digest of source, id and backend, if the caller passed the id."),
    )

    partition_key = ExactCharField(max_length=255, blank=True, default="")
    partition = models.PositiveSmallIntegerField(blank=True)
    publisher_backend = ExactCharField(max_length=64, blank=True)
    publisher_config = models.JSONField(default=dict, blank=True, encoder=EventJSONEncoder)

    status = models.CharField(
        max_length=16, choices=OutboxEventStatus.choices, default=OutboxEventStatus.PENDING
    )
    scheduled_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(auto_now=True)
    published_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When it became a dead letter or was cancelled.")
    )
    retry_count = models.PositiveIntegerField(default=0)
    max_retries = models.PositiveSmallIntegerField(default=RETRIES_OF_SETTINGS)
    crash_count = models.PositiveSmallIntegerField(
        default=0, help_text=_("Relays that crashed while they delivered this event.")
    )
    last_error = models.TextField(blank=True, default="")
    operation = models.BigIntegerField(
        null=True,
        blank=True,
        editable=False,
        help_text=_("Id of the last background operation that changed the event."),
    )

    # Typed as the queryset whose methods it has: pyright does not follow `as_manager`.
    objects: ClassVar[OutboxEventQuerySet] = OutboxEventQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        verbose_name = _("outbox event")
        verbose_name_plural = _("outbox events")
        permissions = [
            ("replay_outboxevent", "Can have outbox events delivered again"),
            ("cancel_outboxevent", "Can cancel outbox events"),
            ("purge_outboxevent", "Can purge outbox events"),
        ]
        # Rows that are done are in the primary key alone: each further index with them would
        # cost a delivery 2 to 4 microseconds per event.
        indexes = [
            PartialIndex(
                name="broadcaster_pending",
                fields=["publisher_backend", "id"],
                where="status = 'pending'",
                prefix=("status",),
            ),
            PartialIndex(
                name="broadcaster_due",
                fields=["publisher_backend", "scheduled_at", "id"],
                where="status IN ('scheduled', 'retry')",
                prefix=("status",),
            ),
            PartialIndex(
                name="broadcaster_waiting",
                fields=["publisher_backend", "partition_key", "id"],
                where="status IN ('retry', 'blocked')",
                prefix=("status",),
            ),
            PartialIndex(
                name="broadcaster_failed",
                fields=["publisher_backend", "id"],
                where="status = 'failed'",
                prefix=("status",),
            ),
            PartialIndex(
                name="broadcaster_identity",
                fields=["identity"],
                where="identity IS NOT NULL",
                unique=True,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} - {self.id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert or update the row; a new one is filled in and delivered as by `publish_event`.

        Raises PublishError if a new one is not a valid event.
        """
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        if not self._state.adding and not self._was_rolled_back(using) and self.pk is not None:
            super().save(*args, **kwargs)
            return
        # Before the transaction: an error must leave the caller's own usable.
        rows_to_insert.send(type(self), events=[self], using=using)
        with transaction.atomic(using=using, savepoint=False):
            super().save(*args, **kwargs)
            rows_inserted.send(type(self), events=[self], using=using)

    def _was_rolled_back(self, using: str) -> bool:
        """Return True if an earlier save() of this instance inserted a row that is gone."""
        if "_filled_in" not in self.__dict__:
            return False
        return not type(self)._base_manager.using(using).filter(pk=self.pk).exists()

    def mark_as_published(self) -> None:
        """Mark the event as delivered, without a relay.

        Raises IllegalTransition if it is a dead letter or cancelled.
        """
        if self._move(OutboxEventStatus.PUBLISHED, published_at=timezone.now()):
            event_published.send_robust(sender=type(self), event=self)

    def mark_as_failed(self, error_message: str) -> None:
        """Make the event a dead letter with this error.

        Raises IllegalTransition if it was delivered or cancelled.
        """
        moved = self._move(
            OutboxEventStatus.FAILED, last_error=error_message, ended_at=timezone.now()
        )
        if moved:
            error = Rejected(error_message)
            event_failed.send_robust(sender=type(self), event=self, error=error)

    def increment_retry(self, error_message: str = "") -> None:
        """Use one retry; make the event a dead letter once `max_retries` are used.

        It is due again after 2 minutes, then 4, then 8, twice as long each time, a day at most.
        Raises IllegalTransition if it was delivered, cancelled or is a dead letter.
        """
        spent = self.retry_count + 1
        error = error_message or self.last_error
        if spent >= self.max_retries:
            self._move(
                OutboxEventStatus.FAILED,
                retry_count=spent,
                last_error=error,
                ended_at=timezone.now(),
            )
            event_failed.send_robust(sender=type(self), event=self, error=Rejected(error))
            return
        delay = min(timedelta(minutes=2 ** min(spent, 20)), timedelta(days=1))
        self._move(
            OutboxEventStatus.RETRY,
            retry_count=spent,
            last_error=error,
            scheduled_at=timezone.now() + delay,
        )
        event_retried.send_robust(
            sender=type(self),
            event=self,
            error=TransientError(error),
            delay=delay.total_seconds(),
        )

    def _move(self, target: OutboxEventStatus, **values: Any) -> bool:
        """Change the status in the database and here; return False if it was `target` already.

        Every undelivered event may change to `target`. Raises IllegalTransition.
        """
        values |= {"status": target, "updated_at": timezone.now()}
        using = router.db_for_write(type(self), instance=self)  # not the replica that was read
        rows = type(self)._base_manager.using(using).filter(pk=self.pk)
        if not rows.filter(status__in=UNDELIVERED).update(**values):
            status = rows.values_list("status", flat=True).first()
            if status == target != OutboxEventStatus.RETRY:
                self.status = target
                return False
            raise IllegalTransition(self.pk, status or "deleted", target)
        for name, value in values.items():
            setattr(self, name, value)
        return True

    @property
    def cloud_event(self) -> CloudEvent:
        """The event as it is delivered; `partition_key` is its attribute `partitionkey`.

        Raises CannotUnseal if its data are encrypted with a key that is not configured.
        """
        return _cloud_event_of(self)

    @property
    def type(self) -> str:
        """The event type, by its name in the specification."""
        return self.event_type

    def to_cloud_event(self) -> dict[str, Any]:
        """Return the members of the CloudEvents JSON format, with `id` and `time`.

        Raises CannotUnseal as `cloud_event` does.
        """
        return self.cloud_event.to_dict()


class OutboxArchivedEvent(models.Model):
    """An event that `TableArchive` moved from the outbox; `row` was its id there."""

    id = models.BigAutoField(primary_key=True)
    row = models.BigIntegerField()
    event_id = models.CharField(max_length=255, db_index=True)
    source = models.CharField(max_length=512)
    event_type = models.CharField(max_length=255)
    subject = models.CharField(max_length=512, blank=True, default="")
    time = models.DateTimeField(null=True)
    data_content_type = models.CharField(max_length=255, blank=True, default="")
    data_schema = models.CharField(max_length=2000, blank=True, default="")
    extensions = models.JSONField(default=dict, blank=True, encoder=EventJSONEncoder)
    data = models.JSONField(null=True, blank=True, encoder=EventJSONEncoder)
    data_binary = models.BinaryField(null=True, blank=True)
    sealed = models.BinaryField(null=True, editable=False)
    partition_key = ExactCharField(max_length=255, blank=True, default="")
    publisher_backend = ExactCharField(max_length=64)
    publisher_config = models.JSONField(default=dict, blank=True, encoder=EventJSONEncoder)
    status = models.CharField(max_length=16, choices=OutboxEventStatus.choices)
    scheduled_at = models.DateTimeField()
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    retry_count = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True, default="")
    archived_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("archived event")
        verbose_name_plural = _("archived events")

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} to {self.publisher_backend}"

    @property
    def cloud_event(self) -> CloudEvent:
        """The event as it was delivered; raises CannotUnseal as that of `OutboxEvent`."""
        return _cloud_event_of(self)

    def to_cloud_event(self) -> dict[str, Any]:
        """Return the members of the CloudEvents JSON format; raises as `cloud_event` does."""
        return self.cloud_event.to_dict()


def _cloud_event_of(row: OutboxEvent | OutboxArchivedEvent) -> CloudEvent:
    extensions = dict(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return CloudEvent._stored(
        event_type=row.event_type,
        source=row.source,
        data=_payload_of(row),
        subject=row.subject,
        data_content_type=row.data_content_type,
        data_schema=row.data_schema,
        id=row.event_id,
        time=None if row.time is None else aware(row.time),
        extensions=extensions,
    )


def _payload_of(row: OutboxEvent | OutboxArchivedEvent) -> Any:
    if row.sealed is not None:
        text, binary = unseal(row.sealed)
        return binary if text is None else _decoded(text)
    if row.data_binary is not None:
        return bytes(row.data_binary)
    return JSON_NULL if row.data is None and _has_null(row) else row.data


def _decoded(text: str) -> Any:
    data = parse_json(text)
    return JSON_NULL if data is None else data


def _has_null(row: OutboxEvent | OutboxArchivedEvent) -> bool:
    """Return True if the data are JSON's null, which Django reads as None like no data."""
    if not row.pk or not is_json_type(row.data_content_type):
        return False
    if "has_json_null" in row.__dict__:  # an event that was passed to a backend
        return bool(row.__dict__["has_json_null"])
    rows = type(row)._base_manager.using(row._state.db)
    return not rows.filter(pk=row.pk, data__isnull=True).exists()
