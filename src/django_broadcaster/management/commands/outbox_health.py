"""`manage.py outbox_health`: check the health of the outbox, or of one relay by its file."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from django_broadcaster.backends.handler import backends
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.instrumentation import health_file
from django_broadcaster.instrumentation.health import outbox_health
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import Bad, as_json
from django_broadcaster.management.selection import add_database, database, listed, seconds
from django_broadcaster.relay.health import LIVE, Health

UNWELL, UNKNOWN = 1, 2
"""Exit statuses: a check failed; the health is unknown, or an option is invalid."""


class Command(OutboxCommand):
    """Show the health checks."""

    help = (
        "Checks that each backend has running relays and that no event is late or stuck. Exits "
        f"with 0 if healthy, {UNWELL} if a check failed, and {UNKNOWN} if the database is "
        "unavailable or an argument is invalid. With --file, reads the file of one relay instead "
        "of the database."
    )
    examples = (
        "",
        "--backend default --max-lag 60",
        "--file /run/relay/health.json --live",
    )
    wrong_call = UNKNOWN
    requires_system_checks = []  # a probe runs often; the relay ran them when it started

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--backend",
            action="append",
            metavar="ALIAS",
            help="check only this backend; can be repeated",
        )
        parser.add_argument(
            "--consumer",
            action="append",
            metavar="ALIAS",
            help="check only this consumer; can be repeated",
        )
        parser.add_argument(
            "--max-lag",
            type=seconds,
            metavar="SECONDS",
            help="limit for the time that an event is due (default: OUTBOX_MAX_LAG_SECONDS)",
        )
        parser.add_argument(
            "--max-retry-age",
            type=seconds,
            metavar="SECONDS",
            help="limit for the age of an event in retry (default: OUTBOX_MAX_RETRY_AGE_SECONDS)",
        )
        parser.add_argument(
            "--file",
            type=Path,
            metavar="PATH",
            help="read this file, which a relay writes with --health-file",
        )
        parser.add_argument(
            "--live",
            action="store_true",
            help="with --file: check liveness only, that is, whether a restart would help",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        if options["live"] and not options["file"]:
            raise CommandError("--live needs --file.", returncode=UNKNOWN)
        found = _from_file(options) if options["file"] else _by_settings(options)
        if options["json"]:
            self.stdout.write(as_json(found.as_dict()))
        else:
            self.stdout.write(self.table([_row(check) for check in found.checks]))
        if any(check.name == "database" for check in found.failing):
            sys.exit(UNKNOWN)
        if not found.is_ready:
            sys.exit(UNWELL)


def _from_file(options: dict[str, Any]) -> Health:
    try:
        found = health_file.read(options["file"])
    except ValueError as error:
        raise CommandError(str(error), returncode=UNKNOWN) from error
    return found.only(LIVE) if options["live"] else found


def _from_database(options: dict[str, Any]) -> Health:
    for kind, setting, known in (
        ("backend", "OUTBOX_PUBLISHERS", backends.aliases()),
        ("consumer", "OUTBOX_CONSUMERS", consumers.aliases()),
    ):
        for alias in options[kind] or []:
            if alias not in known:
                problem = f"{kind.title()} {alias!r} is not configured; {setting} has "
                raise CommandError(problem + f"{listed(known)}.", returncode=UNKNOWN)
    using = database(options["database"], returncode=UNKNOWN)
    wanted, receiving = options["backend"], options["consumer"]
    if receiving and not wanted:
        wanted = []  # named alone, a consumer is checked alone
    return outbox_health(using, wanted, options["max_lag"], options["max_retry_age"], receiving)


def _by_settings(options: dict[str, Any]) -> Health:
    """Return the health by the database; raise CommandError if the settings are invalid."""
    try:
        return _from_database(options)
    except (TypeError, ValueError, ImproperlyConfigured) as error:
        problem = f"Invalid settings ({type(error).__name__}); run manage.py check for details."
        raise CommandError(problem, returncode=UNKNOWN) from error


def _row(check: Any) -> dict[str, Any]:
    return {
        "check": check.name,
        "backend": f"consumer {check.consumer}" if check.consumer else check.backend,
        "process": check.process,
        "ok": "yes" if check.ok else Bad("NO"),
        "detail": check.detail,
    }
