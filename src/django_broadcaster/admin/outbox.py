"""The outbox: a list of events, a page for each, and actions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import Http404, HttpRequest, HttpResponseBase
from django.http.response import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from django_broadcaster.backends.handler import backends
from django_broadcaster.dashboard import event_links, event_page
from django_broadcaster.dashboard.display import NOTHING, age, label, moment, text_block
from django_broadcaster.dashboard.operations_filter import form_query
from django_broadcaster.dashboard.operations_form import HandlersForm
from django_broadcaster.dashboard.operations_views import kinds_for
from django_broadcaster.dashboard.pages import AdminPages
from django_broadcaster.inbox_replay import prepare_replay, skippable_handlers
from django_broadcaster.models import OutboxEvent, OutboxOperation
from django_broadcaster.models.managers import OutboxEventQuerySet
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OperationKind, OutboxEventStatus
from django_broadcaster.store import MOVES, with_leftovers

from .base import MOST, PAYLOAD_FIELDS, LeanChangeList, ReadOnlyAdmin

IN_BACKGROUND = _("All events of this filter, in the background")

LISTED_ERROR = 80
"""Characters of an error in the list."""

_ERROR_CLASS = re.compile(r"^\w+: ")

CHUNK = 500  # events that an action changes in one transaction


class BackendFilter(admin.SimpleListFilter):
    """A filter by alias, whose choices need no scan of the table."""

    title = _("backend")
    parameter_name = "backend"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the configured aliases, then others that have events in the outbox."""
        using = router.db_for_read(OutboxEvent)
        return [(alias, alias) for alias in with_leftovers(using, backends.aliases())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the events of the chosen backend."""
        alias = self.value()
        if not alias:
            return queryset
        known = any(alias == value for value, _ in self.lookup_choices)
        return queryset.filter(publisher_backend=alias) if known else queryset.none()


@dataclass(frozen=True, slots=True)
class Action:
    """An action on events: its texts for the user, and its text in the log."""

    kind: OperationKind
    button: Promise
    meaning: Promise
    done: Promise
    logged: str


RETRY = Action(
    kind=OperationKind.RETRY,
    button=_("Retry now"),
    meaning=_("The event is due now. A dead event gets all its retries again."),
    done=_("%(changed)d of %(selected)d events will be retried now."),
    logged="Retry now (was %s).",
)
CANCEL = Action(
    kind=OperationKind.CANCEL,
    button=_("Cancel event"),
    meaning=_("The event will not be delivered. Later events of its key continue without it."),
    done=_("%(changed)d of %(selected)d events were cancelled."),
    logged="Cancelled (was %s).",
)
REPLAY = Action(
    kind=OperationKind.REPLAY,
    button=_("Replay"),
    meaning=_("The event is delivered again, so a receiver may get it twice."),
    done=_("%(changed)d of %(selected)d events will be delivered again."),
    logged="Replayed (was %s).",
)
ACTIONS = {str(each.kind): each for each in (RETRY, CANCEL, REPLAY)}


class EventPages(AdminPages):
    """The page that asks before one event is changed."""

    model = OutboxEvent
    folder = "outboxevent"

    def move(
        self, request: HttpRequest, event: OutboxEvent, action: Action, form: HandlersForm
    ) -> TemplateResponse:
        """Return the page."""
        title = _("%(action)s: event %(id)d?") % {"action": action.button, "id": event.pk}
        more = {
            "event": event,
            "text": action.button,
            "meaning": action.meaning,
            "handlers": form.handlers,
        }
        above = (self._list(), (str(event), self._url("change", event.pk)))
        crumb = str(action.button)
        return self._page(request, "move", title, more, above=above, crumb=crumb)


class EventChangeList(LeanChangeList):
    """A list that reads the beginning of each error."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return the rows of the list."""
        rows: QuerySet[Any] = super().get_queryset(request, *args, **kwargs)
        beginning = Left("last_error", 2 * LISTED_ERROR)
        return rows.annotate(error_start=beginning)  # type: ignore[no-any-return]


@admin.register(OutboxEvent)
class OutboxEventAdmin(ReadOnlyAdmin):
    """The outbox. Retrying and cancelling have permissions of their own."""

    payload_fields = PAYLOAD_FIELDS
    unsearched = frozenset(PAYLOAD_FIELDS) - {"last_error"}

    list_display = (
        *("id", "status_label", "event_type", "key", "backend", "error_start", "created_age"),
    )
    list_filter = ("status", BackendFilter, "created_at", "scheduled_at")
    search_fields = ("event_id", "event_type", "subject", "partition_key", "source")
    search_help_text = _("Event id, event type, subject, partition key or source")
    actions = ("retry", "cancel", "in_background")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("id", "status_label", "event_type", "source", "event_id", "subject"),
                    "related",
                )
            },
        ),
        (_("History"), {"fields": ("life",)}),
        (_("Payload"), {"fields": ("payload",)}),
        (_("Message"), {"fields": ("message",)}),
        (
            _("Delivery"),
            {
                "fields": (
                    *("backend", "config", "partition_key", "partition"),
                    *("created", "scheduled", "published"),
                    *("retries", "crash_count", "error", "moved_by"),
                )
            },
        ),
    )
    readonly_fields = (
        *("status_label", "related", "life", "payload", "message"),
        *("backend", "created", "scheduled", "published"),
        *("retries", "error", "config", "moved_by"),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the class of the list."""
        return EventChangeList

    @admin.display(description=_("status"))
    def status_label(self, event: OutboxEvent) -> SafeString:
        """Return the status as a coloured label."""
        return label(event.status, event.get_status_display())

    @admin.display(description=_("retries"))
    def retries(self, event: OutboxEvent) -> str:
        """Return the retries spent and the retries allowed."""
        return f"{event.retry_count} / {event.max_retries}"

    @admin.display(description=_("backend"))
    def backend(self, event: OutboxEvent) -> str:
        """Return the alias, in a column with a short title."""
        return event.publisher_backend

    @admin.display(description=_("key"))
    def key(self, event: OutboxEvent) -> str:
        """Return the partition key, in a column with a short title."""
        return event.partition_key or NOTHING

    @admin.display(description=_("last error"))
    def error_start(self, event: OutboxEvent) -> str:
        """Return the beginning of the last error, without its class and its details."""
        line = event.error_start.partition("\n")[0]  # type: ignore[attr-defined]
        return _ERROR_CLASS.sub("", line)[:LISTED_ERROR] or NOTHING

    @admin.display(description=_("created"))
    def created_age(self, event: OutboxEvent) -> SafeString:
        """Return how long ago the event was written to the outbox."""
        return age(event.created_at)

    @admin.display(description=_("related"))
    def related(self, event: OutboxEvent) -> SafeString:
        """Return links to the event's copies, key, blocker and endpoint."""
        return event_links.related(event, self.admin_site)

    @admin.display(description=_("created"))
    def created(self, event: OutboxEvent) -> str:
        """Return the time at which the event was written to the outbox."""
        return moment(event.created_at)

    @admin.display(description=_("due"))
    def scheduled(self, event: OutboxEvent) -> str:
        """Return the time at which the event is or was due."""
        return moment(event.scheduled_at)

    @admin.display(description=_("delivered"))
    def published(self, event: OutboxEvent) -> str:
        """Return the time at which the broker acknowledged the event."""
        return moment(event.published_at)

    @admin.display(description=_("last error"))
    def error(self, event: OutboxEvent) -> str:
        """Return the error of the last failed attempt."""
        return text_block(event.last_error) if event.last_error else NOTHING

    @admin.display(description=_("last changed by"))
    def moved_by(self, event: OutboxEvent) -> str:
        """Return the last background operation that changed the event."""
        if event.operation is None:
            return NOTHING
        text = _("operation %(id)d") % {"id": event.operation}
        if not self.admin_site.is_registered(OutboxOperation):
            return text
        url = reverse(
            "admin:django_broadcaster_outboxoperation_change",
            args=[event.operation],
            current_app=self.admin_site.name,
        )
        return format_html('<a href="{}">{}</a>', url, text)

    @admin.display(description=_("CloudEvent"))
    def payload(self, event: OutboxEvent) -> SafeString:
        """Return the event as JSON; binary data is shown by its size and first bytes."""
        return event_page.payload(event)

    @admin.display(description=_("publisher config"))
    def config(self, event: OutboxEvent) -> SafeString:
        """Return the event's options for its backend, without secrets."""
        return event_page.config(event)

    @admin.display(description=_("what happened"))
    def life(self, event: OutboxEvent) -> SafeString:
        """Return the history of the event."""
        return event_page.life(event)

    @admin.display(description=_("message to send"))
    def message(self, event: OutboxEvent) -> SafeString:
        """Return the message that the backend sends for the event."""
        return event_page.message(event)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may retry and replay events."""
        return request.user.has_perm("django_broadcaster.replay_outboxevent")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may cancel events."""
        return request.user.has_perm("django_broadcaster.cancel_outboxevent")

    @admin.action(description=_("Retry now"), permissions=["replay"])
    def retry(self, request: HttpRequest, queryset: OutboxEventQuerySet) -> None:
        """Retry dead events, and those that wait for a retry, now.

        Delivered and cancelled events are skipped. An operation replays them, after a confirmation.
        """
        self._apply(request, queryset, RETRY)

    @admin.action(description=_("Cancel"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: OutboxEventQuerySet) -> None:
        """Cancel events that have not been delivered."""
        self._apply(request, queryset, CANCEL)

    # One event

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin's pages, and of the moves of one event."""
        view = self.admin_site.admin_view(self.move_view)
        move = path("<int:pk>/<slug:kind>/", view, name="django_broadcaster_outboxevent_move")
        kept = super().get_urls()
        return [*kept[:-1], move, kept[-1]]  # the last one redirects every other URL

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Return the page of an event, with a button for each move that is allowed."""
        event: Any = self.get_object(request, object_id)
        buttons = [] if event is None else self.buttons(request, event)
        context = {**(extra_context or {}), "buttons": buttons}
        return super().change_view(request, object_id, form_url, context)

    def buttons(self, request: HttpRequest, event: OutboxEvent) -> list[tuple[str, Promise]]:
        """Return the address and the text of a button for each move that is allowed."""
        moves = self._moves(request, event)
        return [(self._event_url("move", event.pk, each.kind), each.button) for each in moves]

    def move_view(self, request: HttpRequest, pk: int, kind: str) -> HttpResponseBase:
        """Ask for confirmation, then retry, cancel or replay one event."""
        action = ACTIONS.get(kind)
        event = self.get_object(request, str(pk)) if action else None
        if action is None or event is None:
            raise Http404(f"there is no event {pk}, or no move {kind!r}")
        if not (self.has_view_permission(request, event) and self._may(request, action)):
            raise PermissionDenied
        event_url = self._event_url("change", event.pk)
        form = _handlers_form(event, action, request.POST or None)
        if request.method == "POST":
            forget = form.cleaned_data["forget_inbox"] if form.is_valid() else []
            self._apply(request, OutboxEvent.objects.filter(pk=event.pk), action, forget)
            return HttpResponseRedirect(event_url)
        if event.status not in MOVES[kind].sources:
            text = _("The event is %(status)s, which does not allow this.")
            said = text % {"status": event.get_status_display()}
            self.message_user(request, said, messages.WARNING)
            return HttpResponseRedirect(event_url)
        return EventPages(self.admin_site).move(request, event, action, form)

    def _moves(self, request: HttpRequest, event: OutboxEvent) -> list[Action]:
        """Return the moves that the event's status and the user's permissions allow."""
        allowed = [
            each
            for each in ACTIONS.values()
            if event.status in MOVES[each.kind].sources and self._may(request, each)
        ]
        # To retry a dead letter is to replay it.
        return [each for each in allowed if each is not REPLAY or RETRY not in allowed]

    def _may(self, request: HttpRequest, action: Action) -> bool:
        if action is CANCEL:
            return self.has_cancel_permission(request)
        return self.has_replay_permission(request)

    def _event_url(self, name: str, *arguments: object) -> str:
        view = f"admin:django_broadcaster_outboxevent_{name}"
        return reverse(view, args=arguments, current_app=self.admin_site.name)

    # Many events

    def has_operation_permission(self, request: HttpRequest) -> bool:
        """Return True if the user may request operations, and this site has their form."""
        return self.admin_site.is_registered(OutboxOperation) and bool(kinds_for(request.user))

    @admin.action(description=IN_BACKGROUND, permissions=["operation"])
    def in_background(self, request: HttpRequest, queryset: OutboxEventQuerySet) -> Any:
        """Open the form of an operation with the filters of the list."""
        url = reverse(
            "admin:django_broadcaster_outboxoperation_add", current_app=self.admin_site.name
        )
        return HttpResponseRedirect(f"{url}?{form_query(request.GET)}")

    def changelist_view(self, request: HttpRequest, *args: Any, **more: Any) -> Any:
        """Return the list. The background action works without selected events."""
        if request.POST.get("action") == "in_background":
            post = request.POST.copy()
            post.setdefault(ACTION_CHECKBOX_NAME, "0")
            request.POST = post  # type: ignore[assignment]  # Django's list reads it
        return super().changelist_view(request, *args, **more)

    def _apply(
        self,
        request: HttpRequest,
        queryset: OutboxEventQuerySet,
        action: Action,
        forget: Sequence[str] = (),
    ) -> None:
        """Apply an action to the selected events with a fitting status, and report the result.

        A replay runs the handlers in `forget` again.
        """
        # Read the ids first: a filter by status does not find events after their change.
        ids = list(queryset.order_by("pk").values_list("pk", flat=True)[: MOST + 1])
        if len(ids) > MOST:
            text = _(
                "No event was changed: more than %(most)s are selected. Use “%(action)s” instead."
            )
            what = {"most": f"{MOST:,}", "action": IN_BACKGROUND}
            self.message_user(request, text % what, messages.ERROR)
            return
        changed, without_handlers, skipped = 0, 0, Counter[str]()
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            moved, processed, others = _move_chunk(request, chunk, action, forget)
            changed += moved
            without_handlers += processed
            skipped.update(others)
        done = str(action.done) % {"changed": changed, "selected": len(ids)}
        if skipped:
            listed = ", ".join(f"{count} {status}" for status, count in skipped.most_common())
            done += " " + _("Skipped because of their status: %(states)s.") % {"states": listed}
        if without_handlers:
            done += " " + ngettext(
                "%(count)d of them runs no handler, because all already processed it.",
                "%(count)d of them run no handler, because all already processed them.",
                without_handlers,
            ) % {"count": without_handlers}
        self.message_user(request, done, messages.SUCCESS if changed else messages.WARNING)


def _handlers_form(event: OutboxEvent, action: Action, data: Any) -> HandlersForm:
    """Return the form with the handlers that a replay of an event may skip."""
    form = HandlersForm(data)
    selection = EventSelection(backend=event.publisher_backend, event_type=event.event_type)
    form.offer(skippable_handlers(selection) if action is REPLAY else [])
    return form


def _move_chunk(
    request: HttpRequest, ids: list[int], action: Action, forget: Sequence[str]
) -> tuple[int, int, Counter[str]]:
    """Change eligible events.

    Returns:
        How many were changed, how many of them run no handler, and the statuses of the others.
    """
    move = MOVES[action.kind]
    assert move.run is not None  # only a purge has none
    with transaction.atomic(using=router.db_for_write(OutboxEvent)):
        # Lock the rows, so that the log is correct while relays continue.
        rows = OutboxEvent.objects.select_for_update().filter(pk__in=ids).order_by("pk")
        events = list(rows.defer(*PAYLOAD_FIELDS))
        movable = [event for event in events if event.status in move.sources]
        chosen = OutboxEvent.objects.filter(pk__in=[event.pk for event in movable])
        processed = prepare_replay(chosen, forget) if action is REPLAY else 0
        changed = move.run(chosen, by=request.user.get_username())
        _log(request, movable, action, forget)
    return (
        changed,
        processed,
        Counter(
            str(event.get_status_display()) for event in events if event.status not in move.sources
        ),
    )


def _log(
    request: HttpRequest, events: list[OutboxEvent], action: Action, forget: Sequence[str]
) -> None:
    """Write an entry to the history of each event."""
    user: Any = request.user  # not anonymous: the admin requires a login
    more = f" Handlers that run again: {', '.join(forget)}." if forget else ""
    for status in MOVES[action.kind].sources:
        moved: Any = [event for event in events if event.status == status]
        if moved:
            LogEntry.objects.log_actions(
                user.pk,
                moved,
                CHANGE,
                change_message=action.logged % OutboxEventStatus(status).label + more,
            )
