"""Where an event goes: the backend of the call, else a route, else the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import UnknownBackend


def named(backend: str) -> list[str]:
    """Return the one alias that a call names; raises UnknownBackend."""
    return _checked([backend], backends.aliases())


def routed(event_type: str, default: Callable[[], str | None]) -> list[str]:
    """Return the aliases that events of a type go to by OUTBOX_ROUTES, else the default.

    Raises UnknownBackend, also where there is no default.
    """
    routes, known = conf.ROUTES, backends.aliases()
    target = (_matched(event_type, routes) if routes else None) or default()
    if not target:
        raise UnknownBackend(None, known)
    return _checked([target] if isinstance(target, str) else target, known)


def _matched(event_type: str, routes: Mapping[str, Any]) -> Any:
    """Return the target of the first pattern that matches."""
    for pattern, target in routes.items():
        if fnmatchcase(event_type, pattern):
            return target
    return None


def _checked(aliases: Sequence[Any], known: tuple[str, ...]) -> list[str]:
    for alias in aliases:
        if alias not in known:
            raise UnknownBackend(alias, known)
    return [str.__str__(alias) for alias in aliases]  # plain text, for members of an Enum
