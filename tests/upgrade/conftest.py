"""Fixtures of the upgrade from 0.1.1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from django_broadcaster.upgrade.old_table import FIRST_MIGRATION, TABLE

from .old_version import old_migration


@pytest.fixture
def old_events(database: str) -> Iterator[Any]:
    """Give a manager of 0.1.1's table, made by its own migration beside our tables."""
    with old_table(database) as events:
        yield events


@contextmanager
def old_table(using: str) -> Iterator[Any]:
    """Make 0.1.1's table in a database, give a manager of it, and drop it."""
    migration = old_migration().Migration("0001_initial", "broadcaster_0_1_1")
    connection = connections[using]
    with connection.schema_editor() as editor:
        state = migration.apply(ProjectState(), editor)
    MigrationRecorder(connection).record_applied(*FIRST_MIGRATION)
    model = state.apps.get_model("broadcaster_0_1_1", "OutboxEvent")
    try:
        yield model._base_manager.using(using)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")
        MigrationRecorder(connection).record_unapplied(*FIRST_MIGRATION)
