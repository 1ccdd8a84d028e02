"""The backends of an event: the one of the call, else those of a route, else the default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.events import resolved
from django_broadcaster.exceptions import UnknownBackend


def named(alias: str) -> list[str]:
    """Return the alias that a call names; raises UnknownBackend."""
    return _known([resolved(alias)])


def routed(event_type: str, default: Callable[[], str | None]) -> list[str]:
    """Return the aliases of an event type by OUTBOX_ROUTES, else the default.

    Raises UnknownBackend, also if there is no default.
    """
    routes = conf.ROUTES
    target = (_target(event_type, routes) if routes else None) or default()
    return _known([target] if isinstance(target, str) else target or [None])


def _target(event_type: str, routes: Mapping[str, Any]) -> Any:
    """Return the target of the first pattern that matches."""
    for pattern, target in routes.items():
        if fnmatchcase(event_type, pattern):
            return target
    return None


def _known(aliases: Iterable[Any]) -> list[str]:
    """Return aliases as plain strings, also for members of an Enum; raises UnknownBackend."""
    known = backends.aliases()
    for alias in aliases:
        if not isinstance(alias, str) or alias not in known:
            raise UnknownBackend(alias, known)
    return [str.__str__(alias) for alias in aliases]
