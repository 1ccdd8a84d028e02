"""Character sets of databases, which may lack characters of Unicode.

PostgreSQL rejects a statement with such a character and aborts the transaction. MariaDB and MySQL
reject it too, but `INSERT IGNORE` writes question marks. Therefore text from a caller raises an
error before any SQL, and the package's own text is escaped.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from .sql import EVENTS, PREFIX


class Unstorable(NamedTuple):
    """A character that a column can't hold, and the character set that lacks it."""

    column: str
    character: str
    charset: str


class NarrowColumn(NamedTuple):
    """A text column on MariaDB or MySQL whose character set lacks characters of Unicode."""

    table: str
    column: str
    charset: str
    definition: str


REREAD_SECONDS = 10.0
"""Seconds for which narrow columns are cached. A database without any is cached for ever."""

_asked: dict[tuple[str, ...], tuple[Mapping[str, str], float]] = {}
"""For each database, the character sets of its narrow columns, and when they were queried."""


_EVERY = "*"
_UNKNOWN: tuple[Mapping[str, str], float] = {_EVERY: "?"}, -REREAD_SECONDS


def storable(text: str, connection: BaseDatabaseWrapper) -> str:
    """Return text that every text column of the package can hold: unchanged or with escapes."""
    if text.isascii() or not _narrow(connection):
        return text
    codec = (connection.vendor == "postgresql" and _codec(postgres_encoding(connection))) or "ascii"
    return text.encode(codec, "backslashreplace").decode(codec)


def may_lack_characters(connection: Any) -> bool:
    """Return False if the database is known to hold all of Unicode; run no statement."""
    if connection.vendor == "postgresql" and connection.connection is not None:
        return bool(_narrow(connection))
    known = connection.vendor == "sqlite" or _asked.get(_place(connection), _UNKNOWN)[0] == {}
    return not known


def first_unstorable(
    texts: Mapping[str, str | None], connection: BaseDatabaseWrapper
) -> Unstorable | None:
    """Return the first character that a column of the outbox can't hold, or None.

    The database is queried only for text beyond ASCII, until it is known to hold all of Unicode.
    """
    beyond = {name: text for name, text in texts.items() if text and not text.isascii()}
    narrow = _narrow(connection) if beyond else {}
    if not narrow:
        return None
    if connection.vendor == "mysql":
        every = narrow.get(_EVERY)
        charsets = {name: every or narrow.get(f"{EVENTS}.{name}") for name in beyond}
        return _refused_by_mysql(
            [(name, text, cs) for name, text in beyond.items() if (cs := charsets[name])],
            connection,
        )
    return _refused_by_postgres(beyond, narrow[_EVERY])


def _place(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    place = connection.settings_dict
    return connection.alias, place["ENGINE"], place["HOST"], str(place["PORT"]), str(place["NAME"])


def _narrow(connection: BaseDatabaseWrapper) -> Mapping[str, str]:
    """Return the narrow columns as `table.column` with their character sets; `*` is every one."""
    if connection.vendor not in ("postgresql", "mysql"):
        return {}
    place = _place(connection)
    found, asked_at = _asked.get(place, _UNKNOWN)
    if not found or time.monotonic() < asked_at + REREAD_SECONDS:
        return found
    if connection.vendor == "postgresql":
        encoding = postgres_encoding(connection)
        found = {} if encoding in _ALL_OF_UNICODE else {_EVERY: encoding}
    else:
        found = {f"{each.table}.{each.column}": each.charset for each in narrow_columns(connection)}
        client = client_charset(connection)
        if client != "utf8mb4":
            found[_EVERY] = client
    _asked[place] = found, time.monotonic()
    return found


# PostgreSQL has one encoding for a database.

_ALL_OF_UNICODE = ("UTF8", "SQL_ASCII")
"""SQL_ASCII stores bytes unchanged."""


def postgres_encoding(connection: Any) -> str:
    """Return the encoding of the database, or of the client if that has fewer characters.

    The server sends both at the start of a connection, so no statement is needed.
    """
    connection.ensure_connection()
    raw = connection.connection
    parameter = raw.info.parameter_status
    server, client = parameter("server_encoding"), parameter("client_encoding")
    return str(client if server in _ALL_OF_UNICODE else server)


def _codec(encoding: str) -> str | None:
    """Return Python's name of a PostgreSQL encoding, or None if Python has no such encoding."""
    try:
        return codecs.lookup(encoding.replace("WIN", "cp").replace("KOI8", "koi8_")).name
    except LookupError:
        return None


def _refused_by_postgres(texts: Mapping[str, str], encoding: str) -> Unstorable | None:
    codec = _codec(encoding)
    if codec is None:
        return None
    for name, text in texts.items():
        try:
            text.encode(codec)
        except UnicodeEncodeError as error:
            return Unstorable(name, text[error.start], encoding)
    return None


# MariaDB and MySQL have a character set for each column, and one for the client.


def client_charset(connection: BaseDatabaseWrapper) -> str:
    """Return the character set of statements sent to MariaDB or MySQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@character_set_client")
        return str(cursor.fetchone()[0])


def narrow_columns(connection: BaseDatabaseWrapper) -> list[NarrowColumn]:
    """Return the text columns of the package on MariaDB or MySQL that are not `utf8mb4`."""
    sql = (
        "SELECT table_name, column_name, character_set_name, "
        "CONCAT(column_type, ' CHARACTER SET utf8mb4', "
        "IF(is_nullable = 'YES', ' NULL', ' NOT NULL')) "
        "FROM information_schema.columns WHERE table_schema = DATABASE() "
        "AND table_name LIKE %s AND character_set_name <> 'utf8mb4' "
        "ORDER BY table_name, ordinal_position"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [PREFIX.replace("_", r"\_") + "%"])
        return [NarrowColumn._make(map(str, row)) for row in cursor.fetchall()]


def _refused_by_mysql(
    texts: Sequence[tuple[str, str, str]], connection: BaseDatabaseWrapper
) -> Unstorable | None:
    """Return the first character that the server can't convert, or None.

    The server converts the texts because its character sets differ from Python's.

    Args:
        texts: Tuples of a column, a text and the column's character set.
        connection: The connection to the server.
    """
    if not texts:
        return None
    converted = ", ".join(f"CONVERT(%s USING {charset})" for _, _, charset in texts)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {converted}", [text for _, text, _ in texts])
            stored = cursor.fetchone()
    except UnicodeEncodeError as error:  # from the driver, before the statement is sent
        character = error.object[error.start]
        return next(Unstorable(n, character, cs) for n, text, cs in texts if character in text)
    for (name, text, charset), converted_text in zip(texts, stored, strict=True):
        for character, other in zip(text, converted_text, strict=False):
            if character != other:
                return Unstorable(name, character, charset)
    return None
