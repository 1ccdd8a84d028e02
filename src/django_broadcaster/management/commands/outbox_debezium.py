"""`manage.py outbox_debezium`: print or apply the configuration of Debezium's connector."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from time import monotonic, sleep
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from django.core.management.base import CommandError
from django.db import connections

from django_broadcaster.backends.debezium import (
    DebeziumBackend,
    LacksHost,
    connector_config,
    database_script,
)
from django_broadcaster.backends.handler import backends
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json, printable
from django_broadcaster.management.selection import add_database, check_backend, database, seconds
from django_broadcaster.store import end_of_wal, has_confirmed

REST_SECONDS: Final = 30.0
"""Kafka Connect validates a configuration by connecting to the database."""

WAIT_PAUSE: Final = 0.1
LATE: Final = 3
"""The exit status if events are not confirmed in time."""


class Command(OutboxCommand):
    """Print or apply what Kafka Connect needs for a backend."""

    help = (
        "Prints the configuration of Debezium's PostgreSQL connector for a DebeziumBackend, or "
        "applies it through the REST interface of Kafka Connect."
    )
    examples = (
        "--sql",
        "default --set database.hostname=postgres",
        "default --url http://connect:8083",
        "default --wait 60",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "alias",
            nargs="?",
            metavar="ALIAS",
            help="alias of a backend (default: the one with DebeziumBackend)",
        )
        action = parser.add_mutually_exclusive_group()
        action.add_argument(
            "--sql",
            action="store_true",
            help="print the script that creates the role, the publication and the slot",
        )
        action.add_argument(
            "--url", help="create or update the connector of the Kafka Connect with this address"
        )
        action.add_argument(
            "--wait",
            type=seconds,
            metavar="SECONDS",
            help="wait until Kafka has all events that were committed before; "
            f"exit with {LATE} if that takes longer",
        )
        parser.add_argument(
            "--set",
            action="append",
            type=_pair,
            default=[],
            metavar="NAME=VALUE",
            help="add a setting of the connector, or replace one; can be repeated",
        )
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError for wrong settings, or if Kafka Connect refuses."""
        backend = _backend(options["alias"])
        using = database(options["database"])
        settings = connections[using].settings_dict
        try:
            backend.check_database(connections[using])
            if options["sql"]:
                self.stdout.write(database_script(backend, settings), ending="")
                return
            if options["wait"] is not None:
                self._wait(using, backend, options["wait"])
                return
            config = connector_config(backend, settings, dict(options["set"]))
        except BackendConfigurationError as error:
            raise CommandError(str(error)) from error
        except LacksHost as error:
            raise CommandError(
                f"DATABASES[{using!r}]['HOST'] must be a host that Kafka Connect can connect to, "
                f"not {str(error)!r}. Set it, or add --set database.hostname=HOST."
            ) from error
        if options["url"] is None:
            self.stdout.write(as_json(config))
            return
        done = "updated" if _put(options["url"], backend.slot, config) else "created"
        self.stdout.write(f"Connector {backend.slot} {done}.")

    def _wait(self, using: str, backend: DebeziumBackend, most: float) -> None:
        """Wait until the slot's position has passed the present end of the WAL."""
        deadline = monotonic() + most
        end = end_of_wal(using)
        while not has_confirmed(using, backend.slot, end):
            if monotonic() > deadline:
                raise CommandError(
                    f"Kafka Connect has not confirmed all events within {most:g} s. See "
                    "outbox_status for the lag of the replication slot.",
                    returncode=LATE,
                )
            sleep(WAIT_PAUSE)
        self.stdout.write("Kafka has all events that were committed before.")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _backend(alias: str | None) -> DebeziumBackend:
    """Return the backend of an alias, by default the only DebeziumBackend."""
    check_backend(alias)
    found = {each: backends[each] for each in ([alias] if alias else backends.aliases())}
    ours = {each: made for each, made in found.items() if isinstance(made, DebeziumBackend)}
    if len(ours) == 1:
        return next(iter(ours.values()))
    if len(ours) > 1:
        raise CommandError(f"Give one of these aliases: {', '.join(ours)}.")
    raise CommandError(
        f"OUTBOX_PUBLISHERS[{alias or 'default'!r}]['BACKEND'] must be "
        "'django_broadcaster.backends.DebeziumBackend'."
    )


def _put(url: str, name: str, config: dict[str, str]) -> bool:
    """Create or update a connector; return True if it was there before."""
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url must begin with http:// or https://, not {url!r}.")
    request = Request(  # noqa: S310  # the scheme is checked
        f"{url.rstrip('/')}/connectors/{quote(name)}/config",
        data=json.dumps(config).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    try:
        with urlopen(request, timeout=REST_SECONDS) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except HTTPError as error:
        said = printable(error.read().decode(errors="replace"))
        raise CommandError(f"Kafka Connect refused the connector: {error.code} {said}") from error
    except (URLError, OSError) as error:
        raise CommandError(f"Could not reach Kafka Connect at {url}: {error}") from error
