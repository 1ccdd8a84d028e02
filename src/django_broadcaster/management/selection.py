"""Which events a command is about: ids, or conditions."""

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
"""The highest id that a database can hold."""

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
"""The conditions of a selection, and the options that they are given by."""


def add_database(parser: ArgumentParser) -> None:
    """Declare `--database`."""
    parser.add_argument("--database", help="alias of the database (default: by the router)")


def add_selection(parser: ArgumentParser) -> None:
    """Declare the arguments that `selected` reads."""
    of_outbox = whole(1, HIGHEST)
    parser.add_argument("ids", nargs="*", type=of_outbox, metavar="ID", help="ids of the outbox")
    parser.add_argument("--all", action="store_true", help="every event that it can be done to")
    parser.add_argument("--backend", help="events to this alias")
    parser.add_argument("--status", choices=OutboxEventStatus.values, help="events in this state")
    parser.add_argument("--type", dest="event_type", help="this event type; `order.*` is a pattern")
    parser.add_argument("--key", help="events of this partition key")
    parser.add_argument("--source", help="events of this source")
    parser.add_argument("--since", type=moment, help="published to the outbox from this moment on")
    parser.add_argument("--until", type=moment, help="published to the outbox before this moment")
    parser.add_argument("--error", help="events whose last error has this text in it")
    add_database(parser)


def selected(options: dict[str, Any]) -> EventSelection:
    """Return which events; raises CommandError where nothing or both ways are named.

    `--backend` may be one that is no longer configured: its events have to be put away somehow.
    """
    conditions = conditions_of(options)
    if options["ids"] and (conditions or options["all"]):
        raise CommandError("give ids or conditions, but not both")
    if not (options["ids"] or conditions or options["all"]):
        raise CommandError("say which events: ids, conditions, or --all (see --help)")
    using = database(options["database"])
    if not _is_known(options["backend"], using):
        check_backend(options["backend"])
    return EventSelection(ids=tuple(options["ids"]), **conditions)


def conditions_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions that are given; raises CommandError for one that can't be meant.

    As an empty one: a script whose variable is not set means other events than all.
    """
    given = {name: options[name] for name in CONDITIONS if options.get(name) is not None}
    for name, value in given.items():
        if value == "":
            raise CommandError(f"{CONDITIONS[name]} is empty: leave it out for events of any")
    if "*" in given.get("event_type", "")[:-1]:
        raise CommandError("--type: an asterisk stands for any text at the end only, as in order.*")
    return given


def _is_known(alias: str | None, using: str) -> bool:
    """Return True for a backend that is configured, was once served by a relay, or has events."""
    if alias is None or alias in backends.aliases():
        return True
    served = OutboxPartition.objects.using(using).filter(backend=alias)
    return served.exists() or alias in with_leftovers(using, [])


def check_backend(alias: str | None) -> None:
    """Raise CommandError for an alias that is not configured."""
    if alias is not None and alias not in backends.aliases():
        raise CommandError(f"backend {alias!r}: OUTBOX_PUBLISHERS has {listed(backends.aliases())}")


def database(alias: str | None, *, returncode: int = 1) -> str:
    """Return the alias of the outbox's database; raises CommandError for one that there is not."""
    if alias is not None and alias not in settings.DATABASES:
        problem = f"--database {alias}: DATABASES has {listed(settings.DATABASES)}"
        raise CommandError(problem, returncode=returncode)
    return alias or router.db_for_write(OutboxEvent)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ArgumentTypeError(f"a whole number from {least} to {most} is needed, not {text}")
        return value

    return parse


def seconds(text: str) -> float:
    """Return a bound in seconds. Nothing is later than `nan`, so that a check would never fail."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise ArgumentTypeError(f"a number of seconds from 0 on is needed, not {text!r}")
    return value


def listed(aliases: Any) -> str:
    """Return aliases as an error names them."""
    return ", ".join(map(repr, aliases))


def moment(text: str) -> datetime:
    """Return an ISO 8601 moment or date; one without a zone is in the project's."""
    try:
        found = parse_datetime(text) or datetime.fromisoformat(text)
        aware = timezone.make_aware(found) if timezone.is_naive(found) else found
        in_utc = aware.astimezone(UTC)  # as databases have it: no year before 1 or after 9999
        return in_utc if settings.USE_TZ else timezone.make_naive(in_utc)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"a moment such as 2026-01-31T14:00 is needed, not {text!r}"
        ) from None
