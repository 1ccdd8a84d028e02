"""The admin: see what is in the outbox and why, retry it or cancel it. Nothing can be edited.

The outbox may hold millions of rows: nothing here reads all of them to draw a page, and lists leave
the payloads in the database.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections, router, transaction
from django.db.models import Count, DurationField, ExpressionWrapper, F, QuerySet
from django.http import HttpRequest
from django.utils.functional import Promise, cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .backends.handler import backends
from .conf import conf
from .exceptions import InvalidEvent
from .models import InboxEvent, OutboxEvent, Relay, WebhookEndpoint
from .querysets import DatabaseNow, OutboxEventQuerySet
from .states import OutboxEventStatus, sources_of

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    ModelAdmin = admin.ModelAdmin[Any]
    AnyPaginator = Paginator[Any]
else:
    ModelAdmin = admin.ModelAdmin
    AnyPaginator = Paginator

PAYLOAD_FIELDS = ("data", "data_binary", "extensions", "publisher_config", "last_error")
LONGEST_TEXT = 100_000  # characters of a payload that a page shows
BINARY_HEAD = 256  # bytes of a binary payload that a page shows
EXACT_COUNT = 50_000  # rows up to which a list counts exactly
NOTHING = "-"
CHUNK = 500  # events that an action changes in one transaction


class EstimatingPaginator(AnyPaginator):
    """Takes PostgreSQL's estimate for a large table without a filter: counting would read it all.

    With a filter the count is exact, because "select all" is about exactly those rows.
    """

    @cached_property
    def count(self) -> int:
        """The number of rows, exact or estimated."""
        rows: Any = self.object_list
        estimate = 0 if rows.query.has_filters() else self._estimate(rows)
        return estimate if estimate > EXACT_COUNT else super().count

    def _estimate(self, rows: QuerySet[Any]) -> int:
        """Return the rows that the statistics promise for the table's size now, or 0."""
        connection = connections[rows.db]
        if connection.vendor != "postgresql":
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_ESTIMATE, [rows.model._meta.db_table])
            return int(cursor.fetchone()[0])


_ESTIMATE = """
    SELECT reltuples / GREATEST(relpages, 1)
        * (pg_relation_size(oid) / current_setting('block_size')::int)
    FROM pg_class WHERE oid = to_regclass(%s)
"""


class LeanChangeList(ChangeList):
    """A list that leaves payloads and errors in the database."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return the rows of the list."""
        return super().get_queryset(request, *args, **kwargs).defer(*PAYLOAD_FIELDS)


class ReadOnlyAdmin(ModelAdmin):
    """Rows to look at: they are written by the application and the relay alone."""

    ordering = ("-id",)
    sortable_by = ("id",)  # the order that has an index
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would count every row
    paginator = EstimatingPaginator

    class Media:
        css = {"all": ["django_broadcaster/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows here."""
        return False


class BackendFilter(admin.SimpleListFilter):
    """By alias, from the setting: the aliases in use would have to be read from every row."""

    title = _("backend")
    parameter_name = "backend"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the configured aliases."""
        return [(alias, alias) for alias in backends.aliases()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the events to the chosen backend."""
        alias = self.value()
        return queryset.filter(publisher_backend=alias) if alias else queryset


@dataclass(frozen=True, slots=True)
class Move:
    """What an action does: to events in which states, how, what it says and what it logs."""

    sources: tuple[OutboxEventStatus, ...]
    run: Callable[[OutboxEventQuerySet], int]
    done: Promise
    logged: str


RETRY = Move(
    sources=(*sources_of(OutboxEventStatus.SCHEDULED), OutboxEventStatus.RETRY),
    run=lambda events: events.replay() + events.hasten(),
    done=_("Due again now: %(changed)d of %(selected)d selected."),
    logged="Retry now (was %s).",
)
CANCEL = Move(
    sources=sources_of(OutboxEventStatus.CANCELLED),
    run=lambda events: events.cancel(),
    done=_("Cancelled: %(changed)d of %(selected)d selected."),
    logged="Cancelled (was %s).",
)


@admin.register(OutboxEvent)
class OutboxEventAdmin(ReadOnlyAdmin):
    """The outbox. Retrying and cancelling have permissions of their own."""

    list_display = (
        *("id", "event_type", "subject", "partition_key", "backend"),
        *("status_label", "retries", "created"),
    )
    list_filter = ("status", BackendFilter, "created_at", "scheduled_at")
    search_fields = ("event_id", "event_type", "subject", "partition_key", "source")
    search_help_text = _("Event id, event type, subject, partition key or source")
    actions = ("retry", "cancel")
    fieldsets = (
        (None, {"fields": ("id", "status_label", "event_type", "source", "event_id", "subject")}),
        (_("Payload"), {"fields": ("payload",)}),
        (
            _("Delivery"),
            {
                "fields": (
                    *("backend", "publisher_config", "partition_key", "partition"),
                    *("created", "scheduled", "published"),
                    *("retries", "crash_count", "error"),
                )
            },
        ),
    )
    readonly_fields = (
        *("status_label", "payload", "backend", "created", "scheduled", "published"),
        *("retries", "error"),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the class of the list."""
        return LeanChangeList

    @admin.display(description=_("status"))
    def status_label(self, event: OutboxEvent) -> SafeString:
        """Return the status in its colour."""
        return _label(event.status, event.get_status_display())

    @admin.display(description=_("retries"))
    def retries(self, event: OutboxEvent) -> str:
        """Return the retries spent, of those allowed."""
        return f"{event.retry_count} / {event.max_retries}"

    @admin.display(description=_("backend"))
    def backend(self, event: OutboxEvent) -> str:
        """Return the alias, under a title that leaves the list its width."""
        return event.publisher_backend

    @admin.display(description=_("created"))
    def created(self, event: OutboxEvent) -> str:
        """Return when the event was published to the outbox."""
        return _moment(event.created_at)

    @admin.display(description=_("due"))
    def scheduled(self, event: OutboxEvent) -> str:
        """Return when the event is or was due."""
        return _moment(event.scheduled_at)

    @admin.display(description=_("delivered"))
    def published(self, event: OutboxEvent) -> str:
        """Return when the event's broker had it."""
        return _moment(event.published_at)

    @admin.display(description=_("last error"))
    def error(self, event: OutboxEvent) -> str:
        """Return the error of the last failed attempt."""
        return _text(event.last_error) if event.last_error else NOTHING

    @admin.display(description=_("CloudEvent"))
    def payload(self, event: OutboxEvent) -> SafeString:
        """Return the event as JSON; binary data as its size and first bytes instead of base64."""
        try:
            members = event.to_cloud_event().to_dict()
        except InvalidEvent as error:  # a row that was not written by the publishers API
            return _text(_("This row is not a valid event: %(error)s") % {"error": error})
        members.pop("data_base64", None)
        text = _text(json.dumps(members, indent=2, ensure_ascii=False, default=str))
        return text if event.data_binary is None else text + _dump(bytes(event.data_binary))

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whether the user may have events delivered again."""
        return request.user.has_perm("django_broadcaster.replay_outboxevent")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether the user may cancel events."""
        return request.user.has_perm("django_broadcaster.cancel_outboxevent")

    @admin.action(description=_("Retry now"), permissions=["replay"])
    def retry(self, request: HttpRequest, queryset: OutboxEventQuerySet) -> None:
        """Deliver events again that are done or given up; hasten those that wait for a retry."""
        self._apply(request, queryset, RETRY)

    @admin.action(description=_("Cancel"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: OutboxEventQuerySet) -> None:
        """Cancel events that have not been delivered."""
        self._apply(request, queryset, CANCEL)

    def _apply(self, request: HttpRequest, queryset: OutboxEventQuerySet, move: Move) -> None:
        """Make the move with every selected event that stands in a fitting state, and report."""
        # Ids first: a filter by status would not find the events any more once they have moved.
        ids = list(queryset.order_by("pk").values_list("pk", flat=True))
        changed, left_alone = 0, Counter[str]()
        for start in range(0, len(ids), CHUNK):
            moved, others = _move_chunk(request, ids[start : start + CHUNK], move)
            changed += moved
            left_alone.update(others)
        text = str(move.done) % {"changed": changed, "selected": len(ids)}
        if left_alone:
            listed = ", ".join(f"{count} {status}" for status, count in left_alone.most_common())
            text += " " + _("Left alone because of their state: %(states)s.") % {"states": listed}
        self.message_user(request, text, messages.SUCCESS if changed else messages.WARNING)


def _move_chunk(request: HttpRequest, ids: list[int], move: Move) -> tuple[int, Counter[str]]:
    """Move those of the events that may be; return how many, and the states of the others."""
    with transaction.atomic(using=router.db_for_write(OutboxEvent)):
        # Locked, so that the log says what really happened while relays go on.
        rows = OutboxEvent.objects.select_for_update().filter(pk__in=ids).order_by("pk")
        events = list(rows.defer(*PAYLOAD_FIELDS))
        movable = [event for event in events if event.status in move.sources]
        changed = move.run(OutboxEvent.objects.filter(pk__in=[event.pk for event in movable]))
        _log(request, movable, move)
    return changed, Counter(
        str(event.get_status_display()) for event in events if event.status not in move.sources
    )


def _log(request: HttpRequest, events: list[OutboxEvent], move: Move) -> None:
    """Write an entry to the history of each event."""
    user: Any = request.user  # not anonymous: the admin has seen to it
    for status in move.sources:
        moved: Any = [event for event in events if event.status == status]
        if moved:
            LogEntry.objects.log_actions(
                user.pk, moved, CHANGE, change_message=move.logged % status
            )


@admin.register(Relay)
class RelayAdmin(ReadOnlyAdmin):
    """The relays that hold a lease now."""

    list_display = (
        *("id", "name", "backend", "partition_count", "heartbeat_age", "in_flight", "started_at"),
    )
    list_filter = ("backend",)
    fields = (*list_display, "takes_share", "heartbeat_at")
    readonly_fields = ("partition_count", "heartbeat_age", "in_flight")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Relay]:
        """Return the relays with their partitions counted and the age of their heartbeats."""
        age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
        queryset: QuerySet[Relay] = super().get_queryset(request)
        return queryset.annotate(owned=Count("partitions"), age=age)

    @admin.display(description=_("partitions"))
    def partition_count(self, relay: Any) -> int:
        """Return how many partitions the relay owns."""
        count: int = relay.owned
        return count

    @admin.display(description=_("heartbeat"))
    def heartbeat_age(self, relay: Any) -> SafeString:
        """Return how long ago the heartbeat was, on the database's clock."""
        seconds = relay.age / timedelta(seconds=1)
        state = "stale" if seconds > conf.LEASE_SECONDS else "alive"
        return _label(state, _("%(seconds).1f s ago") % {"seconds": max(seconds, 0)})

    @admin.display(description=_("in flight"))
    def in_flight(self, relay: Relay) -> str:
        """Return the range of ids that the relay's last delivery took."""
        if relay.in_flight_from is None:
            return NOTHING
        return f"{relay.in_flight_from}–{relay.in_flight_to}"  # noqa: RUF001  # a range


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin):
    """The events that handlers have processed."""

    list_display = ("id", "handler", "source", "event_id", "processed_at")
    list_filter = ("processed_at",)
    search_fields = ("handler", "source", "event_id")
    fields = list_display


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """The webhook endpoints in trouble. Enabling one has a permission of its own."""

    list_display = ("id", "url", "backend", "state", "failing", "error_start")
    list_filter = (("disabled_at", admin.EmptyFieldListFilter),)
    search_fields = ("url",)
    fields = ("url", "backend", "state", "failing", "disabled", "last_error")
    readonly_fields = ("state", "failing", "disabled")
    actions = ("enable",)

    def has_enable_permission(self, request: HttpRequest) -> bool:
        """Whether the user may enable endpoints again."""
        return request.user.has_perm("django_broadcaster.enable_webhookendpoint")

    @admin.action(description=_("Enable again"), permissions=["enable"])
    def enable(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        """Forget the trouble of the endpoints: relays send to them again within seconds."""
        user: Any = request.user  # not anonymous: the admin has seen to it
        with transaction.atomic(using=router.db_for_write(WebhookEndpoint)):
            endpoints: Any = list(queryset)
            LogEntry.objects.log_actions(
                user.pk, endpoints, DELETION, change_message="Enabled again."
            )
            count, _rows = queryset.filter(pk__in=[each.pk for each in endpoints]).delete()
        text = _("Enabled again: %(count)d. Their dead letters can be retried now.")
        self.message_user(request, text % {"count": count})

    @admin.display(description=_("state"))
    def state(self, endpoint: WebhookEndpoint) -> SafeString:
        """Return whether it is disabled, in a colour."""
        if endpoint.disabled_at is None:
            return _label("retry", _("failing"))
        return _label("failed", _("disabled"))

    @admin.display(description=_("failing since"))
    def failing(self, endpoint: WebhookEndpoint) -> str:
        """Return when its first failure was."""
        return _moment(endpoint.failing_since)

    @admin.display(description=_("disabled at"))
    def disabled(self, endpoint: WebhookEndpoint) -> str:
        """Return when it was disabled."""
        return _moment(endpoint.disabled_at)

    @admin.display(description=_("last error"))
    def error_start(self, endpoint: WebhookEndpoint) -> str:
        """Return the beginning of its error."""
        return endpoint.last_error[:80]


def _label(name: str, text: Any) -> SafeString:
    """Return a short text on the colour that `admin.css` has for the name."""
    return format_html('<span class="broadcaster-label broadcaster-label-{}">{}</span>', name, text)


def _text(text: Any) -> SafeString:
    """Return a text as it is, escaped, and cut off where a page would become unusable."""
    text = str(text)
    if len(text) > LONGEST_TEXT:
        more = _("… %(count)d more characters") % {"count": len(text) - LONGEST_TEXT}
        text = f"{text[:LONGEST_TEXT]}\n{more}"
    return format_html('<pre class="broadcaster-text">{}</pre>', text)


def _moment(moment: datetime | None) -> str:
    """Return a moment with its seconds, which Django's formats leave out."""
    if moment is None:
        return NOTHING
    local = localtime(moment) if is_aware(moment) else moment
    return f"{local:%Y-%m-%d %H:%M:%S}"


def _dump(data: bytes) -> SafeString:
    """Return the size of binary data and its first bytes."""
    size = ngettext("%(size)d byte", "%(size)d bytes", len(data)) % {"size": len(data)}
    more = ["…"] if len(data) > BINARY_HEAD else []
    return _text("\n".join([size, *_hex_lines(data[:BINARY_HEAD]), *more]))


def _hex_lines(data: bytes) -> list[str]:
    """Return bytes as `hexdump -C` shows them."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  |{readable}|")
    return lines
