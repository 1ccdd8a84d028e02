"""Fixtures that run a test on every database, with the outbox empty at its start."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import setup_databases, teardown_databases

from django_broadcaster.models import (
    InboxEvent,
    OutboxArchivedEvent,
    OutboxAttempt,
    OutboxBackendState,
    OutboxEvent,
    OutboxMove,
    OutboxOperation,
    OutboxPartition,
    OutboxPosition,
    OutboxReceiver,
    OutboxRelay,
    OutboxSample,
    OutboxTaskRun,
    OutboxWebhookEndpoint,
)
from tests.app.models import Customer, Item, Order, Parcel, SpecialItem
from tests.support.certificates import make_certificates
from tests.support.databases import DATABASES

TABLES = (
    *(
        OutboxEvent,
        OutboxArchivedEvent,
        OutboxPartition,
        OutboxRelay,
        InboxEvent,
        OutboxAttempt,
        OutboxMove,
        OutboxBackendState,
        OutboxSample,
    ),
    *(OutboxWebhookEndpoint, OutboxOperation, OutboxReceiver, OutboxPosition, OutboxTaskRun, Order),
    *(SpecialItem, Item, Customer, Parcel),
)


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest,
    django_test_environment: None,
    django_db_blocker: pytest.FixtureRequest,
    django_db_keepdb: bool,
    django_db_createdb: bool,
    django_db_modify_db_settings: None,
) -> Iterator[None]:
    """Make all test databases; pytest-django's own fixture makes those that its markers name.

    A test that commits without such a marker would otherwise work on the real ones.
    """
    verbosity = request.config.option.verbose
    keep = django_db_keepdb and not django_db_createdb
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        made = setup_databases(verbosity, interactive=False, keepdb=keep)
    yield
    if not django_db_keepdb:
        with django_db_blocker.unblock():  # type: ignore[attr-defined]
            teardown_databases(made, verbosity)


@pytest.fixture
def committing(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[None]:
    """Let a test commit on every database, and begin and end it with empty tables.

    pytest-django's transactional fixture truncates every table of every database for each test;
    deleting from the few tables that these tests fill is much faster. For a test of one `database`
    the others are left alone, unless it has connected to them. So such a test may not write to
    another database in a thread or a process.
    """
    callspec = getattr(request.node, "callspec", None)
    named = callspec.params.get("database") if callspec else None
    begun = [named] if named in DATABASES else DATABASES
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        for alias in begun:
            _empty(alias)
        yield
        for alias in DATABASES:
            if alias in begun or connections[alias].connection is not None:
                _empty(alias)
        connections.close_all()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, committing: None) -> str:
    """Run a committing test once on each database; the value is its alias."""
    return str(request.param)


def _empty(alias: str) -> None:
    # Most are empty already: to ask about all of them takes one statement, to delete one for each.
    with connections[alias].cursor() as cursor:
        cursor.execute(_filled(alias))
        filled = cursor.fetchone()
    for model, has_rows in zip(TABLES, filled, strict=True):
        if has_rows:
            model._base_manager.using(alias).all()._raw_delete(alias)


@cache
def _filled(alias: str) -> str:
    """Return a query whose columns tell which of the tables hold rows."""
    quote = connections[alias].ops.quote_name
    tables = (quote(model._meta.db_table) for model in TABLES)
    return "SELECT " + ", ".join(f"EXISTS (SELECT 1 FROM {table})" for table in tables)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, certificates of it for 127.0.0.1 and for a client, and another CA."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def staff(client: Client) -> User:
    """Return a logged-in member of the staff without any permission."""
    user = User.objects.create_user("staff", password="staff", is_staff=True)
    client.force_login(user)
    return user
