"""The dashboard's pages, their JSON, and the forms to pause and resume a backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.http.response import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from django_broadcaster.backends.handler import backends
from django_broadcaster.catalogue.document import asyncapi_document, load_events
from django_broadcaster.catalogue.errors import CatalogueError
from django_broadcaster.catalogue.listing import listed_events
from django_broadcaster.catalogue.schemas import schema_text
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.models import OutboxBackendState, OutboxDashboard, OutboxEvent
from django_broadcaster.redaction import error_text
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import pause, resume, with_leftovers

from .history import STEPS, history
from .operations_views import kinds_for
from .pages import AdminPages
from .state import STATUSES, state
from .stuck import KEYS, NEWEST, stuck

VIEW = "django_broadcaster.view_outboxevent"
PAUSE = "django_broadcaster.pause_backend"
NAME = "django_broadcaster_outboxdashboard_{}"
LOG_ENTRIES = 10
LONGEST_REASON = 150

View = Callable[..., HttpResponseBase]


class DashboardViews(AdminPages):
    """The views for one admin site. All of them require the permission to view outbox events."""

    model = OutboxDashboard
    folder = "dashboard"

    def urls(self) -> list[URLPattern]:
        """Return their URLs."""
        views: list[tuple[str, str, View]] = [
            ("", "changelist", require_GET(self.overview)),
            ("catalogue/", "catalogue", require_GET(self.catalogue)),
            ("state/", "state", require_GET(self.state)),
            ("history/", "history", require_GET(self.history)),
            ("<path:alias>/change/", "change", require_GET(self.backend)),
            ("<path:alias>/stuck/", "stuck", require_GET(self.stuck)),
            ("<path:alias>/pause/", "pause", require_http_methods(["GET", "POST"])(self.pause)),
            ("<path:alias>/resume/", "resume", require_http_methods(["GET", "POST"])(self.resume)),
        ]
        return [
            path(route, self._guarded(view), name=NAME.format(name)) for route, name, view in views
        ]

    def _guarded(self, view: View) -> View:
        """Return a view that checks the user's permission and that the alias is known."""

        def guarded(request: HttpRequest, alias: str | None = None) -> HttpResponseBase:
            if not request.user.has_perm(VIEW):
                raise PermissionDenied
            if alias is None:
                return view(request)
            known = unquote(alias)
            _require(known)
            return view(request, known)

        return self._site.admin_view(never_cache(guarded))

    # Pages

    def overview(self, request: HttpRequest) -> TemplateResponse:
        """Return the page of all backends."""
        return self._live(request, _("Dashboard"), {"alias": "", "consumers": consumers.aliases()})

    def backend(self, request: HttpRequest, alias: str) -> TemplateResponse:
        """Return the page of one backend."""
        more = {
            "alias": alias,
            "log": _log(alias),
            "kinds": kinds_for(request.user),
            "KEYS": KEYS,
            "NEWEST": NEWEST,
        }
        title = _("Backend %(backend)s") % {"backend": alias}
        return self._live(request, title, more, above=(self._list(),), crumb=alias)

    def catalogue(self, request: HttpRequest) -> TemplateResponse:
        """Return the page of all declared events."""
        more: dict[str, Any] = {"events": [], "error": ""}
        try:
            load_events()
            listed = listed_events(asyncapi_document("", ""))
            more["events"] = [(each, schema_text(each.type)) for each in listed]
        except (BackendConfigurationError, CatalogueError, ImportError, TypeError) as error:
            more["error"] = error_text(error)
        return self._page(request, "catalogue", _("Event catalogue"), more, above=(self._list(),))

    def pause(self, request: HttpRequest, alias: str) -> HttpResponseBase:
        """Ask for confirmation, then pause the backend."""
        reason = request.POST.get("reason", "").replace("\0", "").strip()[:LONGEST_REASON]

        def do(states: Any) -> tuple[bool, str]:
            user = request.user.get_username()
            by = f"{user}: {reason}" if reason else user
            return pause(states, alias, by), f"Paused: {reason}" if reason else "Paused."

        return self._switch(request, alias, "pause", do)

    def resume(self, request: HttpRequest, alias: str) -> HttpResponseBase:
        """Ask for confirmation, then resume the backend."""
        return self._switch(
            request, alias, "resume", lambda states: (resume(states, alias), "Resumed.")
        )

    def _switch(
        self,
        request: HttpRequest,
        alias: str,
        action: str,
        do: Callable[[Any], tuple[bool, str]],
    ) -> HttpResponseBase:
        if not request.user.has_perm(PAUSE):
            raise PermissionDenied
        if request.method != "POST":
            titles = {"pause": _("Pause %(backend)s"), "resume": _("Resume %(backend)s")}
            more = {"alias": alias, "action": action, "LONGEST_REASON": LONGEST_REASON}
            above = (self._list(), (alias, self._url("change", quote(alias))))
            title = titles[action] % {"backend": alias}
            return self._page(request, "switch", title, more, above=above)
        using = router.db_for_write(OutboxBackendState)
        with transaction.atomic(using=using):
            changed, logged = do(OutboxBackendState.objects.using(using))
            if changed:
                user: Any = request.user  # not anonymous: the admin requires a login
                LogEntry.objects.log_actions(
                    user.pk, [OutboxDashboard(backend=alias)], CHANGE, change_message=logged
                )
        said = {
            ("pause", True): _("Backend %(backend)s paused. Relays stop within a second."),
            ("pause", False): _("Backend %(backend)s is already paused."),
            ("resume", True): _("Backend %(backend)s resumed. Relays continue within a second."),
            ("resume", False): _("Backend %(backend)s is not paused."),
        }[action, changed]
        level = messages.SUCCESS if changed else messages.WARNING
        messages.add_message(request, level, said % {"backend": alias})
        return HttpResponseRedirect(self._url("change", quote(alias)))

    def _live(
        self, request: HttpRequest, title: str, more: dict[str, Any], **crumbs: Any
    ) -> TemplateResponse:
        """Return a page of live figures."""
        shared = {
            "aliases": _aliases(),
            "may_pause": request.user.has_perm(PAUSE),
            "ranges": STEPS,
            "statuses": [(status, OutboxEventStatus(status).label) for status in STATUSES],
        }
        return self._page(request, "live", title, {**shared, **more}, **crumbs)

    # JSON

    def state(self, request: HttpRequest) -> HttpResponseBase:
        """Return the state of all backends and consumers, or of `?backend=`."""
        receiving = () if request.GET.get("backend") else consumers.aliases()
        using = router.db_for_read(OutboxEvent)
        return _answer(request, state(using, _wanted(request), receiving))

    def history(self, request: HttpRequest) -> HttpResponseBase:
        """Return the series of all backends, or of `?backend=`, over `?hours=`."""
        hours = request.GET.get("hours", "1")
        known = [str(each) for each in STEPS]
        if hours not in known:
            return HttpResponse(f"hours: must be one of {', '.join(known)}", status=400)
        found = history(router.db_for_read(OutboxEvent), _wanted(request), int(hours))
        return _answer(request, found)

    def stuck(self, request: HttpRequest, alias: str) -> HttpResponseBase:
        """Return the blocked keys and the dead letters of a backend."""
        return _answer(request, stuck(router.db_for_read(OutboxEvent), alias))


def _wanted(request: HttpRequest) -> tuple[str, ...]:
    """Return the aliases of a request; raise Http404 for an unknown one."""
    alias = request.GET.get("backend")
    if not alias:
        return _aliases()
    _require(alias)
    return (alias,)


def _aliases() -> tuple[str, ...]:
    """Return the configured backends, then others that have events in the outbox."""
    return tuple(with_leftovers(router.db_for_read(OutboxEvent), backends.aliases()))


def _require(alias: str) -> None:
    """Raise Http404 if an alias is neither configured nor in the outbox."""
    if alias not in backends.aliases() and alias not in _aliases():
        raise Http404(f"OUTBOX_PUBLISHERS has no backend {alias!r}")


def _answer(request: HttpRequest, value: Any) -> HttpResponseBase:
    """Return JSON and the server's time; without a body if the page has this version."""
    body = json.dumps(value, default=str)
    etag = f'"{blake2b(body.encode(), digest_size=12).hexdigest()}"'
    whole = HttpResponse(body, content_type="application/json", headers={"ETag": etag})
    response: HttpResponseBase = get_conditional_response(request, etag, response=whole) or whole
    response.headers["X-Broadcaster-Now"] = str(timezone.now().timestamp())
    return response


def _log(alias: str) -> Any:
    """Return the latest log entries about a backend."""
    kind = ContentType.objects.get_for_model(OutboxDashboard, for_concrete_model=False)
    entries = LogEntry.objects.filter(content_type=kind, object_id=alias)
    return entries.select_related("user").order_by("-pk")[:LOG_ENTRIES]
