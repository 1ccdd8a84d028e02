"""What migrations do to the tables beyond Django's own operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from django_broadcaster.schema import SetTableStorage

TABLE = "django_broadcaster_outboxevent"
POSTGRES = [
    alias
    for alias, database in settings.DATABASES.items()
    if database["ENGINE"].endswith("postgresql")
]


def storage(alias: str) -> set[str]:
    """The storage parameters of the outbox."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT unnest(reloptions) FROM pg_class WHERE relname = %s", [TABLE])
        return {row[0] for row in cursor.fetchall()}


@pytest.fixture(params=POSTGRES)
def postgres(request: pytest.FixtureRequest, committing: None) -> Iterator[str]:
    """The alias of PostgreSQL; the outbox is stored as before when the test is over."""
    alias = str(request.param)
    before = storage(alias)
    yield alias
    with connections[alias].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {TABLE} SET ({', '.join(before)})")


def shipped() -> SetTableStorage:
    """The operation that the migrations have."""
    [operation] = [
        operation
        for (app, _), migration in MigrationLoader(None).disk_migrations.items()
        if app == "django_broadcaster"
        for operation in migration.operations
        if isinstance(operation, SetTableStorage)
    ]
    return operation


def state() -> ProjectState:
    """The models as they are."""
    return ProjectState.from_apps(apps)


def test_the_outbox_has_its_own_autovacuum_settings(postgres: str) -> None:
    """They come with the migrations, and nobody has to know of them."""
    expected = {f"{name}={value}" for name, value in shipped().parameters.items()}
    assert storage(postgres) == expected
    assert "autovacuum_vacuum_scale_factor=0.01" in expected


def test_storage_is_changed_under_writers_and_back(postgres: str) -> None:
    """An open transaction that has written to the table keeps nobody waiting, backwards neither."""
    operation, now = shipped(), state()
    with closing(connections[postgres].copy()) as writer:
        writer.set_autocommit(False)
        with writer.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE")  # as INSERT and UPDATE do
            with connections[postgres].schema_editor() as editor:
                editor.execute("SET LOCAL lock_timeout = '5s'")
                operation.database_backwards("django_broadcaster", editor, now, now)
            assert storage(postgres) == set()
            with connections[postgres].schema_editor() as editor:
                operation.database_forwards("django_broadcaster", editor, now, now)
        writer.rollback()
    assert len(storage(postgres)) == len(operation.parameters)


def test_storage_is_postgresqls_alone(database: str) -> None:
    """Elsewhere nothing is sent to the database."""
    if database in POSTGRES:
        pytest.skip("PostgreSQL has storage parameters")
    operation, now = shipped(), state()
    with connections[database].schema_editor(collect_sql=True) as editor:
        operation.database_forwards("django_broadcaster", editor, now, now)
        operation.database_backwards("django_broadcaster", editor, now, now)
    assert editor.collected_sql == []


def test_the_operation_is_written_as_it_is() -> None:
    """It can be taken apart and made again, as migrations are, and says what it does."""
    name, args, kwargs = shipped().deconstruct()
    again = SetTableStorage(*args, **kwargs)
    assert name == "SetTableStorage"
    assert again.parameters == shipped().parameters
    assert "outboxevent" in again.describe()
