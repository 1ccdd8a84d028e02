"""Leases, partitions, receivers, positions, paused backends, figures and failed attempts."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..schema import ExactCharField


class OutboxBackendState(models.Model):
    """A backend that an operator has paused or resumed; without a row it delivers."""

    backend = ExactCharField(max_length=64, primary_key=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.CharField(
        max_length=255,
        blank=True,
        default="",
        help_text=_("The person, and the reason."),
    )

    class Meta:
        verbose_name = _("backend")
        verbose_name_plural = _("backends")
        permissions = [("pause_backend", "Can pause and resume backends")]

    def __str__(self) -> str:
        return self.backend


class OutboxDashboard(OutboxBackendState):
    """A proxy under which the admin's index lists the dashboard."""

    class Meta:
        proxy = True
        default_permissions = ()  # visible to users who may view outbox events
        verbose_name = _("dashboard")
        verbose_name_plural = _("dashboard")


class OutboxSample(models.Model):
    """The figures of one backend for one minute, summed over its relays, for the dashboard.

    The counts are attempts by outcome. One batch a second is timed: `timed` deliveries, each from
    when it was due until it was settled. `medians` is their number times their median, in
    milliseconds, summed over the relays and their writes every few seconds. `p99` is the largest
    99th percentile of a write. The figures of the outbox are NULL while no relay counts.
    """

    id = models.BigAutoField(primary_key=True)
    backend = ExactCharField(max_length=64)
    minute = models.PositiveIntegerField(help_text=_("Minutes since 1970 in UTC."))
    published = models.PositiveBigIntegerField(default=0)
    retried = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    timed = models.PositiveBigIntegerField(default=0)
    medians = models.PositiveBigIntegerField(default=0)
    p99 = models.PositiveBigIntegerField(default=0)
    backlog = models.PositiveBigIntegerField(
        null=True, help_text=_("Events that are due, wait for a retry or are blocked.")
    )
    oldest_age = models.PositiveBigIntegerField(
        null=True, help_text=_("Milliseconds that the oldest event of the backlog had waited.")
    )
    circuit_open = models.BooleanField(
        default=False, help_text=_("Whether the broker was unavailable for a relay.")
    )
    paused = models.BooleanField(
        default=False, help_text=_("Whether an operator had paused the backend.")
    )

    class Meta:
        verbose_name = _("minute of a backend")
        verbose_name_plural = _("minutes of backends")
        constraints = [
            models.UniqueConstraint(fields=["backend", "minute"], name="broadcaster_sample")
        ]

    def __str__(self) -> str:
        return f"minute {self.minute} of {self.backend}"


class OutboxAttempt(models.Model):
    """A failed attempt to deliver an event; `row` is the event's id in the outbox."""

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


class OutboxMove(models.Model):
    """A move of an event by a person: retried, cancelled or replayed.

    It keeps what the move overwrites in the event's row: the status before, and when the event
    ended in it.
    """

    id = models.BigAutoField(primary_key=True)
    row = models.BigIntegerField(db_index=True, help_text=_("The event's id in the outbox."))
    moved_at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=16)
    status = models.CharField(max_length=16, help_text=_("The status before."))
    ended_at = models.DateTimeField(null=True, help_text=_("When the event was done before."))
    moved_by = models.CharField(max_length=255)
    operation = models.BigIntegerField(null=True, help_text=_("The operation, if any."))

    class Meta:
        verbose_name = _("move of an event")
        verbose_name_plural = _("moves of events")

    def __str__(self) -> str:
        return f"{self.kind} of event {self.row}"


class OutboxRelay(models.Model):
    """The lease of a running relay on its partitions of one backend.

    It ends when its row is deleted: by the relay itself when it stops, or by another relay if its
    heartbeat stopped. `id` is the epoch that fences the lease before. It grows with time, and is
    unique across outboxes.
    """

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=255, help_text=_("Host and process of the relay."))
    backend = ExactCharField(max_length=64)
    takes_share = models.BooleanField(
        default=True, help_text=_("No for a visitor, which takes partitions that no relay owns.")
    )
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    in_flight_from = models.BigIntegerField(
        null=True,
        blank=True,
        help_text=_("First event of the last delivery."),
    )
    in_flight_to = models.BigIntegerField(null=True, blank=True)
    in_flight_ids = models.TextField(  # noqa: DJ001  # only NULL says that the range is meant
        null=True, blank=True, editable=False
    )
    circuit_open_since = models.DateTimeField(
        null=True,
        blank=True,
        help_text=_("The start of the broker's outage."),
    )
    circuit_error = models.CharField(  # with a database default: older relays join, too
        max_length=500, blank=True, default="", db_default="", help_text=_("Why.")
    )

    class Meta:
        verbose_name = _("relay")
        verbose_name_plural = _("relays")

    def __str__(self) -> str:
        return f"{self.name} for {self.backend}"


class OutboxPartition(models.Model):
    """A hash bucket of keys of one backend, and the relay that owns it now."""

    id = models.BigAutoField(primary_key=True)
    backend = ExactCharField(max_length=64)
    number = models.PositiveSmallIntegerField()
    relay = models.ForeignKey(
        OutboxRelay, null=True, blank=True, on_delete=models.SET_NULL, related_name="partitions"
    )
    sent_by = models.BigIntegerField(
        null=True,
        blank=True,
        editable=False,
        help_text=_(
            "Id of the last lease that sent its events, if the broker may have some that are not "
            "settled. Used by backends that keep positions."
        ),
    )

    class Meta:
        verbose_name = _("partition")
        verbose_name_plural = _("partitions")
        constraints = [
            models.UniqueConstraint(fields=["backend", "number"], name="broadcaster_partition")
        ]

    def __str__(self) -> str:
        return f"partition {self.number} of {self.backend}"


class OutboxReceiver(models.Model):
    """A running process that reads the broker of one consumer, with its figures since its start.

    Its row is its lease: each batch updates the row in its own transaction, so a receiver whose row
    another one has deleted writes nothing.
    """

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=255, help_text=_("Host and process of the receiver."))
    consumer = ExactCharField(max_length=64)
    reads = ExactCharField(  # type: ignore[misc]  # typed as a field that is never NULL
        max_length=64,
        null=True,
        blank=True,
        help_text=_("The consumer, if this receiver alone may read it now."),
    )
    stands_by = models.BooleanField(
        default=False, help_text=_("Whether it waits until it may read.")
    )
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    received = models.PositiveBigIntegerField(default=0)
    duplicates = models.PositiveBigIntegerField(
        default=0, help_text=_("Messages that had been received before.")
    )
    malformed = models.PositiveBigIntegerField(
        default=0, help_text=_("Messages that became dead letters.")
    )
    received_per_second = models.FloatField(default=0, help_text=_("Over the last minute."))
    last_received_at = models.DateTimeField(null=True, blank=True)
    lag = models.PositiveBigIntegerField(
        null=True, blank=True, help_text=_("Messages that wait at the broker, if it can say.")
    )
    lag_grows_since = models.DateTimeField(
        null=True,
        blank=True,
        help_text=_("Since when nothing has been received while the lag grew."),
    )
    unavailable_since = models.DateTimeField(
        null=True, blank=True, help_text=_("The start of the broker's outage.")
    )
    error = models.CharField(max_length=500, blank=True, default="", help_text=_("Why."))

    class Meta:
        verbose_name = _("receiver")
        verbose_name_plural = _("receivers")
        constraints = [models.UniqueConstraint(fields=["reads"], name="broadcaster_receiver_reads")]

    def __str__(self) -> str:
        return f"{self.name} for {self.consumer}"


class OutboxPosition(models.Model):
    """The position up to which a consumer has read a source, such as a partition of Kafka.

    Each batch updates it in its own transaction. The epoch grows whenever a receiver is given the
    source, which fences the one before.
    """

    id = models.BigAutoField(primary_key=True)
    consumer = ExactCharField(max_length=64)
    source = ExactCharField(
        max_length=520, help_text=_("For Kafka: the group, the topic and the partition.")
    )
    epoch = models.PositiveBigIntegerField(default=0)
    position = models.BigIntegerField(
        null=True, blank=True, help_text=_("Where to go on; none until a batch was written.")
    )

    class Meta:
        verbose_name = _("position of a consumer")
        verbose_name_plural = _("positions of consumers")
        constraints = [
            models.UniqueConstraint(fields=["consumer", "source"], name="broadcaster_position")
        ]

    def __str__(self) -> str:
        return f"{self.source} for {self.consumer}"
