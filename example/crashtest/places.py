"""Create databases and destinations; most functions yield environment variables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from .destinations import DESTINATIONS, TITLES

Environment = dict[str, str]

POSTGRES = "postgres://postgres@127.0.0.1:5432/postgres"


class NoServer(Exception):
    """A server that the demo needs is unavailable."""


@contextmanager
def fresh_database(kind: str, service: str, folder: Path) -> Iterator[Environment]:
    """Create a service's database, in the folder or on PostgreSQL; drop it at the end."""
    variable = f"{service.upper()}_DATABASE"
    if kind == "sqlite":
        yield {"SHOP_DB": kind, variable: str(folder / f"{service}.sqlite3")}
        return
    name = f"{service}_demo_{token_hex(4)}"
    create_postgres(name)
    try:
        yield {"SHOP_DB": kind, variable: name}
    finally:
        _on_postgres(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_broker(kind: str) -> Iterator[Environment]:
    """Create streams, queues or topics, and delete them at the end; for `local` there are none."""
    if kind == "local":
        yield {"SHOP_BROKER": kind}
        return
    name = token_hex(4)
    streams = {"SHOP_STREAM": f"shop-demo-{name}", "BILLING_STREAM": f"billing-demo-{name}"}
    create_destinations(kind, list(streams.values()))
    try:
        yield {"SHOP_BROKER": kind, **streams}
    finally:
        DESTINATIONS[kind].delete(list(streams.values()))


def create_destinations(kind: str, names: list[str]) -> None:
    """Create what the services do not create themselves; raise NoServer."""
    try:
        DESTINATIONS[kind].create(names)
    except Exception as error:  # each client has exceptions of its own
        variable = f"BROADCASTER_{kind.upper()}_URL"
        raise NoServer(f"{TITLES[kind]} is unavailable ({variable}): {error}") from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for database files and the workers' logs; delete it at the end."""
    with tempfile.TemporaryDirectory(prefix="shop-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def create_postgres(name: str) -> None:
    """Create a database if it does not exist; raise NoServer."""
    if not _on_postgres("SELECT 1 FROM pg_database WHERE datname = %s", name):
        _on_postgres(f'CREATE DATABASE "{name}"')


def _on_postgres(sql: str, *parameters: str) -> bool:
    """Run a statement on the server's default database; return True if it found a row."""
    import psycopg

    url = os.environ.get("BROADCASTER_POSTGRES_URL") or POSTGRES
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.description is not None and cursor.fetchone() is not None
    except psycopg.OperationalError as error:
        message = f"PostgreSQL is unavailable (BROADCASTER_POSTGRES_URL): {error}"
        raise NoServer(message) from error
