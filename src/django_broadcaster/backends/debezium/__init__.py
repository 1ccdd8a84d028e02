"""Debezium: Kafka Connect takes the events from PostgreSQL's write-ahead log (WAL) to Kafka.

An event is written into the WAL as a logical message, in the transaction that publishes it. A
replication slot keeps the WAL until Debezium's connector has read it and Kafka has stored it. The
connector makes the records that the Kafka backend would write, from a JSON object of text:

    id                      the event's id
    topic, key, value       of the record; a null key or value is none
    content-type, ce_...    each header of the record, by its name

Debezium's Outbox Event Router could read the table itself, but it can't make these records. It
makes a header of each column, also of empty ones, and can't divide a column of JSON, in which the
extensions are. It takes the value from one column, and binary data have another one. All events
without a key would go to one partition. A logical message has exactly the members that it needs.

https://debezium.io/documentation/reference/transformations/outbox-event-router.html
https://www.postgresql.org/docs/current/functions-admin.html (pg_logical_emit_message)
"""

from .backend import DebeziumBackend
from .connector import LacksHost, connector_config, database_script, removal_script
from .rest import ConnectError, Connector

__all__ = [
    "ConnectError",
    "Connector",
    "DebeziumBackend",
    "LacksHost",
    "connector_config",
    "database_script",
    "removal_script",
]
