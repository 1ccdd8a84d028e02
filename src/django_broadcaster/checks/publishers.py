"""Checks of OUTBOX_PUBLISHERS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from django.core.checks import CheckMessage
from django.db import connections, router

from .. import backends as backends_package
from ..backends.base import MessageBackend, PublisherBackend
from ..backends.handler import ENTRY_KEYS, ON_EXHAUSTED, backends
from ..backends.in_database import InDatabaseBackend
from ..backends.redis import RedisStreamBackend
from ..check_messages import TAG, Messages, entries, error, kind, warning
from ..conf import conf
from ..exceptions import BackendConfigurationError
from ..models import OutboxEvent
from .classes import Kind, client_problem, creation_problem, entry_problems, shape_problem

_PUBLISHERS_HINT = (
    "Set OUTBOX_PUBLISHERS = {'default': {'BACKEND': 'django_broadcaster.backends.LocalBackend'}}."
)
BACKEND = Kind(
    setting="OUTBOX_PUBLISHERS",
    key="BACKEND",
    package=backends_package,
    base=PublisherBackend,
    takes_options=MessageBackend,
    usual="LocalBackend",
    usual_alias="default",
    example=_PUBLISHERS_HINT,
    entry_keys=ENTRY_KEYS,
    wrong_alias="E002",
    wrong_entry="E003",
    unknown_key="E004",
    wrong_class="E005",
    wrong_options="E006",
    no_client="W003",
    who_needs_no_client="A process that only publishes does not need it",
)


def check_publishers(**_: Any) -> Messages:
    """Check that there is at least one backend, and the shape of aliases and entries."""
    publishers: Any = conf.PUBLISHERS
    if not isinstance(publishers, Mapping) or not publishers:
        found = "an empty one" if isinstance(publishers, Mapping) else kind(publishers)
        message = f"OUTBOX_PUBLISHERS must be a dict with at least one backend, not {found}."
        return [error("E001", message, _PUBLISHERS_HINT)]
    return [
        problem
        for alias, entry in publishers.items()
        for problem in (
            *entry_problems(BACKEND, alias, entry),
            *_exhausted_problems(alias, entry),
        )
    ]


def _exhausted_problems(alias: object, entry: object) -> Iterator[CheckMessage]:
    if not isinstance(entry, Mapping):
        return
    where = f"OUTBOX_PUBLISHERS[{shortened(alias)}]"
    if entry.get("ON_EXHAUSTED", "skip") not in ON_EXHAUSTED:
        yield error(
            "E008",
            f"{where}['ON_EXHAUSTED'] must be 'skip' or 'block', "
            f"not {shortened(entry['ON_EXHAUSTED'])}.",
            f"Set {where}['ON_EXHAUSTED'] = 'skip' to continue a key without an event that has no "
            "retries left, or 'block' to hold the later events of that key.",
        )


def check_backends(**_: Any) -> Messages:
    """Check that each backend can be created; open no connection."""
    problems = (_backend_problem(alias, entry) for alias, entry in entries().items())
    return [problem for problem in problems if problem is not None]


def _backend_problem(alias: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    where = f"OUTBOX_PUBLISHERS[{alias!r}]"
    if (problem := shape_problem(BACKEND, where, entry)) is not None:
        return problem
    try:
        backends.create(alias)
    except Exception as reason:  # a custom class may raise any exception
        return creation_problem(BACKEND, where, entry, reason)
    return None


def check_client_libraries(**_: Any) -> Messages:
    """Check that the client library of each backend is installed, without importing it."""
    problems = (
        client_problem(BACKEND, f"OUTBOX_PUBLISHERS[{alias!r}]", entry)
        for alias, entry in entries().items()
    )
    return [problem for problem in problems if problem is not None]


def check_trimming(**_: Any) -> Messages:
    """Warn about backends that trim their stream: Redis also drops entries not yet read."""
    return [
        _trimmed(alias, backend.max_len)
        for alias in entries()
        if isinstance(backend := _made(alias), RedisStreamBackend) and backend.max_len is not None
    ]


def check_databases_of_backends(**_: Any) -> Messages:
    """Check that backends which take events in the database can do so in one that has an outbox."""
    places = [alias for alias in connections if router.allow_migrate_model(alias, OutboxEvent)]
    return [
        error("E053", f"{reasons[0]}.", "Use KafkaBackend, or keep the outbox in PostgreSQL.")
        for backend in _in_database().values()
        if (reasons := [_database_problem(backend, place) for place in places]) and all(reasons)
    ]


def _database_problem(backend: InDatabaseBackend, place: str) -> str:
    try:
        backend.check_database(connections[place])
    except BackendConfigurationError as reason:
        return str(reason)
    return ""


def check_slots(**_: Any) -> Messages:
    """Check that no two backends share a replication slot: each event would be sent for both."""
    first: dict[str, str] = {}
    return [
        error(
            "E054",
            f"OUTBOX_PUBLISHERS[{alias!r}] and OUTBOX_PUBLISHERS[{other!r}] have the same "
            f"replication slot, {backend.slot!r}.",
            f"Set OUTBOX_PUBLISHERS[{alias!r}]['OPTIONS']['slot'] to another name.",
        )
        for alias, backend in _in_database().items()
        if (other := first.setdefault(backend.slot, alias)) != alias
    ]


def _in_database() -> dict[str, InDatabaseBackend]:
    """Return the backends that take events in the database, by their aliases."""
    return {
        alias: backend
        for alias in entries()
        if isinstance(backend := _made(alias), InDatabaseBackend)
    }


def _made(alias: str) -> object:
    """Return a backend without opening it, or None if `check_backends` reports an error."""
    try:
        return backends.create(alias)
    except Exception:  # a custom class may raise any exception
        return None


def _trimmed(alias: str, max_len: int) -> CheckMessage:
    where = f"OUTBOX_PUBLISHERS[{alias!r}]"
    message = (
        f"{where} trims its stream to about {max_len} entries, read or not. A consumer whose lag "
        "is larger loses events."
    )
    fix = (
        f"Set {where}['OPTIONS']['max_len'] = None to trim nothing. If no consumer lags that far, "
        f"set SILENCED_SYSTEM_CHECKS = ['{TAG}.W004']."
    )
    return warning("W004", message, fix)
