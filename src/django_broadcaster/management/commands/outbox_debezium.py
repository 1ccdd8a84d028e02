"""`manage.py outbox_debezium`: print or apply the configuration of Debezium's connector."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import connections

from django_broadcaster.backends.debezium import (
    ConnectError,
    Connector,
    DebeziumBackend,
    LacksHost,
    connector_config,
    database_script,
    removal_script,
)
from django_broadcaster.backends.handler import backends
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import as_json, printable
from django_broadcaster.management.selection import add_database, check_backend, database, seconds
from django_broadcaster.store import end_of_wal, has_confirmed

PAUSE_SECONDS: Final = 0.1

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
        parser.add_argument(
            "--remove",
            action="store_true",
            help="with --url, remove the connector and its position; with --sql, print the script "
            "that removes what the other script creates",
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
        url, removes = options["url"], options["remove"]
        if removes and not (options["sql"] or url):
            raise CommandError("--remove must be combined with --sql or --url.")
        if url and "@" in url:  # Kafka Connect would not get it, and errors would show it
            raise CommandError("--url must not have a user or password.")
        if url and not url.startswith(("http://", "https://")):
            raise CommandError(f"--url must begin with http:// or https://, not {url!r}.")
        using = database(options["database"])
        backend = _backend(options["alias"], using)
        settings = connections[using].settings_dict
        if options["sql"]:
            script = removal_script if removes else database_script
            self.stdout.write(script(backend, settings), ending="")
        elif options["wait"] is not None:
            self._wait(using, backend.slot, options["wait"])
        elif removes:
            self._remove(Connector(url, backend.slot))
        else:
            config = _config(backend, using, dict(options["set"]))
            if url:
                self._put(Connector(url, backend.slot), config)
            else:
                self.stdout.write(as_json(config))

    def _put(self, connector: Connector, config: Mapping[str, str]) -> None:
        try:
            done = "updated" if connector.put(config) else "created"
        except ConnectError as error:
            raise CommandError(printable(str(error))) from error
        self.stdout.write(f"Connector {connector.name} {done}.")

    def _remove(self, connector: Connector) -> None:
        try:
            connector.remove()
        except ConnectError as error:
            raise CommandError(printable(str(error))) from error
        self.stdout.write(f"Connector {connector.name} removed.")

    def _wait(self, using: str, slot: str, most: float) -> None:
        """Wait until the slot's position has passed the present end of the WAL."""
        deadline = monotonic() + most
        end = end_of_wal(using)
        while not (confirmed := has_confirmed(using, slot, end)):
            if confirmed is None:
                raise CommandError(f"The replication slot {slot} does not exist.")
            if monotonic() > deadline:
                raise CommandError(
                    f"Kafka Connect has not confirmed all events within {most:g} s. See "
                    "outbox_status for the lag of the replication slot.",
                    returncode=LATE,
                )
            sleep(PAUSE_SECONDS)
        self.stdout.write("Kafka has all events that were committed before.")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _config(backend: DebeziumBackend, using: str, more: Mapping[str, str]) -> dict[str, str]:
    """Return the configuration of the connector."""
    try:
        return connector_config(backend, connections[using].settings_dict, more)
    except LacksHost as error:
        raise CommandError(
            f"DATABASES[{using!r}]['HOST'] must be a host that Kafka Connect can connect to, not "
            f"{str(error)!r}. Set it, or add --set database.hostname=HOST."
        ) from error


def _backend(alias: str | None, using: str) -> DebeziumBackend:
    """Return the backend of an alias, by default the only DebeziumBackend."""
    check_backend(alias)
    found = {each: backends[each] for each in ([alias] if alias else backends.aliases())}
    ours = {each: made for each, made in found.items() if isinstance(made, DebeziumBackend)}
    if len(ours) == 1:
        (backend,) = ours.values()
        try:
            backend.check_database(connections[using])
        except BackendConfigurationError as error:
            raise CommandError(str(error)) from error
        return backend
    if len(ours) > 1:
        raise CommandError(f"Give one of these aliases: {', '.join(ours)}.")
    raise CommandError(
        f"OUTBOX_PUBLISHERS[{alias or backends.default_alias()!r}]['BACKEND'] must be "
        "'django_broadcaster.backends.DebeziumBackend'."
    )
