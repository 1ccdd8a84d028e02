"""The outbox and its archive: events on their way, and events that have left."""

from __future__ import annotations

from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..events import JSON_NULL, CloudEvent
from ..events.grammar import is_json_type
from ..events.json_format import parse_json
from ..querysets import OutboxEventQuerySet, aware
from ..schema import ExactCharField, PartialIndex
from ..sealing import unseal
from ..states import OutboxEventStatus


class OutboxEvent(models.Model):
    """One event on its way to one backend. `id` is its position: it orders the events of a key."""

    id = models.BigAutoField(primary_key=True)
    event_id = models.CharField(max_length=255)
    spec_version = models.CharField(max_length=10, default="1.0", db_default="1.0")
    source = models.CharField(max_length=512)
    event_type = models.CharField(max_length=255)
    subject = models.CharField(max_length=512, blank=True, default="")
    time = models.DateTimeField(null=True, default=timezone.now)
    data_content_type = models.CharField(max_length=255, blank=True, default="")
    data_schema = models.CharField(max_length=2000, blank=True, default="")
    extensions = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    data = models.JSONField(null=True, blank=True, encoder=DjangoJSONEncoder)
    data_binary = models.BinaryField(null=True, blank=True)
    sealed = models.BinaryField(
        null=True,
        editable=False,
        help_text=_("The data, encrypted: they stand neither in data nor in data_binary then."),
    )
    identity = models.CharField(  # noqa: DJ001  # only NULL is left out of a unique index
        max_length=64,
        null=True,
        editable=False,
        help_text=_("Digest of source, id and backend, where the caller gave the id."),
    )

    partition_key = ExactCharField(max_length=255, blank=True, default="")
    partition = models.PositiveSmallIntegerField()
    publisher_backend = ExactCharField(max_length=64)
    publisher_config = models.JSONField(default=dict, blank=True)

    status = models.CharField(
        max_length=16, choices=OutboxEventStatus.choices, default=OutboxEventStatus.PENDING
    )
    scheduled_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(auto_now=True)
    published_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When it was given up or cancelled.")
    )
    retry_count = models.PositiveIntegerField(default=0)
    max_retries = models.PositiveSmallIntegerField(default=3)
    crash_count = models.PositiveSmallIntegerField(
        default=0, help_text=_("Relays that died while they delivered this event.")
    )
    last_error = models.TextField(blank=True, default="")
    operation = models.BigIntegerField(
        null=True,
        blank=True,
        editable=False,
        help_text=_("Id of the last operation in the background that moved the event."),
    )

    objects = OutboxEventQuerySet.as_manager()

    class Meta:
        verbose_name = _("outbox event")
        verbose_name_plural = _("outbox events")
        permissions = [
            ("replay_outboxevent", "Can have outbox events delivered again"),
            ("cancel_outboxevent", "Can cancel outbox events"),
            ("purge_outboxevent", "Can purge outbox events"),
        ]
        # Rows that are done stand in the primary key alone: each further index that held them
        # would cost a delivery 2 to 4 microseconds per event.
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

    @property
    def cloud_event(self) -> CloudEvent:
        """The event as it is delivered; `partition_key` is its attribute `partitionkey`.

        Raises CannotUnseal where its data are encrypted with a key that is not there.
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


class ArchivedEvent(models.Model):
    """An event that `TableArchive` took over from the outbox; `row` was its id there."""

    id = models.BigAutoField(primary_key=True)
    row = models.BigIntegerField()
    event_id = models.CharField(max_length=255, db_index=True)
    source = models.CharField(max_length=512)
    event_type = models.CharField(max_length=255)
    subject = models.CharField(max_length=512, blank=True, default="")
    time = models.DateTimeField(null=True)
    data_content_type = models.CharField(max_length=255, blank=True, default="")
    data_schema = models.CharField(max_length=2000, blank=True, default="")
    extensions = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    data = models.JSONField(null=True, blank=True, encoder=DjangoJSONEncoder)
    data_binary = models.BinaryField(null=True, blank=True)
    sealed = models.BinaryField(null=True, editable=False)
    partition_key = ExactCharField(max_length=255, blank=True, default="")
    publisher_backend = ExactCharField(max_length=64)
    publisher_config = models.JSONField(default=dict, blank=True)
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


def _cloud_event_of(row: OutboxEvent | ArchivedEvent) -> CloudEvent:
    extensions = dict(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return CloudEvent(
        row.event_type,
        row.source,
        _payload_of(row),
        row.subject,
        row.data_content_type,
        row.data_schema,
        id=row.event_id,
        time=None if row.time is None else aware(row.time),
        extensions=extensions,
    )


def _payload_of(row: OutboxEvent | ArchivedEvent) -> Any:
    if row.sealed is not None:
        text, binary = unseal(row.sealed)
        return binary if text is None else _decoded(text)
    if row.data_binary is not None:
        return bytes(row.data_binary)
    return JSON_NULL if row.data is None and _has_null(row) else row.data


def _decoded(text: str) -> Any:
    data = parse_json(text)
    return JSON_NULL if data is None else data


def _has_null(row: OutboxEvent | ArchivedEvent) -> bool:
    """Tell JSON's null from no data: Django reads both as None."""
    if not is_json_type(row.data_content_type):
        return False
    rows = type(row)._base_manager.using(row._state.db)
    return not rows.filter(pk=row.pk, data__isnull=True).exists()
