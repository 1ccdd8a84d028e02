"""The links of an event's page: its copies, its key, the event that blocks it, and its endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.db import models
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import (
    OutboxDashboard,
    OutboxEvent,
    OutboxTaskRun,
    OutboxWebhookEndpoint,
)
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import identity_of

from .display import moment

NEAR = 50
"""Ids before and after an event among which its copies are looked for.

A publish call writes them in one statement. No index has the id of an event.
"""

_ENDPOINT = re.compile(r"\(endpoint ([0-9a-f]{8})\)")

Link = Callable[..., SafeString]


def related(event: OutboxEvent, site: AdminSite) -> SafeString:
    """Return the links; those to models that the site lacks are plain text."""

    def link(model: type[models.Model], text: str, pk: object = None, **query: str) -> SafeString:
        if not site.is_registered(model):
            return format_html("{}", text)
        name = f"admin:django_broadcaster_{model._meta.model_name}"
        name, arguments = (f"{name}_changelist", []) if pk is None else (f"{name}_change", [pk])
        url = reverse(name, args=arguments, current_app=site.name)
        return format_html(
            '<a href="{}">{}</a>', f"{url}?{urlencode(query)}" if query else url, text
        )

    parts = (_backend, _copies, _key, _blocker, _endpoint, _task_run)
    rows = [row for part in parts for row in part(event, link)]
    lines = format_html_join("", "<li>{} {}</li>", rows)
    return format_html('<ul class="broadcaster-links">{}</ul>', lines)


def _backend(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    alias = event.publisher_backend
    yield _("Backend:"), link(OutboxDashboard, alias, quote(alias))


def _copies(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    found = [
        link(OutboxEvent, f"{copy.publisher_backend} ({copy.get_status_display()})", copy.pk)
        for copy in copies_of(event)
    ]
    if found:
        yield _("Also sent to:"), format_html_join(", ", "{}", ((each,) for each in found))


def copies_of(event: OutboxEvent) -> list[OutboxEvent]:
    """Return the same event for other backends, as far as an index finds it."""
    rows = OutboxEvent.objects.using(event._state.db).only("id", "publisher_backend", "status")
    same = rows.filter(event_id=event.event_id, source=event.source).exclude(pk=event.pk)
    found = {row.pk: row for row in same.filter(pk__range=(event.pk - NEAR, event.pk + NEAR))}
    if event.identity is not None:  # the caller passed the id, perhaps in several calls
        identities = [
            identity_of(event.source, event.event_id, alias)
            for alias in backends.aliases()
            if alias != event.publisher_backend
        ]
        found |= {row.pk: row for row in rows.filter(identity__in=identities)}
    return sorted(found.values(), key=lambda row: (row.publisher_backend, row.pk))


def _key(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    key = event.partition_key
    if key:
        query = {"backend": event.publisher_backend, "partition_key": key}
        yield _("Events of the key:"), link(OutboxEvent, key, **query)


def _blocker(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    if event.status != OutboxEventStatus.BLOCKED:
        return
    key, alias = event.partition_key, event.publisher_backend
    # Ranges, in the order of their index: PostgreSQL might read the primary key otherwise.
    head = (
        OutboxEvent.objects.using(event._state.db)
        .filter(publisher_backend=alias, partition_key__gte=key, partition_key__lte=key)
        .filter(status=OutboxEventStatus.RETRY)
        .order_by("publisher_backend", "partition_key", "id")
        .only("id", "scheduled_at")
        .first()
    )
    if head is not None:
        text = _("event %(id)d, next attempt at %(at)s")
        text %= {"id": head.pk, "at": moment(head.scheduled_at)}
        yield _("Waits for:"), link(OutboxEvent, text, head.pk)


def _endpoint(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    named = _ENDPOINT.search(event.last_error)
    if named is None:
        return
    endpoints = OutboxWebhookEndpoint.objects.filter(backend=event.publisher_backend)
    endpoint = endpoints.filter(identity__startswith=named[1]).first()
    if endpoint is None:
        yield _("Endpoint:"), _("%(name)s, not failing now") % {"name": named[1]}
        return
    state = _("disabled") if endpoint.disabled_at else _("failing")
    yield _("Endpoint:"), link(OutboxWebhookEndpoint, f"{named[1]} ({state})", endpoint.pk)


def _task_run(event: OutboxEvent, link: Link) -> Iterator[tuple[str, Any]]:
    if event.publisher_backend not in backends.of_tasks():
        return
    runs = OutboxTaskRun.objects.using(event._state.db).only("id", "last_attempted_at")
    run = runs.filter(task_id=event.event_id).first()
    if run is not None:
        text = _("last attempt at %(at)s") % {"at": moment(run.last_attempted_at)}
        yield _("Task run:"), link(OutboxTaskRun, text, run.pk)
