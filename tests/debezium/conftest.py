"""A PostgreSQL server with logical decoding, and events for a DebeziumBackend."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command

from django_broadcaster.backends.handler import backends
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.kafka_connect import ConnectServer, logical_postgres
from tests.support.own_servers import OwnDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

SLOT = "broadcaster_default"
BACKEND = "django_broadcaster.backends.DebeziumBackend"


@pytest.fixture(scope="module")
def postgres(django_db_setup: None, django_db_blocker: Any) -> Iterator[OwnDatabase]:
    """One server for all these tests."""
    with django_db_blocker.unblock(), logical_postgres() as server:
        yield server


@pytest.fixture
def debezium(postgres: OwnDatabase, settings: Settings, django_db_blocker: Any) -> Iterator[str]:
    """The default backend is a DebeziumBackend, with an empty outbox and a new slot; its name."""
    use(settings)
    with django_db_blocker.unblock():
        prepare(postgres)
        yield SLOT
        use(settings)
        postgres.execute("TRUNCATE django_broadcaster_outboxevent")
        clean(postgres)


def use(settings: Settings, **options: Any) -> None:
    """Make the default backend a DebeziumBackend with these options."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}
    backends.reset()


def deliver() -> None:
    """Let a relay deliver everything that is due."""
    with DeliveryLoop("own", "default") as loop:
        while loop.turn(100).found_work:
            pass


def prepare(server: OwnDatabase) -> None:
    """Run the script that the command prints."""
    _run(server, "--sql")


def clean(server: OwnDatabase) -> None:
    """Remove what the script has created."""
    server.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
        "WHERE active_pid IS NOT NULL"
    )
    _run(server, "--sql", "--remove")


def _run(server: OwnDatabase, *arguments: str) -> None:
    printed = StringIO()
    call_command("outbox_debezium", *arguments, "--database", "own", stdout=printed)
    for statement in printed.getvalue().split(";"):
        if statement.strip():
            server.execute(statement)


def start_connector(connect: ConnectServer) -> None:
    """Put the connector's configuration, and wait until it runs."""
    host = ("--set", "database.hostname=127.0.0.1")
    call_command("outbox_debezium", "--url", connect.url, *host, "--database", "own")
    connect.wait_until_running(SLOT)


def remove_connector(connect: ConnectServer) -> None:
    """Remove the connector and its position."""
    call_command("outbox_debezium", "--url", connect.url, "--remove", "--database", "own")
