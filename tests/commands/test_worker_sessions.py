"""`outbox_worker` in a session that is in another schema, as libraries for tenants set it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings

from django_broadcaster.backends import locmem
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.support.databases import DATABASES, SERVERS
from tests.support.routing import OneDatabase

POSTGRES = [alias for alias in DATABASES if connections[alias].vendor == "postgresql"]
SCHEMA = "tenant_one"


@pytest.fixture(params=SERVERS)
def elsewhere(request: pytest.FixtureRequest, committing: None) -> Iterator[str]:
    """A database whose session in this thread is in another schema; the value is its alias."""
    connection = connections[request.param]
    is_postgres = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if is_postgres:
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")
            cursor.execute(f"SET search_path TO {SCHEMA}, public")
        else:
            cursor.execute("USE mysql")
    yield request.param
    connection.close()
    if is_postgres:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {SCHEMA}")


@pytest.fixture(params=POSTGRES)
def tenant(
    request: pytest.FixtureRequest, committing: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A schema with an outbox of its own, and an alias `tenant` for it; the value is the other."""
    main = connections[request.param]
    entry = connections.settings[request.param]
    with main.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
        models = apps.get_app_config("django_broadcaster").get_models()
        for table in {model._meta.db_table for model in models}:
            cursor.execute(f"CREATE TABLE {SCHEMA}.{table} (LIKE public.{table} INCLUDING ALL)")
    options = {"options": f"-c search_path={SCHEMA}"}
    monkeypatch.setitem(connections.settings, "tenant", {**entry, "OPTIONS": options})
    yield request.param
    connections["tenant"].close()
    del connections["tenant"]
    with main.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def publish(using: str) -> None:
    """Publish one event."""
    publisher.publish_event("order.placed", "/shop", using=using)


def test_command_in_another_schema_is_refused(elsewhere: str) -> None:
    """It names both schemas and the way, instead of ending well with nothing delivered."""
    with pytest.raises(CommandError) as caught:
        call_command("outbox_worker", "--drain", database=elsewhere)
    message = str(caught.value)
    assert "--database" in message
    if connections[elsewhere].vendor == "postgresql":
        assert f"'{SCHEMA}, public', but the relay's own connections look in 'public'" in message
    else:
        assert "'mysql', but the relay's own connections look in 'test_" in message


def test_looking_leaves_no_connection_behind(database: str) -> None:
    """The thread that runs the command had no connection before, and has none afterwards."""
    connections[database].close()
    call_command("outbox_worker", "--drain", database=database)
    assert connections[database].connection is None


def test_alias_of_a_schema_delivers_the_events_of_that_schema(tenant: str) -> None:
    """With `--database` each schema has its own relay, and the others' events stay."""
    locmem.clear()
    publish("tenant")
    publish(tenant)
    call_command("outbox_worker", "--drain", database="tenant")
    assert len(locmem.outbox()) == 1
    assert OutboxEvent.objects.using("tenant").get().status == "published"
    assert OutboxEvent.objects.using(tenant).get().status == "pending"


def test_process_pending_events_is_in_the_schema_of_its_caller(tenant: str) -> None:
    """In the caller's own session it delivers the events of the schema that the session is in."""
    publish(tenant)
    with connections[tenant].cursor() as cursor:
        cursor.execute(f"SET search_path TO {SCHEMA}, public")
    try:
        publish(tenant)
        router = OneDatabase(tenant)
        with override_settings(DATABASE_ROUTERS=[router]):
            assert publisher.process_pending_events() == 1
        assert OutboxEvent.objects.using(tenant).get().status == "published"
    finally:
        connections[tenant].close()
    assert OutboxEvent.objects.using(tenant).get().status == "pending"
