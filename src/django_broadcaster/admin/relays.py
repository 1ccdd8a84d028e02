"""The relays that hold a lease."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, DurationField, ExpressionWrapper, F, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_broadcaster.amounts import duration
from django_broadcaster.conf import conf
from django_broadcaster.dashboard.display import NOTHING, label, moment
from django_broadcaster.models import OutboxRelay
from django_broadcaster.models.managers import DatabaseNow

from .base import ReadOnlyAdmin


@admin.register(OutboxRelay)
class RelayAdmin(ReadOnlyAdmin):
    """The relays that hold a lease now."""

    list_display = (
        *("id", "name", "backend", "partition_count", "heartbeat_age", "in_flight", "started"),
    )
    list_filter = ("backend",)
    fields = (*list_display, "heartbeat")
    readonly_fields = ("partition_count", "heartbeat_age", "in_flight", "started", "heartbeat")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxRelay]:
        """Return the relays, each with its number of partitions and the age of its heartbeat."""
        age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
        queryset: QuerySet[OutboxRelay] = super().get_queryset(request)
        return queryset.annotate(owned=Count("partitions"), age=age)

    @admin.display(description=_("partitions"))
    def partition_count(self, relay: Any) -> int:
        """Return the number of partitions that the relay owns."""
        count: int = relay.owned
        return count

    @admin.display(description=_("heartbeat"))
    def heartbeat_age(self, relay: Any) -> SafeString:
        """Return the age of the heartbeat, by the database's clock."""
        seconds = relay.age / timedelta(seconds=1)
        state = "stale" if seconds > conf.LEASE_SECONDS else "alive"
        text = _("%(duration)s ago") % {"duration": duration(max(seconds, 0))}
        return label(state, text)

    @admin.display(description=_("last batch"))
    def in_flight(self, relay: OutboxRelay) -> str:
        """Return the range of ids in the relay's last batch."""
        if relay.in_flight_from is None:
            return NOTHING
        return f"{relay.in_flight_from}–{relay.in_flight_to}"  # noqa: RUF001  # a range

    @admin.display(description=_("started at"), ordering="started_at")
    def started(self, relay: OutboxRelay) -> str:
        """Return when the relay started."""
        return moment(relay.started_at)

    @admin.display(description=_("heartbeat at"))
    def heartbeat(self, relay: OutboxRelay) -> str:
        """Return the time of the last heartbeat."""
        return moment(relay.heartbeat_at)
