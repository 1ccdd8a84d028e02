"""A PostgreSQL server with logical decoding, and events for a DebeziumBackend."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command

from django_broadcaster.backends.handler import backends
from django_broadcaster.relay.loop import DeliveryLoop
from tests.support.kafka_connect import logical_postgres
from tests.support.own_servers import OwnDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

SLOT = "broadcaster_default"
BACKEND = "django_broadcaster.backends.DebeziumBackend"


@pytest.fixture(scope="session")
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
    for statement in script().split(";"):
        if statement.strip():
            server.execute(statement)


def script() -> str:
    """Return the script that the command prints."""
    printed = StringIO()
    call_command("outbox_debezium", "--sql", "--database", "own", stdout=printed)
    return printed.getvalue()


def clean(server: OwnDatabase) -> None:
    """Remove what the script has created."""
    server.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
        "WHERE active_pid IS NOT NULL"
    )
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    server.execute(f"DROP PUBLICATION IF EXISTS {SLOT}")
    server.execute(f"REVOKE CONNECT ON DATABASE outbox FROM {SLOT}")
    server.execute(f"DROP ROLE {SLOT}")
