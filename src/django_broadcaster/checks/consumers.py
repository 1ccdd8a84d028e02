"""Checks of OUTBOX_CONSUMERS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.core.checks import CheckMessage
from django.urls import get_resolver

from .. import consumers as consumers_package
from ..check_messages import TAG, Messages, error, kind, nearest, warning
from ..conf import conf
from ..consumers.base import Consumer
from ..consumers.handler import ENTRY_KEYS, consumers
from ..exceptions import BackendConfigurationError
from ..registry import Handler, event_registry
from ..setting_rules import seconds
from .classes import Kind, client_problem, creation_problem, entry_problems, shape_problem

_EXAMPLE = (
    "Set OUTBOX_CONSUMERS = {'orders': {'CONSUMER': "
    "'django_broadcaster.consumers.RedisStreamConsumer', "
    "'OPTIONS': {'stream_name': 'orders', 'group': 'billing'}}}."
)
CONSUMER = Kind(
    setting="OUTBOX_CONSUMERS",
    key="CONSUMER",
    package=consumers_package,
    base=Consumer,
    takes_options=Consumer,
    usual="RedisStreamConsumer",
    usual_alias="orders",
    example=_EXAMPLE,
    entry_keys=ENTRY_KEYS,
    wrong_alias="E047",
    wrong_entry="E048",
    unknown_key="E049",
    wrong_class="E050",
    wrong_options="E051",
    no_client="W009",
    who_needs_no_client="A process without receivers does not need it",
)


def check_consumers(**_: Any) -> Messages:
    """Check the shape of OUTBOX_CONSUMERS, its aliases and entries."""
    configured: Any = conf.CONSUMERS
    if not isinstance(configured, Mapping):
        message = f"OUTBOX_CONSUMERS must be a dict, not {kind(configured)}."
        return [error("E046", message, _EXAMPLE)]
    return [
        problem
        for alias, entry in configured.items()
        for problem in entry_problems(CONSUMER, alias, entry)
    ]


def check_consumer_classes(**_: Any) -> Messages:
    """Check that each consumer can be created, and has a backend; open no connection."""
    return [
        problem
        for alias, entry in _entries().items()
        for problem in (_class_problem(alias, entry), _backend_problem(alias))
        if problem is not None
    ]


def _class_problem(alias: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    where = f"OUTBOX_CONSUMERS[{alias!r}]"
    if (problem := shape_problem(CONSUMER, where, entry)) is not None:
        return problem
    try:
        consumers.create(alias)
    except Exception as reason:  # a custom class may raise any exception
        return creation_problem(CONSUMER, where, entry, reason)
    return None


def _backend_problem(alias: str) -> CheckMessage | None:
    try:
        consumers.delivers_to(alias)
    except BackendConfigurationError as reason:
        fix = (
            "Add {'handlers': {'BACKEND': 'django_broadcaster.backends.LocalBackend'}} to "
            f"OUTBOX_PUBLISHERS, and set OUTBOX_CONSUMERS[{alias!r}]['DELIVER_TO'] = 'handlers'."
        )
        return error("E052", f"{reason}.", fix)
    return None


def check_consumer_libraries(**_: Any) -> Messages:
    """Check that the client library of each consumer is installed, without importing it."""
    problems = (
        client_problem(CONSUMER, f"OUTBOX_CONSUMERS[{alias!r}]", entry)
        for alias, entry in _entries().items()
    )
    return [problem for problem in problems if problem is not None]


def check_inbox_retention(**_: Any) -> Messages:
    """Warn if the inbox forgets an event before its broker can deliver it for the last time."""
    retention: Any = conf.INBOX_RETENTION
    try:
        kept = None if retention is None else seconds(retention)
    except TypeError:  # another check reports it
        kept = None
    if kept is None:
        return []
    return [
        _forgets(alias, window, kept)
        for alias in _entries()
        if (window := _redelivery_seconds(alias)) is not None and window > kept
    ]


def check_handlers_of_consumers(**_: Any) -> Messages:
    """Warn of handlers that never run, because no consumer has the name that they give."""
    known = list(_entries())
    unknown = [
        (each, name) for each in event_registry for name in each.consumers if name not in known
    ]
    if unknown:
        known += sorted(_consumers_of_views())
    return [_unknown_consumer(each, name, known) for each, name in unknown if name not in known]


def _consumers_of_views() -> set[str]:
    """Return the names of the `CloudEventView`s in the URLconf, whose errors Django reports."""
    from ..consumers.http import view_consumers  # imports models

    with suppress(Exception):
        _ = get_resolver().url_patterns
    return view_consumers


def _unknown_consumer(handler: Handler, name: str, known: Sequence[str]) -> CheckMessage:
    message = (
        f"Handler {handler.name!r} is registered for consumer {name!r}, which is neither in "
        "OUTBOX_CONSUMERS nor a CloudEventView of the URLconf. It never runs."
    )
    near = nearest(name, known)
    fix = f"Register it with consumer={near!r}." if near else "Add the consumer."
    return warning("W011", message, f"{fix} Or set SILENCED_SYSTEM_CHECKS = ['{TAG}.W011'].")


def _forgets(alias: str, window: float, kept: float) -> CheckMessage:
    message = (
        f"OUTBOX_INBOX_RETENTION is {timedelta(seconds=kept)}, but the broker of "
        f"OUTBOX_CONSUMERS[{alias!r}] may deliver a message again for "
        f"{timedelta(seconds=window)}. A handler may run twice."
    )
    days = -(-window // 86_400)
    fix = f"Set OUTBOX_INBOX_RETENTION = timedelta(days={days:g}) or more."
    return warning("W010", message, f"{fix} Or set SILENCED_SYSTEM_CHECKS = ['{TAG}.W010'].")


def _redelivery_seconds(alias: str) -> float | None:
    try:
        return consumers.create(alias).redelivery_seconds
    except Exception:  # `check_consumer_classes` reports it
        return None


def _entries() -> dict[str, Mapping[str, Any]]:
    """Return the entries of OUTBOX_CONSUMERS that have the right shape."""
    configured: Any = conf.CONSUMERS
    items = configured.items() if isinstance(configured, Mapping) else ()
    return {a: entry for a, entry in items if isinstance(a, str) and isinstance(entry, Mapping)}
