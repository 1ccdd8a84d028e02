"""The tasks that relays have run (Django 6.0 or newer)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_broadcaster.amounts import duration
from django_broadcaster.backends.handler import backends
from django_broadcaster.dashboard.display import NOTHING, age, label, moment, text_block
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, CannotUnseal
from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.presentation import redacted
from django_broadcaster.states import UNDELIVERED, OutboxEventStatus
from django_broadcaster.tasks.runs import Outcome, outcome_of
from django_broadcaster.tasks.task_events import SOURCE

from .base import LeanChangeList, ReadOnlyAdmin
from .outbox import OutboxEventAdmin

OF_ATTEMPTS = ("attempts", "started", "last_attempted", "finished", "relays")


@dataclass(frozen=True, slots=True)
class State:
    """A state of a task: its name in the address, its colour, and its text."""

    name: str
    colour: str
    text: Promise


SUCCEEDED = State("succeeded", "published", _("succeeded"))
RUNNING = State("running", "running", _("running"))
RETRYING = State("retrying", "retry", _("to be retried"))
FAILED = State("failed", "failed", _("failed"))
CANCELLED = State("cancelled", "cancelled", _("cancelled"))
DELETED = State("deleted", "cancelled", _("ended, event deleted"))
STATES = {each.name: each for each in (SUCCEEDED, RUNNING, RETRYING, FAILED, CANCELLED, DELETED)}


def state_of(run: OutboxTaskRun, event: OutboxEvent | None) -> State:
    """Return the state of a task, as `in_state` finds it."""
    if event is not None and event.status == OutboxEventStatus.FAILED:
        return FAILED
    if event is not None and event.status == OutboxEventStatus.CANCELLED:
        return CANCELLED
    if run.finished_at is not None or (event and event.status == OutboxEventStatus.PUBLISHED):
        return SUCCEEDED
    if event is None:
        return DELETED
    return RUNNING if run.is_running else RETRYING


def in_state(runs: QuerySet[OutboxTaskRun], state: State) -> QuerySet[OutboxTaskRun]:
    """Return the runs whose tasks are in a state, as `state_of` tells it."""
    if state is FAILED:
        return runs.filter(_has_event(OutboxEventStatus.FAILED))
    if state is CANCELLED:
        return runs.filter(_has_event(OutboxEventStatus.CANCELLED))
    if state is SUCCEEDED:
        ended = _has_event(OutboxEventStatus.FAILED, OutboxEventStatus.CANCELLED)
        delivered = _has_event(OutboxEventStatus.PUBLISHED)
        return runs.filter(Q(finished_at__isnull=False) | delivered).exclude(ended)
    unfinished = runs.filter(finished_at=None)
    if state is DELETED:
        return unfinished.exclude(_has_event(*OutboxEventStatus))
    return unfinished.filter(_has_event(*UNDELIVERED), is_running=state is RUNNING)


def _has_event(*statuses: OutboxEventStatus) -> Exists:
    """Return the condition that the event of a run has one of these statuses, by an index."""
    events = OutboxEvent.objects.filter(identity=OuterRef("identity"))
    return Exists(events.filter(status__in=statuses))


def events_of(runs: Iterable[OutboxTaskRun], using: str | None) -> dict[str, OutboxEvent]:
    """Return the event of each run by the run's task id; one that was purged is not there."""
    rows = OutboxEvent.objects.using(using).filter(identity__in=[run.identity for run in runs])
    found = rows.only("id", "event_id", "status", "publisher_backend")
    return {event.event_id: event for event in found}


class StateFilter(admin.SimpleListFilter):
    """A filter by state, which depends on the run and its event."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return [(state.name, str(state.text)) for state in STATES.values()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the runs in the chosen state."""
        state = STATES.get(self.value() or "")
        return queryset if state is None else in_state(queryset, state)


class BackendFilter(admin.SimpleListFilter):
    """A filter by backend, whose choices need no scan of the table."""

    title = _("backend")
    parameter_name = "backend"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the backends of all queues in TASKS."""
        return [(alias, alias) for alias in backends.of_tasks()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the runs of the chosen backend."""
        return queryset.filter(backend=self.value()) if self.value() else queryset


class RunChangeList(LeanChangeList):
    """A list that reads the events of its rows, in one query."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the rows, and the event of each."""
        super().get_results(request)
        self.result_list = [*self.result_list]
        events = events_of(self.result_list, self.queryset.db)
        for run in self.result_list:
            run.event = events.get(run.task_id)


@admin.register(OutboxTaskRun)
class TaskRunAdmin(ReadOnlyAdmin):
    """The tasks that relays have run, with their results and errors."""

    payload_fields = ("outcome", "sealed")
    unsearched = frozenset(payload_fields)
    list_display = ("id", "state", "path", "backend", "started_age", "took")
    list_filter = (StateFilter, BackendFilter, "started_at")
    search_fields = ("task_id", "task")
    search_help_text = _("Task id, or path of the task")
    fieldsets = (
        (None, {"fields": ("state", "path", "task_id", "backend", "event")}),
        (_("Result"), {"fields": ("result", "errors")}),
        (_("Attempts"), {"fields": OF_ATTEMPTS}),
    )
    readonly_fields = ("state", "path", "event", "result", "errors", *OF_ATTEMPTS)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[LeanChangeList]:
        """Return the class of the list."""
        return RunChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return a run, with its event."""
        run: Any = super().get_object(request, object_id, from_field)
        if run is not None:
            run.event = events_of([run], run._state.db).get(run.task_id)
        return run

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Return the page of a run, with the buttons of its event unless the task succeeded."""
        run = self.get_object(request, object_id)
        context = {**(extra_context or {}), "buttons": self._buttons(request, run)}
        return super().change_view(request, object_id, form_url, context)

    def _buttons(self, request: HttpRequest, run: Any) -> list[tuple[str, Promise]]:
        """Return the buttons; a task that has succeeded does not run again by a replay."""
        if run is None or run.event is None or run.finished_at is not None:
            return []
        pages = self._event_pages()
        if pages is None or not pages.has_view_permission(request, run.event):
            return []
        return pages.buttons(request, run.event)

    def _event_pages(self) -> OutboxEventAdmin | None:
        """Return the pages of events, if this site has them."""
        if not self.admin_site.is_registered(OutboxEvent):
            return None
        pages = self.admin_site.get_model_admin(OutboxEvent)
        return pages if isinstance(pages, OutboxEventAdmin) else None

    @admin.display(description=_("state"))
    def state(self, run: Any) -> SafeString:
        """Return the state as a coloured label."""
        state = state_of(run, run.event)
        return label(state.colour, state.text)

    @admin.display(description=_("task"))
    def path(self, run: OutboxTaskRun) -> str:
        """Return the path of the task."""
        return run.task

    @admin.display(description=_("attempts"))
    def attempts(self, run: OutboxTaskRun) -> int:
        """Return the number of attempts."""
        return len(run.worker_ids)

    @admin.display(description=_("started"))
    def started_age(self, run: OutboxTaskRun) -> SafeString:
        """Return how long ago the first attempt began."""
        return age(run.started_at)

    @admin.display(description=_("duration"))
    def took(self, run: OutboxTaskRun) -> str:
        """Return how long the attempt that succeeded took."""
        if run.finished_at is None:
            return NOTHING
        return duration(max(0.0, (run.finished_at - run.last_attempted_at).total_seconds()))

    @admin.display(description=_("started at"))
    def started(self, run: OutboxTaskRun) -> str:
        """Return when the first attempt began."""
        return moment(run.started_at)

    @admin.display(description=_("last attempt at"))
    def last_attempted(self, run: OutboxTaskRun) -> str:
        """Return when the last attempt began."""
        return moment(run.last_attempted_at)

    @admin.display(description=_("finished at"))
    def finished(self, run: OutboxTaskRun) -> str:
        """Return when the task returned."""
        return moment(run.finished_at)

    @admin.display(description=_("relays"))
    def relays(self, run: OutboxTaskRun) -> SafeString:
        """Return the relay of each attempt."""
        return format_html_join(SafeString("<br>"), "{}", ((each,) for each in run.worker_ids))

    @admin.display(description=_("event"))
    def event(self, run: Any) -> Any:
        """Return a link to the event of the task, which has the arguments."""
        if run.event is None:
            return _("The event has been deleted.")
        text = f"{run.event.pk} ({run.event.get_status_display()})"
        if self._event_pages() is None:
            return text
        url = reverse(
            "admin:django_broadcaster_outboxevent_change",
            args=[run.event.pk],
            current_app=self.admin_site.name,
        )
        return format_html('<a href="{}">{}</a>', url, text)

    @admin.display(description=_("return value"))
    def result(self, run: OutboxTaskRun) -> Any:
        """Return the return value as JSON; OUTBOX_REDACTOR gets it as the data of an event."""
        if run.finished_at is None:
            return NOTHING
        outcome = _readable(run)
        if isinstance(outcome, str):
            return text_block(outcome)
        is_data = isinstance(outcome.return_value, dict)
        data = outcome.return_value if is_data else {"return_value": outcome.return_value}
        shown = redacted(CloudEvent(run.task, SOURCE, data, id=run.task_id))
        if isinstance(shown, str):
            return text_block(shown)
        value = shown.data
        if not is_data and isinstance(value, dict) and value.keys() == data.keys():
            value = value["return_value"]
        return text_block(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    @admin.display(description=_("errors"))
    def errors(self, run: OutboxTaskRun) -> Any:
        """Return the tracebacks of the last attempts that failed, the newest first."""
        outcome = _readable(run)
        if isinstance(outcome, str):
            return text_block(outcome)
        blocks = [text_block(each.traceback) for each in reversed(outcome.errors)]
        return format_html_join("", "{}", ((each,) for each in blocks)) or NOTHING


def _readable(run: OutboxTaskRun) -> Outcome | str:
    """Return the outcome of a run, or the reason why it can't be shown."""
    try:
        return outcome_of(run)
    except (CannotUnseal, BackendConfigurationError) as error:
        return str(_("The result can't be shown: %(error)s") % {"error": error})
