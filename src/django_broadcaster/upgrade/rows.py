"""Convert rows of 0.1.1 into rows of the outbox, and the reverse.

0.1.1 did not validate events. An invalid event becomes a dead letter with the old values. Its
error has the reason, so that no event is lost or blocks others. A value that is too long
for its column is shortened, and the error has the whole value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

from django_broadcaster import encryption
from django_broadcaster.events.attributes import (
    check_data_schema,
    check_media_type,
    check_source,
    check_string,
)
from django_broadcaster.events.grammar import is_json_type
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.store import identity_of

from .old_table import COLUMNS, OldRow

MOST_RETRIES: Final = 32_767


class Row(NamedTuple):
    """The columns of the outbox that a moved row sets."""

    event_id: str
    spec_version: str
    source: str
    event_type: str
    subject: str
    time: Any
    data_content_type: str
    data_schema: str
    extensions: str
    data: str | None
    data_binary: bytes | None
    sealed: bytes | None
    identity: str | None
    partition_key: str
    partition: int
    publisher_backend: str
    publisher_config: str
    status: str
    scheduled_at: Any
    created_at: Any
    updated_at: Any
    published_at: Any
    ended_at: Any
    retry_count: int
    max_retries: int
    crash_count: int
    last_error: str


_LENGTHS: Final = {
    "spec_version": 10,
    "source": 512,
    "event_type": 255,
    "subject": 512,
    "data_content_type": 255,
    "data_schema": 2000,
    "publisher_backend": 64,
}
HANDLED: Final = "0.1.1 has run the handlers, and the event has no other backend"
_STATUSES: Final = ("pending", "processing", "retry", "published", "failed")
_EMPTY: Final = ("null", "[]", "{}", '""', "0", "0.0", "false")
"""JSON values that 0.1.1 treated as an empty `publisher_config`."""

_CHECKS: Final[tuple[tuple[str, Callable[[object], str]], ...]] = (
    ("event_type", lambda value: check_string("event_type", value)),
    ("source", check_source),
)
_OPTIONAL_CHECKS: Final[tuple[tuple[str, Callable[[object], str]], ...]] = (
    ("subject", lambda value: check_string("subject", value)),
    ("data_content_type", check_media_type),
    ("data_schema", check_data_schema),
)


class Target(NamedTuple):
    """The values that all rows of a move share.

    `runs_handlers` returns True for an alias that runs handlers, which 0.1.1 has run already. `now`
    is a value for the driver.
    """

    default_alias: str
    runs_handlers: Callable[[str], bool]
    partitions: int
    seals: bool
    now: Any


def new_row(old: OldRow, target: Target) -> tuple[Row, bool]:
    """Return the row of the outbox for a row of 0.1.1, and True if it became a dead letter."""
    event_id = str(UUID(str(old.id)))
    alias = old.publisher_backend or target.default_alias
    fitting = {name: (getattr(old, name) or "")[:most] for name, most in _LENGTHS.items()}
    fitting["publisher_backend"] = alias[: _LENGTHS["publisher_backend"]]
    data = None if old.data == "null" else old.data  # 0.1.1 sent no data for either
    config = "{}" if old.publisher_config in _EMPTY else old.publisher_config
    too_long = list(_too_long(old))
    if not config.startswith("{"):
        too_long.append(f"publisher_config must be a dictionary, not {config}")
        config = "{}"
    status, error, became_invalid = old.status, old.last_error, False
    ended_at = old.updated_at if status == "failed" else None
    published_at = (old.published_at or old.updated_at) if status == "published" else None
    if status in ("published", "failed"):
        problems = too_long
    elif target.runs_handlers(alias):
        problems = [*too_long, HANDLED]
        status, published_at = "published", target.now
    else:
        problems = [*too_long, *_problems(old)]
        status = "scheduled" if old.is_later else "pending"
        if problems:
            status, ended_at, became_invalid = "failed", target.now, True
    if problems:
        error = f"From 0.1.1: {'; '.join(problems)}" + (f"; last error: {error}" if error else "")
    row = Row(
        event_id=event_id,
        spec_version=fitting["spec_version"],
        source=fitting["source"],
        event_type=fitting["event_type"],
        subject=fitting["subject"],
        time=old.created_at,
        data_content_type=fitting["data_content_type"],
        data_schema=fitting["data_schema"],
        extensions="{}",
        data=None if target.seals else data,
        data_binary=None,
        sealed=encryption.seal(data, None) if target.seals else None,
        identity=identity_of(old.source, event_id, alias),
        partition_key="",
        partition=crc32(event_id.encode()) % target.partitions,
        publisher_backend=fitting["publisher_backend"],
        publisher_config=config,
        status=status,
        scheduled_at=old.scheduled_at,
        created_at=old.created_at,
        updated_at=old.updated_at,
        published_at=published_at,
        ended_at=ended_at,
        retry_count=old.retry_count,
        max_retries=min(old.max_retries, MOST_RETRIES),
        crash_count=0,
        last_error=error,
    )
    return row, became_invalid


def _too_long(old: OldRow) -> Iterator[str]:
    for name, most in _LENGTHS.items():
        value = getattr(old, name) or ""
        if len(value) > most:
            yield f"{name} must have at most {most} characters, not {len(value)}: {value}"


def _problems(old: OldRow) -> Iterator[str]:
    """Yield the reasons why an event is not valid."""
    if old.status not in _STATUSES:
        yield f"status must be one of {', '.join(_STATUSES)}, not {old.status!r}"
    if old.spec_version != "1.0":
        yield f"spec_version must be '1.0', not {old.spec_version!r}"
    checks = [*_CHECKS, *(each for each in _OPTIONAL_CHECKS if getattr(old, each[0]))]
    for name, check in checks:
        try:
            check(getattr(old, name))
        except InvalidEvent as error:
            yield str(error)
            continue
    content_type = old.data_content_type
    is_text = old.data is None or old.data.startswith('"')
    if content_type and not is_text and not is_json_type(content_type):
        yield f"data must be a string, because data_content_type {content_type!r} is not JSON"


class Undelivered(NamedTuple):
    """The columns of an outbox row that `old_values` needs; JSON columns are text."""

    id: int
    event_id: str
    spec_version: str
    source: str
    event_type: str
    subject: str
    data_content_type: str
    data_schema: str
    extensions: str
    data: str | None
    data_binary: bytes | None
    sealed: bytes | None
    publisher_backend: str
    publisher_config: str
    status: str
    scheduled_at: Any
    created_at: Any
    updated_at: Any
    retry_count: int
    max_retries: int
    last_error: str


_OLD_LENGTHS: Final = {
    "source": 255,
    "event_type": 255,
    "subject": 255,
    "data_content_type": 100,
    "data_schema": 200,
}


def old_values(row: Undelivered) -> tuple[list[Any] | None, str]:
    """Return the values of `COLUMNS` for an event of the outbox, or None and the reason."""
    data = row.data
    try:
        event_id = UUID(row.event_id)
        if row.sealed is not None:
            data, binary = encryption.unseal(row.sealed)
            row = row._replace(data_binary=binary)
    except ValueError:
        return None, "for 0.1.1, the id must be a UUID"
    if str(event_id) != row.event_id:
        return None, f"0.1.1 would change the id to {event_id}"
    if row.data_binary is not None:
        return None, "0.1.1 has no binary data"
    if row.extensions.strip() != "{}":
        return None, "0.1.1 has no extension attributes"
    for name, most in _OLD_LENGTHS.items():
        if len(getattr(row, name)) > most:
            return None, f"0.1.1 allows {most} characters for {name}"
    values = {name: getattr(row, name, None) for name in COLUMNS}
    status = "retry" if row.status == "retry" else "pending"
    values.update(id=event_id.hex, data=data, status=status, published_at=None)
    return [values[name] for name in COLUMNS], ""
