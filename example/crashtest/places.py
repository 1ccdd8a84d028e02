"""Create databases and destinations; each function yields environment variables for the shop."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

Environment = dict[str, str]

POSTGRES = "postgres://postgres@127.0.0.1:5432/postgres"
REDIS = "redis://127.0.0.1:6379/0"


class NoServer(Exception):
    """A server that the demo needs is unavailable."""


@contextmanager
def fresh_database(kind: str, folder: Path) -> Iterator[Environment]:
    """Create a database, `sqlite` in the folder or `postgres` on the server; drop it at the end."""
    if kind == "sqlite":
        yield {"SHOP_DB": "sqlite", "SHOP_DATABASE": str(folder / "shop.sqlite3")}
        return
    name = f"shop_demo_{token_hex(4)}"
    create_postgres(name)
    try:
        yield {"SHOP_DB": "postgres", "SHOP_DATABASE": name}
    finally:
        _on_postgres(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_broker(kind: str) -> Iterator[Environment]:
    """Select the handlers (`local`), or a new stream (`redis`), which is deleted at the end."""
    if kind == "local":
        yield {"SHOP_BROKER": "local"}
        return
    import redis

    stream = f"shop-demo-{token_hex(4)}"
    client = redis.Redis.from_url(redis_url())
    try:
        client.ping()
    except redis.RedisError as error:
        raise NoServer(f"Redis is unavailable (BROADCASTER_REDIS_URL): {error}") from error
    try:
        yield {"SHOP_BROKER": "redis", "SHOP_STREAM": stream}
    finally:
        client.delete(stream)
        client.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for the database file and the relay's log; delete it at the end."""
    with tempfile.TemporaryDirectory(prefix="shop-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def create_postgres(name: str) -> None:
    """Create a database if it does not exist; raise NoServer."""
    if not _on_postgres("SELECT 1 FROM pg_database WHERE datname = %s", name):
        _on_postgres(f'CREATE DATABASE "{name}"')


def redis_url() -> str:
    """Return the address of the Redis server."""
    return os.environ.get("BROADCASTER_REDIS_URL") or REDIS


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
