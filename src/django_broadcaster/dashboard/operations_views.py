"""The pages of operations: the form, its confirmation, and the progress of each operation."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.http.response import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_broadcaster.models import OutboxEvent, OutboxOperation, OutboxRelay
from django_broadcaster.states import OperationKind, OperationState
from django_broadcaster.store import (
    estimate_of,
    first_of,
    is_served,
    request_operation,
    result_of,
    span_of,
)

from .display import moment
from .operations_audit import log_request, log_stop
from .operations_form import MEANINGS, OperationForm, counted
from .pages import APP, AdminPages

PERMISSIONS = {
    OperationKind.RETRY: f"{APP}.replay_outboxevent",
    OperationKind.REPLAY: f"{APP}.replay_outboxevent",
    OperationKind.CANCEL: f"{APP}.cancel_outboxevent",
    OperationKind.PURGE: f"{APP}.purge_outboxevent",
}
"""The permission for each kind of operation, in addition to that to view events."""

SAMPLE = 10
"""Events that the confirmation page shows."""

LOG_ENTRIES = 10


def kinds_for(user: Any) -> list[str]:
    """Return the kinds of operations that a user may request and stop."""
    if not user.has_perm(f"{APP}.view_outboxevent"):
        return []
    return [kind for kind, permission in PERMISSIONS.items() if user.has_perm(permission)]


def may_view(user: Any) -> bool:
    """Return True if a user may view operations, or request some."""
    return bool(user.has_perm(f"{APP}.view_outboxoperation") or kinds_for(user))


class OperationViews(AdminPages):
    """The views for one admin site, which requires that users are staff."""

    model = OutboxOperation
    folder = "operations"

    # A new operation

    def new(self, request: HttpRequest) -> HttpResponseBase:
        """Return the form, or its confirmation with a sample; once confirmed, request it."""
        kinds = kinds_for(request.user)
        if not kinds:
            raise PermissionDenied
        using = router.db_for_write(OutboxEvent)
        if request.method != "POST":
            form = OperationForm(kinds=kinds, using=using, initial=_initial(request, kinds))
            return self._form(request, form, request.GET.getlist("lost"))
        form = OperationForm(request.POST, kinds=kinds, using=using)
        if not form.is_valid() or "change" in request.POST:
            return self._form(request, form)
        if "confirm" in request.POST:
            return self._request(request, form, using)
        return self._confirmation(request, form, using)

    def _form(
        self, request: HttpRequest, form: OperationForm, lost: list[str] | None = None
    ) -> TemplateResponse:
        more = {"form": form, "lost": lost or []}
        return self._page(request, "form", _("New operation"), more, above=(self._list(),))

    def _confirmation(
        self, request: HttpRequest, form: OperationForm, using: str
    ) -> TemplateResponse:
        kind, selection = form.cleaned_data["kind"], form.selection
        events = OutboxEvent.objects.using(using)
        span = span_of(events, selection)
        estimate = estimate_of(events, kind, selection, span)
        ids = first_of(events, kind, selection, span, SAMPLE)
        columns = ("id", "event_type", "partition_key", "publisher_backend", "status", "last_error")
        more = {
            "form": form,
            "hidden": [field.as_hidden() for field in form if field.name != "forget_inbox"],
            "handlers": form.handlers,
            "meaning": MEANINGS[kind],
            "kind": OperationKind(kind),
            "selection": selection,
            "is_empty": not estimate.events and estimate.is_exact,
            "counted": counted(estimate.events, is_exact=estimate.is_exact),
            "is_exact": estimate.is_exact,
            "sample": events.filter(pk__in=ids).only(*columns).order_by("id"),
            "has_more": estimate.events > len(ids),
            "is_served": is_served(OutboxRelay.objects.using(using)),
        }
        title = _("%(kind)s %(events)s?") % {
            "kind": OperationKind(kind).label.capitalize(),
            "events": more["counted"],
        }
        return self._page(request, "confirm", title, more, above=(self._list(),))

    def _request(self, request: HttpRequest, form: OperationForm, using: str) -> HttpResponseBase:
        user: Any = request.user  # not anonymous: the admin requires a login
        with transaction.atomic(using=using):
            operation = request_operation(
                OutboxEvent.objects.using(using),
                form.cleaned_data["kind"],
                form.selection,
                by=user.get_username(),
                user_pk=str(user.pk),
                forget_inbox=form.cleaned_data["forget_inbox"],
            )
            log_request(user, operation)
        return HttpResponseRedirect(self._url("change", operation.pk))

    # An existing operation

    def detail(self, request: HttpRequest, pk: str) -> TemplateResponse:
        """Return the page of an operation, which refreshes itself."""
        operation = self._found(request, pk)
        more = {
            "operation": operation,
            "original": operation,
            "meaning": MEANINGS.get(operation.kind, ""),
            "progress": self._progress(operation),
            "may_stop": operation.kind in kinds_for(request.user),
            "events": _events_url(operation, self._site.name),
            "log": _log(operation),
        }
        title = str(operation).capitalize()
        return self._page(request, "operation", title, more, above=(self._list(),))

    def progress(self, request: HttpRequest, pk: str) -> JsonResponse:
        """Return the progress of an operation as JSON for its page."""
        return JsonResponse(self._progress(self._found(request, pk)))

    def stop(self, request: HttpRequest, pk: str) -> HttpResponseBase:
        """Stop an operation, if the request is a POST."""
        operation = self._found(request, pk)
        if operation.kind not in kinds_for(request.user):
            raise PermissionDenied
        if request.method == "POST":
            user: Any = request.user  # not anonymous: the admin requires a login
            using = operation._state.db
            with transaction.atomic(using=using):
                stopped = OutboxOperation.objects.using(using).stop(
                    operation.pk, by=user.get_username()
                )
                operation.refresh_from_db()
                if stopped:
                    log_stop(user, operation)
            if stopped:
                messages.success(request, _("Operation stopped; the changes made so far remain."))
            else:
                messages.warning(request, _("The operation had already ended."))
        return HttpResponseRedirect(self._url("change", operation.pk))

    def _found(self, request: HttpRequest, pk: str) -> OutboxOperation:
        if not may_view(request.user):
            raise PermissionDenied
        operations = OutboxOperation.objects.using(router.db_for_write(OutboxOperation))
        found = operations.filter(pk=pk).first() if pk.isdecimal() and len(pk) < 19 else None
        if found is None:
            raise Http404(f"operation {pk!r} does not exist; it may have been purged")
        return found

    def _progress(self, operation: OutboxOperation) -> dict[str, Any]:
        state = OperationState(operation.state)
        return {
            "is_active": operation.is_active,
            "value": round(operation.progress, 4),
            "percent": f"{int(operation.progress * 100)} %",
            "state": state.value,
            "state_text": str(state.label),
            "summary": _summary(operation),
            **_outcome(operation),
            "note": _note(operation),
            "started": moment(operation.started_at),
            "finished": moment(operation.finished_at),
        }


def _initial(request: HttpRequest, kinds: list[str]) -> dict[str, Any]:
    """Return initial values of the form's fields from the query string."""
    initial: dict[str, Any] = {name: value for name, value in request.GET.items() if value}
    for name in ("since", "until"):
        initial[name] = _moment_of(initial.get(name, ""))
    return {"kind": kinds[0], **initial}


def _moment_of(text: str) -> datetime | None:
    """Return a moment in the form's time zone; None if the text is not valid."""
    try:
        found = parse_datetime(text)
        if found is not None and timezone.is_naive(found):
            found = timezone.make_aware(found)
        return found and timezone.localtime(found)
    except (ValueError, OverflowError):
        return None


def _summary(operation: OutboxOperation) -> str:
    total = counted(operation.total, is_exact=operation.total_is_exact)
    parts = [_("%(done)s of %(total)s") % {"done": f"{operation.done:,}", "total": total}]
    if operation.left_alone:
        parts.append(
            ngettext(
                "%(count)s skipped, because its status had changed",
                "%(count)s skipped, because their status had changed",
                operation.left_alone,
            )
            % {"count": f"{operation.left_alone:,}"}
        )
    return "; ".join(parts)


def _outcome(operation: OutboxOperation) -> dict[str, Any]:
    """Return what came of events that were queued for delivery, and whether some still wait."""
    if operation.kind not in (OperationKind.RETRY, OperationKind.REPLAY) or not operation.done:
        return {"outcome": "", "is_delivering": False}
    events = OutboxEvent.objects.using(operation._state.db or "default")
    found = result_of(events, operation)
    parts = [
        _("%(queued)s queued for delivery: %(delivered)s delivered, %(dead)s dead")
        % {
            "queued": f"{operation.done:,}",
            "delivered": f"{found.delivered:,}",
            "dead": f"{found.failed:,}",
        }
    ]
    if found.waiting:
        parts.append(_("%(count)s waiting") % {"count": f"{found.waiting:,}"})
    if operation.skipped:
        parts.append(
            _("%(count)s skipped by the inbox, because all their handlers already processed them")
            % {"count": f"{operation.skipped:,}"}
        )
    if not found.is_complete:
        parts.append(_("only a part of the events was counted"))
    return {"outcome": ", ".join(parts) + ".", "is_delivering": bool(found.waiting)}


def _events_url(operation: OutboxOperation, site: str) -> str:
    """Return the address of the list of the events that an operation changed; else empty."""
    if operation.kind == OperationKind.PURGE:
        return ""
    try:
        events = reverse(f"admin:{APP}_outboxevent_changelist", current_app=site)
    except NoReverseMatch:  # the site does not register them
        return ""
    # The range of ids spares the database a look at the whole table.
    return f"{events}?operation={operation.pk}&id__gt={operation.start}&id__lte={operation.last}"


def _note(operation: OutboxOperation) -> str:
    """Return why an active operation waits; empty if it does not."""
    if not operation.is_active:
        return ""
    using = operation._state.db or "default"
    if not is_served(OutboxRelay.objects.using(using)):
        return _("No relay is running. The operation continues once one runs.")
    if operation.failures:
        return _("The last step failed %(times)d times; retrying: %(error)s") % {
            "times": operation.failures,
            "error": operation.error,
        }
    ahead = OutboxOperation.objects.using(using).active().filter(pk__lt=operation.pk).count()
    if not ahead:
        return ""
    text = ngettext(
        "Waiting for %(ahead)d earlier operation.",
        "Waiting for %(ahead)d earlier operations.",
        ahead,
    )
    return text % {"ahead": ahead}


def _log(operation: OutboxOperation) -> Any:
    kind = ContentType.objects.get_for_model(operation)
    entries = LogEntry.objects.filter(content_type=kind, object_id=str(operation.pk))
    return entries.select_related("user").order_by("-pk")[:LOG_ENTRIES]
