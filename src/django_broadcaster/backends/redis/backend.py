"""The backend: its options, and from messages to chunks of entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Final

from django_broadcaster.exceptions import (
    DeliveryError,
    Rejected,
)

from ..base import Message, Shown, as_delivery_error
from ..bindings import REDIS, STRUCTURED_TYPE, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..names import escape_stream
from ..options import OptionReader
from ..outcomes import MessageBatch
from . import entries, fields
from .address import CLIENT, Address
from .cluster import Servers, servers
from .connection import Entry
from .errors import failure, parse
from .sender import Sender

EXCHANGE_BYTES: Final = 8 * 2**20
"""Bytes after which a batch is split into several transactions.

The server holds a transaction in memory until EXEC. If that is too much, it closes the connection
(`client-query-buffer-limit`).
"""

LONGEST: Final = 2**63 - 1
"""The most that Redis takes for the length of a stream."""


class RedisStreamBackend(ConnectedBackend[Servers], BindingBackend):
    """Appends events to a stream.

    Args:
        host, port, db: The server; or use `url`.
        url: The address of the server: `redis://`, `rediss://` for TLS, or `unix://`.
        username, password: The credentials, unless the URL has them.
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`. It applies to sentinels as well.
        stream_name: The key of the stream, a template of `{type}`, `{source}`, `{subject}` and
            `{key}`.
        max_len: The approximate number of entries that the stream keeps, read or not (`MAXLEN ~`).
            None trims nothing.
        content_mode: "structured" or "binary".
        body_field: The name of the field with the body. By default it is `cloud_event`, and `data`
            in binary mode. Dapr and FastStream read `data`.
        sentinels: The sentinels that know the master, `[(host, port), ...]`, instead of a server.
        sentinel_master: The name by which the sentinels know the master.
        sentinel_username, sentinel_password: The credentials for the sentinels.
        cluster: True if the server is a node of a cluster. The backend learns the other nodes from
            it.
        startup_nodes: Further nodes to ask if that one is unavailable, `[(host, port), ...]`.
        wait_replicas: The number of replicas that must have an event before it counts as delivered.
        connect_timeout: Seconds to wait for a connection.
        socket_timeout: Seconds to wait for the server each time that data is sent or read.

    The `publisher_config` of an event may have `stream_name`, as plain text, and `max_len`. Its
    other items become further fields of the entry.

    A batch is one transaction (MULTI, EXEC) in one round trip. If the server is full, refuses a
    command or loses the connection, it stores all of a batch or nothing. So no event overtakes an
    earlier one of its key. A batch over `EXCHANGE_BYTES` is several transactions. In a cluster
    there is a transaction for each stream, and one round trip to all nodes at once.
    """

    system: ClassVar[str] = "redis"
    runs_alone = True
    client_library = CLIENT
    binding: Binding = REDIS
    config_keys: ClassVar[frozenset[str]] = fields.OPTIONS

    default_max_message_bytes: ClassVar[int | None] = 512 * 2**20 - 2**16
    """Redis' default for `proto-max-bulk-len`, less some slack. A server's lower one is obeyed
    where it may be asked for (`+config|get`); else set `max_message_bytes` to it."""

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        url: str | None = None,
        stream_name: str = "events",
        max_len: int | None = 10_000,
        body_field: str | None = None,
        sentinels: Sequence[tuple[str, int]] = (),
        sentinel_master: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        cluster: bool = False,
        startup_nodes: Sequence[tuple[str, int]] = (),
        wait_replicas: int = 0,
        connect_timeout: float = 5.0,
        socket_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        if config is not None:  # the documented form, which subclasses call
            RedisStreamBackend.__init__(self, **{"alias": "default", **config, **options})
            return
        super().__init__(**options)
        read = self.read
        self.stream_name = stream_name
        self._template = read.template("stream_name", stream_name, escape_stream)
        self.max_len = read.integer("max_len", max_len, 1, LONGEST, optional=True)
        self.body_field = fields.read_body_field(read, body_field)
        self.connect_timeout = read.seconds("connect_timeout", connect_timeout)
        self.socket_timeout = read.seconds("socket_timeout", socket_timeout)
        self.wait_replicas = read.integer("wait_replicas", wait_replicas, 0)
        self._address = Address.read(
            read,
            host=host,
            port=port,
            db=db,
            url=url,
            username=username,
            password=password,
            tls=tls,
            sentinels=sentinels,
            sentinel_master=sentinel_master,
            sentinel_username=sentinel_username,
            sentinel_password=sentinel_password,
            cluster=cluster,
            startup_nodes=startup_nodes,
        )
        self.may_be_away_in_part = cluster
        self._constant = self._template.constant
        self._event_field = (body_field or "cloud_event").encode()
        self._data_field = body_field or "data"
        self._limit = self.max_message_bytes or 0

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Servers:
        """Return what knows where streams are; it connects at first use. Raises MissingClient."""
        return servers(
            self._address,
            timeout=min(self.socket_timeout, within),
            connect_timeout=min(self.connect_timeout, within),
            replicas=self.wait_replicas,
        )

    def prepare(self, connection: Servers) -> None:
        """Check that the server lets us work; raises BackendUnavailable."""
        connection.open(self._constant)

    def deliver(self, batch: MessageBatch, connection: Servers) -> None:
        """Append the events of a batch in order."""
        self._limit = min(filter(None, (self.max_message_bytes, connection.limit)))
        for end, chunk in self._chunks(batch):
            stop = Sender(connection, batch, self._failure).run(chunk)
            if stop is not None:
                batch.give_up(range(end, len(batch.messages)), stop)
                return

    def is_up(self, connection: Servers) -> bool:
        """Ping the server; with sentinels or a cluster, each server that has to be asked.

        A user that may do no more than publish is refused by a server that is up.
        """
        try:
            return connection.is_up(self._constant)
        except Exception as error:
            return parse(error)[0] == "NOPERM"

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge `stream_name`, `max_len` and the further fields; raises InvalidPublisherConfig."""
        if "stream_name" in config:
            self.read_config.text("stream_name", config["stream_name"])
        if "max_len" in config:
            self.read_config.integer("max_len", config["max_len"], 1, LONGEST, optional=True)
        self._check_fields(self.read_config, config)
        largest, limit = fields.packed(config).largest, self.max_message_bytes or 0
        if largest > limit:
            problem = f"has a field of {largest} bytes, over the limit of {limit}"
            self.read_config.refuse("publisher_config", problem)

    def _check_fields(self, read: OptionReader, config: Mapping[str, Any]) -> None:
        binary = self.content_mode == "binary"
        fields.check(read, config, binary=binary, body_field=self.body_field)

    def show(self, message: Message) -> Shown:
        """Return the fields of the entry; the body is that of `body_field`."""
        stream, _ = self._command(message)
        wire = self.encode(message)
        structured = wire.content_type == STRUCTURED_TYPE
        time = entries.timestamp(message.time).decode()
        shown = {
            "event_id": message.event_id,
            "event_type": message.event_type,
            "source": message.source,
            "timestamp": time if structured else wire.headers.get("ce_time", ""),
            **wire.headers,
        }
        if wire.content_type and not structured:
            shown["content_type"] = wire.content_type
        shown |= fields.further(message.config)
        max_len = message.config.get("max_len", self.max_len)
        return Shown({"stream": stream, "max_len": max_len}, shown, wire.body)

    # --- From messages to chunks -------------------------------------------------------------

    def _chunks(self, batch: MessageBatch) -> Iterator[tuple[int, list[Entry]]]:
        """Yield what is sent together, with the index after it.

        The caller delivers a chunk before it asks for the next. A message that cannot be sent gets
        its outcome here. In one chunk, all events of a key are for the same stream. If Redis
        refuses one only at EXEC (a key that is not a stream), it refuses all of them. With
        different streams, later events would be stored by then.
        """
        chunk: list[Entry] = []
        size = 0
        streams: dict[str, str] = {}
        for index, message in enumerate(batch.messages):
            try:
                stream, command = self._command(message)
            except Exception as error:
                batch.fail(index, as_delivery_error(error))
                continue
            key = message.partition_key
            elsewhere = streams.get(key, stream) != stream
            if chunk and (elsewhere or size + len(command) > EXCHANGE_BYTES):
                yield index, chunk
                chunk, size, streams = [], 0, {}
            if batch.hold_after_failure(index):
                continue
            chunk.append((index, command, stream))
            size += len(command)
            if key:
                streams[key] = stream
        if chunk:
            yield len(batch.messages), chunk

    def _command(self, message: Message) -> tuple[str, bytes]:
        """Return the stream and the packed XADD; raises Rejected for one that can't be sent."""
        stream, max_len = self._constant or self._template.render(message), self.max_len
        more = fields.NONE
        if message.config:
            stream = message.config.get("stream_name", stream)
            max_len = message.config.get("max_len", max_len)
            more = self._further(message.config)
        if self.binding.is_structured(message, self.content_mode):
            body = message.to_json()
            command = entries.structured(stream, max_len, message, body, self._event_field, more)
            headers: Mapping[str, str] = {}
        else:
            wire = self.encode(message)
            command = entries.binary(stream, max_len, message, wire, self._data_field, more)
            body, headers = wire.body or b"", wire.headers
        if len(command) > self._limit:  # then one of its parts may be
            texts = (len(text.encode()) for text in headers.values())
            largest = max(len(body), more.largest, *texts)
            if largest > self._limit:
                raise self._too_large(largest)
        return stream, command

    def _further(self, config: Mapping[str, Any]) -> fields.Further:
        """Return an event's further fields; raises Rejected for what no publish call has judged.

        Such a row is written by other means, or before the backend's content mode was changed.
        """
        self._check_fields(self.read_message_config, config)
        return fields.packed(config)

    def _too_large(self, size: int) -> Rejected:
        return Rejected(
            f"the event takes {size} bytes, over the limit of {self._limit}: the lower of "
            "the backend's max_message_bytes and the server's proto-max-bulk-len"
        )

    def _failure(self, error: Exception, place: str, message: Message) -> DeliveryError:
        """Return what an error reply to one XADD means; `error` is its cause."""
        named = message.config.get("stream_name")
        stream = named or self._constant or self._template.render(message)
        return failure(error, place, stream, shared=stream == self._constant)
