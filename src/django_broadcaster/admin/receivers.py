"""The receivers that run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_broadcaster.amounts import duration
from django_broadcaster.conf import conf
from django_broadcaster.dashboard.display import NOTHING, label, moment
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.models.managers import DatabaseNow

from .base import ReadOnlyAdmin


@admin.register(OutboxReceiver)
class ReceiverAdmin(ReadOnlyAdmin):
    """The processes that read brokers now."""

    list_display = (
        *("name", "consumer", "role", "heartbeat_age", "lag", "received", "malformed"),
        "last_received",
    )
    list_filter = ("consumer",)
    fields = (*list_display, "duplicates", "received_per_second", "started", "outage", "error")
    readonly_fields = ("role", "heartbeat_age", "last_received", "started", "outage")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxReceiver]:
        """Return the receivers, each with the age of its heartbeat."""
        age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
        queryset: QuerySet[OutboxReceiver] = super().get_queryset(request)
        return queryset.annotate(age=age)

    @admin.display(description=_("reads"))
    def role(self, receiver: OutboxReceiver) -> str:
        """Return whether the receiver reads its consumer alone or with others, or stands by."""
        if receiver.stands_by:
            return str(_("stands by"))
        return str(_("alone")) if receiver.reads else str(_("with others"))

    @admin.display(description=_("heartbeat"))
    def heartbeat_age(self, receiver: Any) -> SafeString:
        """Return the age of the heartbeat, by the database's clock."""
        seconds = receiver.age / timedelta(seconds=1)
        state = "stale" if seconds > conf.LEASE_SECONDS else "alive"
        text = _("%(duration)s ago") % {"duration": duration(max(seconds, 0))}
        return label(state, text)

    @admin.display(description=_("last message"), ordering="last_received_at")
    def last_received(self, receiver: OutboxReceiver) -> str:
        """Return when the last message was received."""
        at = receiver.last_received_at
        return NOTHING if at is None else moment(at)

    @admin.display(description=_("started at"), ordering="started_at")
    def started(self, receiver: OutboxReceiver) -> str:
        """Return when the receiver started."""
        return moment(receiver.started_at)

    @admin.display(description=_("broker unavailable since"))
    def outage(self, receiver: OutboxReceiver) -> str:
        """Return the start of the broker's outage."""
        since = receiver.unavailable_since
        return NOTHING if since is None else moment(since)
