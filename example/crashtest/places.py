"""Fresh places to run on: each yields the environment variables that lead the shop there."""

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
    """A server that the demo was asked to run on does not answer."""


@contextmanager
def fresh_database(kind: str, folder: Path) -> Iterator[Environment]:
    """A database of its own, `sqlite` in the folder or `postgres` on the server."""
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
    """A destination of its own: the handlers (`local`), or a new stream on the server (`redis`)."""
    if kind == "local":
        yield {"SHOP_BROKER": "local"}
        return
    import redis

    stream = f"shop-demo-{token_hex(4)}"
    client = redis.Redis.from_url(redis_url())
    try:
        client.ping()
    except redis.RedisError as error:
        raise NoServer(f"Redis does not answer (BROADCASTER_REDIS_URL): {error}") from error
    try:
        yield {"SHOP_BROKER": "redis", "SHOP_STREAM": stream}
    finally:
        client.delete(stream)
        client.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the database file and the relay's log."""
    with tempfile.TemporaryDirectory(prefix="shop-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def create_postgres(name: str) -> None:
    """Create a database unless it is there; raises NoServer."""
    if not _on_postgres("SELECT 1 FROM pg_database WHERE datname = %s", name):
        _on_postgres(f'CREATE DATABASE "{name}"')


def redis_url() -> str:
    """Return the address of the Redis server."""
    return os.environ.get("BROADCASTER_REDIS_URL") or REDIS


def _on_postgres(sql: str, *parameters: str) -> bool:
    """Run a statement on the server's own database; return whether it found a row."""
    import psycopg

    url = os.environ.get("BROADCASTER_POSTGRES_URL") or POSTGRES
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.description is not None and cursor.fetchone() is not None
    except psycopg.OperationalError as error:
        message = f"PostgreSQL does not answer (BROADCASTER_POSTGRES_URL): {error}"
        raise NoServer(message) from error
