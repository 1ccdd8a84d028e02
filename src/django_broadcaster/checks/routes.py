"""Checks of OUTBOX_ROUTES."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from django.core.checks import CheckMessage

from ..check_messages import Messages, entries, error, kind, nearest
from ..conf import conf

_ROUTES_HINT = "Set OUTBOX_ROUTES = {'order.*': 'default'}, or a list of aliases for several."


def check_routes(**_: Any) -> Messages:
    """Check that each pattern is a string that leads to configured backends."""
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
        message = (
            "A key of OUTBOX_ROUTES must be an event type or a pattern, a string that is not "
            f"empty, not {shortened(pattern)}."
        )
        yield error("E011", message, _ROUTES_HINT)


def _target_problems(pattern: object, target: object) -> Iterator[CheckMessage]:
    where = f"OUTBOX_ROUTES[{shortened(pattern)}]"
    aliases = [target] if isinstance(target, str) else target
    if not isinstance(aliases, list | tuple) or not aliases or not all(map(_is_name, aliases)):
        message = (
            f"{where} must be an alias or a list of at least one alias, not {shortened(target)}."
        )
        yield error("E012", message, _ROUTES_HINT)
        return
    yield from _unknown_aliases(where, aliases)
    if len(set(aliases)) < len(aliases):
        once = list(dict.fromkeys(aliases))
        yield error("E014", f"{where} has an alias twice.", f"Set {where} = {once!r}.")


def _is_name(alias: object) -> bool:
    return isinstance(alias, str) and alias != ""


def _unknown_aliases(where: str, aliases: list[str] | tuple[str, ...]) -> Iterator[CheckMessage]:
    known = list(entries())
    for alias in dict.fromkeys(aliases):
        if known and alias not in known:  # another check reports that there are none
            near = nearest(alias, known)
            instead = repr(near) if near else f"one of {', '.join(map(repr, known))}"
            message = f"{where} has the alias {alias!r}, which is not in OUTBOX_PUBLISHERS."
            yield error("E013", message, f"In {where}, use {instead} instead of {alias!r}.")
