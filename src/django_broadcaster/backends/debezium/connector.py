"""The configuration of Debezium's connector, and the script that prepares the database for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .backend import DebeziumBackend

HEARTBEAT_MILLISECONDS: Final = 5000

POLL_MILLISECONDS: Final = 10
"""Debezium looks for new events this often. Its default of 500 would delay each event by 0.5 s."""

PASSWORD: Final = "${env:DEBEZIUM_PASSWORD}"  # noqa: S105  # where the worker finds it
"""Kafka Connect replaces it: the worker needs its EnvVarConfigProvider, named `env`."""

_TEXT: Final = "org.apache.kafka.connect.storage.StringConverter"


class LacksHost(ValueError):
    """The database settings have no host that Kafka Connect can connect to."""


def connector_config(
    backend: DebeziumBackend, database: Mapping[str, Any], more: Mapping[str, str]
) -> dict[str, str]:
    """Return the configuration of the connector for a backend.

    Args:
        backend: The backend.
        database: The database's part of Django's DATABASES.
        more: Further settings, which replace those of the same name.

    Raises:
        LacksHost: Neither `database` nor `more` has a host.
    """
    name = backend.slot
    host = str(database.get("HOST") or "")
    if (not host or host.startswith("/")) and "database.hostname" not in more:
        raise LacksHost(host)
    placements = ",".join(f"{header}:header:{header}" for header in backend.headers)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "topic.prefix": name,
        "database.hostname": host,
        "database.port": str(database.get("PORT") or 5432),
        "database.dbname": str(database["NAME"]),
        "database.user": name,
        "database.password": PASSWORD,
        **_encryption(database),
        # The slot and the publication are made by the script: the role may not make them.
        "plugin.name": "pgoutput",
        "slot.name": name,
        "publication.name": name,
        "publication.autocreate.mode": "disabled",
        # Events are logical messages, so there is no table to read.
        "snapshot.mode": "no_data",
        "table.include.list": r".*\.django_broadcaster_outboxevent",
        "message.prefix.include.list": name,
        "poll.interval.ms": str(POLL_MILLISECONDS),
        # Without heartbeats, the slot would retain what other tables write while no event comes.
        "heartbeat.interval.ms": str(HEARTBEAT_MILLISECONDS),
        "heartbeat.action.query": "SELECT pg_logical_emit_message(false, 'heartbeat', '')",
        "transforms": "decode,route,clean",
        "transforms.decode.type": (
            "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent"
        ),
        "transforms.decode.fields.null.include": "true",
        "transforms.route.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.route.table.field.event.id": "id",
        "transforms.route.table.field.event.key": "key",
        "transforms.route.table.field.event.payload": "value",
        "transforms.route.table.fields.additional.placement": placements,
        "transforms.route.table.field.additional.missing": "ignore",
        "transforms.route.route.by.field": "topic",
        "transforms.route.route.topic.replacement": "${routedByValue}",
        # The router adds the event's id as a header, which `ce_id` has already.
        "transforms.clean.type": "org.apache.kafka.connect.transforms.DropHeaders",
        "transforms.clean.headers": "id",
        "key.converter": _TEXT,
        "value.converter": _TEXT,
        "header.converter": _TEXT,
        **more,
    }


def _encryption(database: Mapping[str, Any]) -> dict[str, str]:
    mode = (database.get("OPTIONS") or {}).get("sslmode")
    return {"database.sslmode": str(mode)} if mode else {}


def database_script(backend: DebeziumBackend, database: Mapping[str, Any]) -> str:
    """Return the SQL that creates the role, the publication and the slot."""
    name, place = backend.slot, _quoted(database)
    return f"""\
-- Needs PostgreSQL 14 or newer with wal_level = logical. Run it in database {place}
-- as a superuser, outside of a transaction. Then give the role a password.

-- The role may connect and replicate. It can't read or change any table.
CREATE ROLE "{name}" LOGIN REPLICATION;
GRANT CONNECT ON DATABASE {place} TO "{name}";

-- The publication has no tables, because events are logical messages.
CREATE PUBLICATION "{name}";

-- From here on, the server keeps the events until Kafka has them.
SELECT pg_create_logical_replication_slot('{name}', 'pgoutput');
"""


def removal_script(backend: DebeziumBackend, database: Mapping[str, Any]) -> str:
    """Return the SQL that removes what `database_script` creates."""
    name = backend.slot
    return f"""\
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = '{name}' AND database = current_database();
DROP PUBLICATION "{name}";
REVOKE CONNECT ON DATABASE {_quoted(database)} FROM "{name}";
DROP ROLE "{name}";
"""  # noqa: S608  # the name of a slot is checked


def _quoted(database: Mapping[str, Any]) -> str:
    """Return the name of the database as SQL."""
    escaped = str(database["NAME"]).replace('"', '""')
    return f'"{escaped}"'
