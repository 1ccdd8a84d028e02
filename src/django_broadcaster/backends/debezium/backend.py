"""The backend: its options, and how it writes events into the WAL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster import encryption
from django_broadcaster.events import TRACEPARENT, TRACESTATE
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Rejected,
)

from ..base import Message
from ..bindings import KAFKA, STRUCTURED_TYPE, Binding, BindingBackend, WireMessage
from ..in_database import InDatabaseBackend
from ..kafka.names import topic_problem
from ..names import escape_topic

CONTENT_TYPE: Final = "content-type"

_ATTRIBUTES: Final = (
    *("specversion", "id", "source", "type", "subject", "time", "dataschema"),
    *("partitionkey", TRACEPARENT, TRACESTATE),
)
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,20}")
_SLOT: Final = re.compile(r"[a-z0-9_]{1,63}")
_NOT_IN_SLOT: Final = re.compile(r"[^a-z0-9_]")

_USABLE: Final = (
    "SELECT FROM pg_replication_slots WHERE slot_name = %s AND database = current_database() "
    "AND confirmed_flush_lsn IS NOT NULL AND wal_status <> 'lost'"
)
"""A slot that keeps what is written now.

A slot decodes the WAL of its own database only. While it is being created, it has no position yet,
and would skip what is committed meanwhile.
"""

_WRITE: Final = (
    "SELECT COUNT(pg_logical_emit_message(true, %s, message::text)) "  # noqa: S608  # constants
    f"FROM json_array_elements(%s::json) AS each (message) WHERE EXISTS ({_USABLE})"
)
"""Writes messages in order, as part of the transaction; none if the slot would not keep them."""


class DebeziumBackend(InDatabaseBackend, BindingBackend):
    """Hands events to Debezium's PostgreSQL connector, in the transaction that publishes them.

    Args:
        topic: The topic, a template of `{type}`, `{source}`, `{subject}` and `{key}`.
        content_mode: "structured" or "binary".
        extensions: In binary mode, the extensions that become headers, besides `partitionkey`,
            `traceparent` and `tracestate`. The connector's configuration lists them.
        slot: The name of the replication slot, and of the publication, the connector and the prefix
            of its topics. The default is `broadcaster_` and the alias.
        max_wal_bytes: The WAL that the slot may retain before the backend is unhealthy.

    The `publisher_config` of an event may have `topic`.

    In binary mode, events that the connector can't write in this mode go structured: events with
    another extension, and events whose data are not text in UTF-8.
    """

    system: ClassVar[str] = "kafka"
    binding: Binding = KAFKA
    config_keys: ClassVar[frozenset[str]] = frozenset({"topic"})
    default_max_message_bytes: ClassVar[int | None] = 1_000_000
    """As for the Kafka backend: a record that Kafka refuses would stop the connector."""

    def __init__(
        self,
        *,
        topic: str = "events",
        extensions: Sequence[str] = (),
        slot: str | None = None,
        max_wal_bytes: int = 2**30,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if encryption.is_on():
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{self.alias!r}]: DebeziumBackend can't be combined with "
                "OUTBOX_ENCRYPTION_KEYS, because Kafka Connect can't decrypt events; use "
                "KafkaBackend, or remove the keys"
            )
        self._template = self.read.template("topic", topic, escape_topic, topic_problem)
        self.read.text("slot", slot, optional=True)
        self.slot = slot or f"broadcaster_{_NOT_IN_SLOT.sub('_', self.alias.lower())}"[:63]
        rule = "1 to 63 lowercase letters, digits and '_'"
        self.read.require("slot", slot, _SLOT.fullmatch(self.slot) is not None, rule)
        self.max_wal_bytes = self.read.integer("max_wal_bytes", max_wal_bytes, 1)
        self.read.strings("extensions", extensions)
        for name in extensions:
            if not _EXTENSION.fullmatch(name):
                self.read.refuse("extensions", f"has {name!r}, which is not [a-z0-9]{{1,20}}")
        attributes = dict.fromkeys([*_ATTRIBUTES, *extensions])
        traces = (TRACEPARENT, TRACESTATE)
        self.headers = (CONTENT_TYPE, *map(self._header, attributes), *traces)
        """The headers that a record may have."""
        self._known = frozenset(self.headers)
        self._limit = self.max_message_bytes or 0

    def _header(self, attribute: str) -> str:
        return self.binding.prefix + attribute

    # --- The contract ------------------------------------------------------------------------

    def check_database(self, connection: BaseDatabaseWrapper) -> None:
        """Raise BackendConfigurationError unless this is PostgreSQL."""
        if connection.vendor != "postgresql":
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{self.alias!r}]: DebeziumBackend needs PostgreSQL; database "
                f"{connection.alias!r} is {connection.display_name}"
            )

    def prepare(self, message: Message) -> str:
        """Return the record as JSON in ASCII; raises Rejected."""
        wire = self.encode(message)
        topic = message.config.get("topic") or self._template.render(message)
        if problem := topic_problem(topic):
            raise Rejected(f"topic: {problem}")
        headers = _headers(wire)
        size = len(wire.body or b"") + sum(len((k + v).encode()) for k, v in headers.items())
        if size > self._limit:
            raise Rejected(
                f"the event takes {size} bytes, over the backend's max_message_bytes of "
                f"{self._limit}"
            )
        record = {
            "id": message.event_id,
            "topic": topic,
            "key": message.partition_key or None,
            "value": None if wire.body is None else wire.body.decode(),
        }
        # In ASCII: the connector decodes it in the encoding that its operating system prefers.
        return json.dumps(record | headers, separators=(",", ":"))

    def write(self, prepared: Sequence[str], connection: BaseDatabaseWrapper) -> None:
        """Write records into the WAL; raises BackendUnavailable if the slot would lose them."""
        with connection.cursor() as cursor:
            cursor.execute(_WRITE, [self.slot, f"[{','.join(prepared)}]", self.slot])
            (written,) = cursor.fetchone()
        if written != len(prepared):
            raise BackendUnavailable(
                f"the replication slot {self.slot!r} of database {connection.alias!r} does not "
                "exist, is not ready or was invalidated; create it with the script that "
                f"manage.py outbox_debezium {self.alias} --sql prints"
            )

    def health_check(self) -> bool:
        """Return True if the slot keeps events."""
        try:
            with connections[self.using].cursor() as cursor:
                cursor.execute(f"SELECT EXISTS ({_USABLE})", [self.slot])
                return bool(cursor.fetchone()[0])
        except Error:
            return False

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong topic."""
        super().validate_config(config)
        if "topic" in config:
            self.read_config.check("topic", topic_problem(config["topic"]))

    # --- Records -----------------------------------------------------------------------------

    def destination_of(self, message: Message) -> Mapping[str, Any]:
        """Return where the message goes, for `show`."""
        topic = message.config.get("topic") or self._template.render(message)
        return {"topic": topic, "key": message.partition_key or None}

    def encode(self, message: Message) -> WireMessage:
        """Return the message as it is written; raises Rejected."""
        wire = super().encode(message)
        if wire.content_type == STRUCTURED_TYPE:
            return wire
        if _headers(wire).keys() <= self._known and _is_text(wire.body):
            return wire
        return self.binding.encode(message, "structured")


def _headers(wire: WireMessage) -> dict[str, str]:
    return {CONTENT_TYPE: wire.content_type, **wire.headers} if wire.content_type else wire.headers


def _is_text(body: bytes | None) -> bool:
    """Return True if the body is UTF-8, as is everything that the connector writes."""
    try:
        return body is None or isinstance(body.decode(), str)
    except UnicodeDecodeError:
        return False
