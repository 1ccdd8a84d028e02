"""Checks of OUTBOX_ROUTES."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from django.core.checks import CheckMessage

from ..conf import conf
from .shared import Messages, entries, error, kind, nearest

_ROUTES_HINT = "Write OUTBOX_ROUTES = {'order.*': 'default'}, or a list of aliases for several."


def check_routes(**_: Any) -> Messages:
    """Each pattern is a string, and leads to one or several configured backends."""
    routes: Any = conf.ROUTES
    if routes is None:
        return []
    if not isinstance(routes, Mapping):
        return [error("E011", f"OUTBOX_ROUTES must be a dict, not {kind(routes)}.", _ROUTES_HINT)]
    return [
        problem
        for pattern, target in routes.items()
        for problem in (*_pattern_problems(pattern), *_target_problems(pattern, target))
    ]


def _pattern_problems(pattern: object) -> Iterator[CheckMessage]:
    if not isinstance(pattern, str) or not pattern:
        message = f"OUTBOX_ROUTES has {shortened(pattern)} where an event type or pattern must be."
        yield error("E011", message, _ROUTES_HINT)


def _target_problems(pattern: object, target: object) -> Iterator[CheckMessage]:
    where = f"OUTBOX_ROUTES[{shortened(pattern)}]"
    aliases = [target] if isinstance(target, str) else target
    if not isinstance(aliases, list | tuple) or not aliases or not all(map(_is_name, aliases)):
        message = f"{where} is {shortened(target)}; it must be an alias, or a list of at least one."
        yield error("E012", message, _ROUTES_HINT)
        return
    yield from _unknown_aliases(where, aliases)
    if len(set(aliases)) < len(aliases):
        once = list(dict.fromkeys(aliases))
        yield error("E014", f"{where} names an alias twice.", f"Write {where} = {once!r}.")


def _is_name(alias: object) -> bool:
    return isinstance(alias, str) and alias != ""


def _unknown_aliases(where: str, aliases: list[str] | tuple[str, ...]) -> Iterator[CheckMessage]:
    known = list(entries())
    for alias in dict.fromkeys(aliases):
        if known and alias not in known:  # without any, OUTBOX_PUBLISHERS is what is wrong
            near = nearest(alias, known)
            instead = repr(near) if near else f"one of {', '.join(map(repr, known))}"
            message = f"{where} leads to {alias!r}, which OUTBOX_PUBLISHERS does not have."
            yield error("E013", message, f"In {where}, write {instead} instead of {alias!r}.")
