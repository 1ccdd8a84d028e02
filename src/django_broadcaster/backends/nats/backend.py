"""The backend for NATS JetStream; what it sends is in the docstring of the package."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil, inf
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django_broadcaster.exceptions import Rejected

from ..base import Message, Shown
from ..bindings import (
    NATS,
    STRUCTURED_TYPE,
    Binding,
    BindingBackend,
    WireMessage,
)
from ..connected import ConnectedBackend
from ..expiry import seconds_left
from ..names import escape_subject, percent_encoded
from ..outcomes import MessageBatch
from .address import DEFAULT_SERVERS, Address
from .connection import CLIENT, Connection, Outgoing
from .names import any_overlaps, length_problem, read_name, subject_problem, wildcard
from .sender import Sender

if TYPE_CHECKING:
    from nats.js.api import StreamInfo

LONGEST_TTL: Final = 2**31
"""Seconds: what expires later than that is sent without a time to live."""


class NATSBackend(ConnectedBackend[Connection], BindingBackend):
    """Publishes events to a stream of JetStream.

    Args:
        servers: One URL, or a list of those of one cluster: `nats://`, `tls://`, or with aiohttp
            `ws://`, `wss://`.
        username, password: The credentials, unless a URL has them.
        token, user_credentials, nkeys_seed, nkeys_seed_str, inbox_prefix: As in nats-py.
        tls: True for an encrypted connection, a dictionary of `ca_file`, `cert_file`, `key_file`,
            `verify` and `check_hostname`, or an `ssl.SSLContext`.
        tls_hostname, tls_handshake_first: As in nats-py.
        stream: The name of the stream. No other stream gets the events.
        subject: The subject, a template of `{type}`, `{source}`, `{subject}` and `{key}`.
        content_mode: "structured" or "binary".
        create_stream: Whether to create the stream if it is missing. An existing stream is never
            changed.
        stream_config: More of nats-py's `StreamConfig` for a stream that is created, such as
            `max_age`.
        timeout: Seconds to wait for a connection, and for the next answer while a batch is
            in flight.

    The `publisher_config` of an event may have `subject`, as plain text.

    A batch of many keys is about one round trip. An event of a key is sent when the one before is
    acknowledged: see `sender`.
    """

    system: ClassVar[str] = "nats"
    runs_alone = True
    client_library = CLIENT
    uses_event_loop = True
    binding: Binding = NATS
    config_keys: ClassVar[frozenset[str]] = frozenset({"subject"})

    default_max_message_bytes: ClassVar[int | None] = 2**20 - 2**12
    """NATS' default for `max_payload`, less some room for headers. A lower one of the server, or of
    the stream, is obeyed: such an event is rejected."""

    def __init__(
        self,
        *,
        servers: str | Sequence[str] = DEFAULT_SERVERS,
        stream: str = "EVENTS",
        subject: str = "events.{type}",
        create_stream: bool = False,
        stream_config: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        user_credentials: str | None = None,
        nkeys_seed: str | None = None,
        nkeys_seed_str: str | None = None,
        inbox_prefix: str | None = None,
        tls: bool | Mapping[str, Any] | SSLContext = False,
        tls_hostname: str | None = None,
        tls_handshake_first: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.address = Address(
            self.read,
            servers=servers,
            timeout=timeout,
            username=username,
            password=password,
            token=token,
            user_credentials=user_credentials,
            nkeys_seed=nkeys_seed,
            nkeys_seed_str=nkeys_seed_str,
            inbox_prefix=inbox_prefix,
            tls=tls,
            tls_hostname=tls_hostname,
            tls_handshake_first=tls_handshake_first,
        )
        self.stream = read_name(self.read, "stream", stream)
        self.subject = subject
        self._template = self.read.template("subject", subject, escape_subject, subject_problem)
        self.read.check("subject", length_problem(self._template))
        self._wildcard = wildcard(self._template)
        self.create_stream = self.read.flag("create_stream", create_stream)
        self.stream_config = self._read_stream_config(stream_config)
        self._first_headers = f"NATS/1.0\r\nNats-Expected-Stream: {stream}\r\n"
        self._limit = sys.maxsize  # until the server has said
        self._takes_ttl = False

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or MissingClient."""
        return self.address.connect(within)

    def prepare(self, connection: Connection) -> None:
        """Check that the stream is there and takes our subjects; create it if that is set."""
        connection.run(self._check_stream(connection))

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Publish the messages of a batch.

        What is sent again within the stream's duplicate window is dropped and acknowledged.
        """
        try:
            connection.run(self._send(batch, connection))
        finally:
            if connection.is_lost:
                self.drop()

    async def _send(self, batch: MessageBatch, connection: Connection) -> None:
        sender = Sender(batch, connection, self.stream, self._outgoing, self.on_progress)
        await sender.run()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong subject."""
        super().validate_config(config)
        if "subject" in config:
            self.read_config.text("subject", config["subject"])
            self.read_config.check("subject", subject_problem(config["subject"]))

    # --- From messages to NATS' terms --------------------------------------------------------

    def show(self, message: Message) -> Shown:
        """Return the message as it is stored, with the id by which a repetition is dropped."""
        sent = self._outgoing(message)
        lines = sent.headers.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        destination = {"stream": self.stream, "subject": sent.subject}
        return Shown(destination, headers, self.encode(message).body)

    def _outgoing(self, message: Message) -> Outgoing:
        """Return the message in NATS' terms; raises Rejected for one that is too large."""
        wire = self.encode(message)
        body = wire.body or b""
        if len(body) > (self.max_message_bytes or len(body)):
            raise Rejected(
                f"the event takes {len(body)} bytes, over the limit of {self.max_message_bytes}: "
                "the backend's max_message_bytes"
            )
        subject, is_own = self._template.render(message), self._template.is_constant
        if message.config:
            is_own = is_own and "subject" not in message.config
            subject = message.config.get("subject", subject)
        headers = self._headers(wire, message, subject)
        size = len(body) + len(headers)
        if size > self._limit:
            raise Rejected(
                f"the event takes {size} bytes with its headers, over the limit of {self._limit}: "
                "the lower of the server's max_payload and the stream's limits"
            )
        return Outgoing(subject, headers, body, is_own)

    def _headers(self, wire: WireMessage, message: Message, subject: str) -> bytes:
        """Return the headers as they are sent, with the lines around them."""
        more = "".join(f"{name}: {value}\r\n" for name, value in wire.headers.items())
        if more.count("\n") != len(
            wire.headers
        ):  # only a row that was tampered with has such names
            raise Rejected("an attribute has a line break in its name")
        if wire.content_type == STRUCTURED_TYPE:
            more = f"Content-Type: {STRUCTURED_TYPE}\r\n{more}"
        if self._takes_ttl and (left := seconds_left(message, LONGEST_TTL)) is not None:
            more += f"Nats-TTL: {max(1, ceil(left))}\r\n"
        message_id = percent_encoded(message.event_id)
        place = _digest(message.source, subject)
        return f"{self._first_headers}{more}Nats-Msg-Id: {message_id}:{place}\r\n\r\n".encode()

    # --- The connection ----------------------------------------------------------------------

    async def _check_stream(self, connection: Connection) -> None:
        """Check that the stream stores what we publish, and learn its limits."""
        subjects = self._wildcard
        stream = await connection.stream_info(self.stream)
        if stream is None and self.create_stream:
            wanted = {**self.stream_config, "name": self.stream, "subjects": [subjects]}
            stream = await self._make_stream(connection, wanted)
        if stream is None:
            raise connection.unavailable(
                f"no stream {self.stream!r}; create it, or set the option 'create_stream' to True"
            )
        config = stream.config
        taken = config.subjects or []
        if not any_overlaps(taken, subjects):
            raise connection.unavailable(
                f"stream {self.stream!r} takes {taken}, not {self.subject!r}"
            )
        if config.no_ack or config.sealed:
            problem = "acknowledges nothing (no_ack)" if config.no_ack else "is sealed"
            raise connection.unavailable(f"stream {self.stream!r} {problem}")
        self._takes_ttl = bool(getattr(config, "allow_msg_ttl", False))
        limits = (connection.max_payload, config.max_msg_size, config.max_bytes)
        self._limit = min(limit for limit in limits if limit and limit > 0)

    async def _make_stream(self, connection: Connection, wanted: Mapping[str, Any]) -> StreamInfo:
        try:
            return await connection.add_stream(wanted)
        except TypeError as error:
            problem = f"is not accepted by nats-py's StreamConfig: {error}"
            raise self.option_error("stream_config", problem) from error

    # --- Options -----------------------------------------------------------------------------

    def _read_stream_config(self, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
        config = self.read.mapping("stream_config", given, optional=True) or {}
        self.read.together("stream_config", config, "create_stream", self.create_stream)
        for key in config.keys() & {"name", "subjects"}:
            problem = f"must not have {key!r}, which follows from 'stream' and 'subject'"
            self.read.refuse("stream_config", problem)
        if self.create_stream and self._wildcard.startswith((">", "*")):
            problem = "needs a 'subject' that begins with a word of its own and a dot"
            self.read.refuse("create_stream", problem)
        return config


@lru_cache(4096)
def _digest(source: str, subject: str) -> str:
    """Return what tells messages with one event id apart: a source and a subject, in short."""
    return blake2b(f"{source}\n{subject}".encode(), digest_size=12).hexdigest()
