"""The tables: events waiting to be sent, who delivers them, and events already handled."""

from __future__ import annotations

from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .events import ABSENT, CloudEvent
from .events.grammar import is_json_type
from .events.json_format import parse_json
from .querysets import EventSelection, OperationQuerySet, OutboxEventQuerySet, aware
from .redaction import masked
from .schema import ExactCharField, PartialIndex
from .sealing import unseal
from .states import ACTIVE, OperationKind, OperationState, OutboxEventStatus

__all__ = [
    "ArchivedEvent",
    "Attempt",
    "BackendState",
    "Dashboard",
    "InboxEvent",
    "Operation",
    "OutboxEvent",
    "OutboxEventStatus",
    "Partition",
    "Relay",
    "Sample",
    "WebhookEndpoint",
]


class OutboxEvent(models.Model):
    """One event on its way to one backend. `id` is its position: it orders the events of a key."""

    id = models.BigAutoField(primary_key=True)
    event_id = models.CharField(max_length=255)
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
        return f"{self.event_type} {self.event_id} to {self.publisher_backend}"

    def to_cloud_event(self) -> CloudEvent:
        """Return the event as it is delivered; `partition_key` is its attribute `partitionkey`.

        Raises CannotUnseal where its data are encrypted with a key that is not there.
        """
        return _cloud_event_of(self)


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

    def to_cloud_event(self) -> CloudEvent:
        """Return the event as it was delivered; raises CannotUnseal as that of `OutboxEvent`."""
        return _cloud_event_of(self)


def _cloud_event_of(row: OutboxEvent | ArchivedEvent) -> CloudEvent:
    extensions = dict(row.extensions)
    if row.partition_key:
        extensions["partitionkey"] = row.partition_key
    return CloudEvent(
        type=row.event_type,
        source=row.source,
        id=row.event_id,
        subject=row.subject or None,
        time=None if row.time is None else aware(row.time),
        data=_payload_of(row),
        data_content_type=row.data_content_type or None,
        data_schema=row.data_schema or None,
        extensions=extensions,
    )


def _payload_of(row: OutboxEvent | ArchivedEvent) -> Any:
    if row.sealed is not None:
        text, binary = unseal(row.sealed)
        return binary if text is None else parse_json(text)
    if row.data_binary is not None:
        return bytes(row.data_binary)
    return ABSENT if row.data is None and not _has_null(row) else row.data


def _has_null(row: OutboxEvent | ArchivedEvent) -> bool:
    """Tell JSON's null from no data: Django reads both as None."""
    if not is_json_type(row.data_content_type):
        return False
    rows = type(row)._base_manager.using(row._state.db)
    return not rows.filter(pk=row.pk, data__isnull=True).exists()


class BackendState(models.Model):
    """What an operator has said about a backend; without a row it delivers."""

    backend = ExactCharField(max_length=64, primary_key=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.CharField(
        max_length=255, blank=True, default="", help_text=_("Who paused it, and why.")
    )

    class Meta:
        verbose_name = _("backend")
        verbose_name_plural = _("backends")
        permissions = [("pause_backend", "Can pause and resume backends")]

    def __str__(self) -> str:
        return self.backend


class Operation(models.Model):
    """Something that the relays do to many events in the background, and how far it is.

    `selection` is an `EventSelection` as JSON. Of the ids behind `start` up to `last`, which was
    the newest when it was requested, those up to `position` have been seen to.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=OperationKind.choices)
    selection = models.JSONField(default=dict)
    state = models.CharField(
        max_length=16, choices=OperationState.choices, default=OperationState.WAITING
    )
    requested_by = models.CharField(max_length=255, blank=True, default="")
    user_pk = models.CharField(
        max_length=255, blank=True, default="", help_text=_("Key of the user, if it was one.")
    )
    stopped_by = models.CharField(max_length=255, blank=True, default="")
    requested_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    moved_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    start = models.BigIntegerField()
    position = models.BigIntegerField()
    last = models.BigIntegerField()
    total = models.BigIntegerField(help_text=_("Events to move, counted when it was requested."))
    total_is_exact = models.BooleanField(help_text=_("No where counting would have taken long."))
    done = models.BigIntegerField(default=0)
    left_alone = models.BigIntegerField(
        default=0, help_text=_("Events whose state had changed when it was their turn.")
    )
    failures = models.PositiveSmallIntegerField(
        default=0, help_text=_("How often in a row the database refused the next step.")
    )
    not_before = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")

    objects = OperationQuerySet.as_manager()

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        indexes = [
            PartialIndex(
                name="broadcaster_active",
                fields=["id"],
                where="state IN ('waiting', 'running')",
                prefix=("state",),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.described}"

    @property
    def described(self) -> str:
        """The selection in words."""
        try:
            return str(EventSelection.from_json(self.selection))
        except (TypeError, ValueError):  # of a newer version
            return str(self.selection)

    @property
    def is_active(self) -> bool:
        """Whether the relays have still to work on it."""
        return self.state in ACTIVE

    @property
    def is_due(self) -> bool:
        """Whether the next step may be tried now."""
        return self.not_before is None or self.not_before <= timezone.now()

    @property
    def progress(self) -> float:
        """How much of it is done, from 0 to 1: by events where they are counted, else by ids."""
        if self.state == OperationState.DONE:
            return 1.0
        if self.total_is_exact and self.total:
            return min(1.0, (self.done + self.left_alone) / self.total)
        return (self.position - self.start) / max(1, self.last - self.start)


class Dashboard(BackendState):
    """The backends once more, as what the admin's index lists the dashboard under."""

    class Meta:
        proxy = True
        default_permissions = ()  # it is seen by who may view outbox events
        verbose_name = _("dashboard")
        verbose_name_plural = _("dashboard")


class Sample(models.Model):
    """One minute of a backend, which its relays add up: what the dashboard draws.

    The counts are of attempts by outcome. `timed` deliveries took `waited` milliseconds in all and
    `longest` at the most, from when each was due until it was settled: of a batch a second, all.
    What stood in the outbox is NULL while nobody looked.
    """

    id = models.BigAutoField(primary_key=True)
    backend = ExactCharField(max_length=64)
    minute = models.PositiveIntegerField(help_text=_("Minutes since 1970 in UTC."))
    published = models.PositiveBigIntegerField(default=0)
    retried = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    timed = models.PositiveBigIntegerField(default=0)
    waited = models.PositiveBigIntegerField(default=0)
    longest = models.PositiveBigIntegerField(default=0)
    backlog = models.PositiveBigIntegerField(
        null=True, help_text=_("Events that are due, wait for a retry or are blocked.")
    )
    oldest_age = models.PositiveBigIntegerField(
        null=True, help_text=_("Milliseconds that the first event had been due.")
    )
    circuit_open = models.BooleanField(
        default=False, help_text=_("Whether the broker counted as away for a relay.")
    )

    class Meta:
        verbose_name = _("minute of a backend")
        verbose_name_plural = _("minutes of backends")
        constraints = [
            models.UniqueConstraint(fields=["backend", "minute"], name="broadcaster_sample")
        ]

    def __str__(self) -> str:
        return f"minute {self.minute} of {self.backend}"


class Attempt(models.Model):
    """An attempt to deliver an event that failed; `row` is the event's id in the outbox."""

    id = models.BigAutoField(primary_key=True)
    row = models.BigIntegerField(db_index=True)
    number = models.PositiveIntegerField(help_text=_("1 is the first attempt."))
    attempted_at = models.DateTimeField(db_index=True)
    relay = models.CharField(max_length=255)
    error = models.TextField()

    class Meta:
        verbose_name = _("failed attempt")
        verbose_name_plural = _("failed attempts")

    def __str__(self) -> str:
        return f"attempt {self.number} of event {self.row}"


class Relay(models.Model):
    """The lease of a running relay on its partitions of one backend.

    It ends when the row goes: a relay deletes its own on a clean stop, and others delete one whose
    heartbeat stopped. `id` grows with each new lease, so it is the epoch that fences the old one.
    """

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=255, help_text=_("Host and process of the relay."))
    backend = ExactCharField(max_length=64)
    takes_share = models.BooleanField(
        default=True, help_text=_("No for a visitor, which takes what no relay owns.")
    )
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    in_flight_from = models.BigIntegerField(
        null=True, blank=True, help_text=_("First event of the last delivery that it started.")
    )
    in_flight_to = models.BigIntegerField(null=True, blank=True)
    circuit_open_since = models.DateTimeField(
        null=True, blank=True, help_text=_("Since when the broker counts as away for it.")
    )
    circuit_error = models.CharField(  # with a default of the database's: older relays join too
        max_length=500, blank=True, default="", db_default="", help_text=_("Why.")
    )

    class Meta:
        verbose_name = _("relay")
        verbose_name_plural = _("relays")

    def __str__(self) -> str:
        return f"{self.name} for {self.backend}"


class Partition(models.Model):
    """A hash bucket of keys of one backend, and the relay that owns it now."""

    id = models.BigAutoField(primary_key=True)
    backend = ExactCharField(max_length=64)
    number = models.PositiveSmallIntegerField()
    relay = models.ForeignKey(
        Relay, null=True, blank=True, on_delete=models.SET_NULL, related_name="partitions"
    )

    class Meta:
        verbose_name = _("partition")
        verbose_name_plural = _("partitions")
        constraints = [
            models.UniqueConstraint(fields=["backend", "number"], name="broadcaster_partition")
        ]

    def __str__(self) -> str:
        return f"partition {self.number} of {self.backend}"


class InboxEvent(models.Model):
    """An event that one handler has processed, written in the handler's own transaction."""

    id = models.BigAutoField(primary_key=True)
    identity = models.CharField(max_length=64, editable=False)
    handler = models.CharField(max_length=255)
    source = models.CharField(max_length=512)
    event_id = models.CharField(max_length=255)
    processed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("inbox event")
        verbose_name_plural = _("inbox events")
        constraints = [models.UniqueConstraint(fields=["identity"], name="broadcaster_inbox")]

    def __str__(self) -> str:
        return f"{self.event_id} by {self.handler}"


class WebhookEndpoint(models.Model):
    """A webhook endpoint in trouble. One that works has no row, so to delete it is to enable it."""

    id = models.BigAutoField(primary_key=True)
    identity = models.CharField(
        max_length=64, editable=False, help_text=_("Digest of the backend and the URL.")
    )
    backend = models.CharField(max_length=64)
    url = models.CharField(max_length=2000)
    failing_since = models.DateTimeField(
        default=timezone.now, help_text=_("The first failure behind its last success.")
    )
    disabled_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = _("webhook endpoint")
        verbose_name_plural = _("webhook endpoints in trouble")
        permissions = [("enable_webhookendpoint", "Can enable webhook endpoints again")]
        constraints = [models.UniqueConstraint(fields=["identity"], name="broadcaster_endpoint")]

    def __str__(self) -> str:
        return f"{masked(self.url)} of {self.backend}"
