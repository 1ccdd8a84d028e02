"""The arguments that select events: ids, or conditions."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import router
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus
from django_broadcaster.store import with_leftovers

HIGHEST = 2**63 - 1
"""The highest id that a database can store."""

CONDITIONS = {
    "backend": "--backend",
    "status": "--status",
    "event_type": "--type",
    "key": "--key",
    "source": "--source",
    "since": "--since",
    "until": "--until",
    "error": "--error",
}
"""The options that set the conditions of a selection."""


def add_database(parser: ArgumentParser) -> None:
    """Declare `--database`."""
    parser.add_argument("--database", help="alias of the database (default: by the router)")


def add_selection(parser: ArgumentParser) -> None:
    """Declare the arguments that `selected` reads."""
    of_outbox = whole(1, HIGHEST)
    parser.add_argument("ids", nargs="*", type=of_outbox, metavar="ID", help="ids of the outbox")
    parser.add_argument("--all", action="store_true", help="select every eligible event")
    parser.add_argument("--backend", metavar="ALIAS", help="select events to this backend")
    parser.add_argument(
        "--status", choices=OutboxEventStatus.values, help="select events with this status"
    )
    parser.add_argument(
        "--type", dest="event_type", help="select events of this type; `order.*` is a pattern"
    )
    parser.add_argument("--key", help="select events with this partition key")
    parser.add_argument("--source", help="select events with this source")
    parser.add_argument("--since", type=moment, help="select events created at this time or later")
    parser.add_argument("--until", type=moment, help="select events created before this time")
    parser.add_argument("--error", help="select events whose last error contains this text")
    add_database(parser)


def selected(options: dict[str, Any]) -> EventSelection:
    """Return the selection of the arguments.

    `--backend` may name a backend that is no longer configured but has events.

    Raises:
        CommandError: The arguments select no events, or have both ids and conditions.
    """
    conditions = conditions_of(options)
    if options["ids"] and (conditions or options["all"]):
        raise CommandError("Ids and conditions exclude each other.")
    if not (options["ids"] or conditions or options["all"]):
        raise CommandError("Select events by ids, by conditions, or with --all (see --help).")
    using = database(options["database"])
    if not _is_known(options["backend"], using):
        check_backend(options["backend"])
    return EventSelection(ids=tuple(options["ids"]), **conditions)


def conditions_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions of the arguments.

    Raises:
        CommandError: A condition is empty, as in a script whose variable is not set, or a pattern
            is not supported.
    """
    given = {name: options[name] for name in CONDITIONS if options.get(name) is not None}
    for name, value in given.items():
        if value == "":
            option = CONDITIONS[name]
            raise CommandError(f"{option} must not be empty; omit it to match any {option[2:]}.")
    if "*" in given.get("event_type", "")[:-1]:
        raise CommandError("--type must have no asterisk except at its end, as in order.*.")
    return given


def _is_known(alias: str | None, using: str) -> bool:
    """Return True for a backend that is configured, had a relay, or has events."""
    if alias is None or alias in backends.aliases():
        return True
    served = OutboxPartition.objects.using(using).filter(backend=alias)
    return served.exists() or alias in with_leftovers(using, [])


def check_backend(alias: str | None) -> None:
    """Raise CommandError if an alias is not configured."""
    known = backends.aliases()
    if alias is not None and alias not in known:
        raise CommandError(
            f"Backend {alias!r} is not configured; OUTBOX_PUBLISHERS has {listed(known)}."
        )


def database(alias: str | None, *, returncode: int = 1) -> str:
    """Return the alias of the outbox's database; raise CommandError if it is not configured."""
    if alias is not None and alias not in settings.DATABASES:
        problem = (
            f"--database {alias} is not configured; DATABASES has {listed(settings.DATABASES)}."
        )
        raise CommandError(problem, returncode=returncode)
    return alias or router.db_for_write(OutboxEvent)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text}")
        return value

    return parse


def seconds(text: str) -> float:
    """Return a number of seconds from 0 on. A limit of `nan` would never be exceeded."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return value


def listed(aliases: Any) -> str:
    """Return aliases as a list in an error."""
    return ", ".join(map(repr, aliases))


def moment(text: str) -> datetime:
    """Return an ISO 8601 time or date; without a time zone, the project's applies."""
    try:
        found = parse_datetime(text) or datetime.fromisoformat(text)
        aware = timezone.make_aware(found) if timezone.is_naive(found) else found
        in_utc = aware.astimezone(UTC)  # raises for years that databases do not have
        return in_utc if settings.USE_TZ else timezone.make_naive(in_utc)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"must be a time such as 2026-01-31T14:00, not {text!r}") from None
