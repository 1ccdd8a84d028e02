"""The consumer: its options, and from replies to deliveries."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.redis import fields
from django_broadcaster.backends.redis.address import CLIENT, Address
from django_broadcaster.backends.redis.cluster import Servers, servers
from django_broadcaster.backends.redis.commands import packed
from django_broadcaster.backends.redis.errors import parse, redirection, unavailable
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable

from ..base import Consumer, Delivery, ReceivedMessage
from .entries import BINARY_FIELD, STRUCTURED_FIELD, Entry, event_of, message_of
from .group import StreamGroup

TURN_SECONDS: Final = 0.05
"""The longest wait for one stream of a cluster if there are several, on different nodes."""


class RedisStreamConsumer(Consumer):
    """Reads streams as a member of a consumer group.

    Args:
        stream_name: The key of the stream, or a list of keys.
        group: The name of the consumer group. It is created if it is missing.
        start: Where a new group begins: "0" for the first entry that the stream has, "$" for the
            first one that is added later.
        body_field: The name of the field with the body. By default it is `cloud_event`, or `data`
            if an entry has no such field.
        claim_idle: Seconds after which the entries of another reader are claimed if `ordered` is
            False. If it is True, one receiver reads, and claims them at once.
        host, port, db: The server; or use `url`.
        url: The address of the server: `redis://`, `rediss://` for TLS, or `unix://`.
        username, password: The credentials, unless the URL has them.
        tls: True for an encrypted connection, or a dictionary of `ca_file`, `cert_file`,
            `key_file`, `verify` and `check_hostname`. It applies to sentinels as well.
        sentinels: The sentinels that know the master, `[(host, port), ...]`, instead of a server.
        sentinel_master: The name by which the sentinels know the master.
        sentinel_username, sentinel_password: The credentials for the sentinels.
        cluster: True if the server is a node of a cluster. The consumer learns the other nodes
            from it.
        startup_nodes: Further nodes to ask if that one is unavailable, `[(host, port), ...]`.
        connect_timeout: Seconds to wait for a connection.
        socket_timeout: Seconds to wait for the server each time that data is sent or read.
    """

    system: ClassVar[str] = "redis"
    client_library = CLIENT

    def __init__(
        self,
        *,
        group: str,
        stream_name: str | Sequence[str] = "events",
        start: str = "0",
        body_field: str | None = None,
        claim_idle: float = 60.0,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        url: str | None = None,
        sentinels: Sequence[tuple[str, int]] = (),
        sentinel_master: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        cluster: bool = False,
        startup_nodes: Sequence[tuple[str, int]] = (),
        connect_timeout: float = 5.0,
        socket_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        read = self.read
        self.streams = list(dict.fromkeys(read.one_or_more("stream_name", stream_name, "a name")))
        self.group = read.text("group", group)
        self.start = read.choice("start", start, ("0", "$"))
        self.body_field = fields.read_body_field(read, body_field)
        self.claim_idle = read.seconds("claim_idle", claim_idle)
        self.connect_timeout = read.seconds("connect_timeout", connect_timeout)
        self.socket_timeout = read.seconds("socket_timeout", socket_timeout)
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
        wanted = [body_field] if body_field else [STRUCTURED_FIELD, BINARY_FIELD]
        self._body_fields = [name.encode() for name in wanted]
        self._servers: Servers | None = None
        self._is_lost = False
        self._name = ""
        self._groups: dict[str, StreamGroup] = {}
        self._next_claim = 0.0

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and create the group on each stream that has none.

        Raises:
            BackendUnavailable: The server is unavailable, or does not permit it.
            BackendConfigurationError: A key is not a stream.
        """
        self.close()
        self._servers, self._is_lost = self._connect(), False
        try:
            self._begin()
            for group in self._groups.values():
                self._create(group)
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        """Disconnect. Redis keeps which entries are pending."""
        if self._servers is not None and not self._is_lost:
            with suppress(BackendUnavailable, BackendConfigurationError):
                for group in self._groups.values() if not self.ordered else ():
                    group.let_go()
                for group in self._groups.values():  # may need more than the user is permitted
                    group.forget()
        self._drop()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return what other readers have left, and then new entries, in the streams' order."""
        with self._renamed_if_interrupted():
            entries = self._receive(limit, time.monotonic() + seconds)
        return [
            self.delivery(message_of(each, self._body_fields), (each.stream, each.id))
            for each in entries
        ]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge entries, whichever reader holds them now: they are stored."""
        self._ask_each({
            stream: self._groups[stream].acknowledgement(ids)
            for stream, ids in _by_stream(deliveries).items()
        })  # fmt: skip

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Keep other readers from claiming these, which `claim_idle` permits without order."""
        if not self.ordered:
            self._ask_each({
                stream: self._groups[stream].refresh(ids)
                for stream, ids in _by_stream(deliveries).items()
            })  # fmt: skip

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the streams."""
        return [{"stream": each} for each in self.streams]

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read the fields that `RedisStreamBackend` writes; raises InvalidEvent."""
        return event_of(message, self.body_field)

    def health_check(self) -> bool:
        """Ping the server of the first stream over a new connection."""
        try:
            connected = self._connect(HEALTH_SECONDS)
            try:
                return connected.is_up(self.streams[0])
            finally:
                connected.close()
        except Exception as error:
            return parse(error)[0] == "NOPERM"

    def lag(self) -> int | None:
        """Return the number of entries that the group has not read yet.

        None if Redis can't tell: before version 7, or if entries were deleted.
        """
        total, name = 0, self.group.encode()
        for group in self._groups.values():
            (reply,) = self._ask(group.stream, packed("XINFO", "GROUPS", group.stream))
            known = [dict(zip(each[::2], each[1::2], strict=True)) for each in reply]
            lag = next((each.get(b"lag") for each in known if each[b"name"] == name), None)
            if lag is None:
                return None
            total += int(lag) + len(group)
        return total

    # --- Reading -----------------------------------------------------------------------------

    def _receive(self, limit: int, deadline: float) -> list[Entry]:
        if not self.ordered and time.monotonic() >= self._next_claim:
            self._next_claim = time.monotonic() + self.claim_idle / 2
            for group in self._groups.values():
                group.look_for_others()
        groups = self._groups.values()
        while True:
            entries: list[Entry] = []
            for group in groups:
                while group.has_older and len(entries) < limit:
                    entries += group.take(limit - len(entries))
            if entries:
                return entries
            left = max(0.0, deadline - time.monotonic())
            if entries := self._read(limit, min(left, self.socket_timeout / 2)):
                for surplus in entries[limit:]:  # there are more streams than `limit`
                    self._groups[surplus.stream].hold([surplus])
                return entries[:limit]
            if not left and not any(group.has_older for group in groups):
                return []

    def _read(self, limit: int, seconds: float) -> list[Entry]:
        """Read new entries of all streams, waiting for the first.

        If other readers hold entries, those are older: the new ones are held until those have been
        claimed.
        """
        if len(self.streams) == 1 or not self._address.cluster:
            return self._read_streams(self.streams, limit, seconds)
        for wait in (0.0, min(seconds, TURN_SECONDS)):
            self.streams.append(self.streams.pop(0))  # each one is first in turn
            if entries := self._read_streams(self.streams[:1], limit, wait):
                return entries
        return []

    def _read_streams(self, streams: Sequence[str], limit: int, seconds: float) -> list[Entry]:
        count = max(1, limit // len(streams))
        wait = ("BLOCK", max(1, int(seconds * 1000))) if seconds > 0 else ()
        read = packed(
            *("XREADGROUP", "GROUP", self.group, self._name, "COUNT", count, *wait),
            *("STREAMS", *streams, *[">"] * len(streams)),
        )
        groups = [self._groups[stream] for stream in streams]
        summaries = [group.summary for group in groups] if self.ordered else []
        reply, *pending = self._ask(streams[0], read, *summaries)
        found = {name.decode(): entries for name, entries in reply or ()}
        fresh: list[Entry] = []
        for group, summary in zip(groups, pending or [None] * len(groups), strict=True):
            stream = group.stream
            entries = [Entry(stream, *each) for each in found.get(stream, ())]
            if summary is not None and group.others(summary):
                group.look_for_others()
                group.hold(entries)
            else:
                fresh += entries
        return fresh

    def _begin(self) -> None:
        """Take a new name: what is pending under the former one will be claimed."""
        self._name = f"{socket.gethostname()}:{os.getpid()}:{self.alias}:{secrets.token_hex(4)}"
        idle = 0.0 if self.ordered else self.claim_idle
        self._groups = {
            stream: StreamGroup(stream, self.group, self._name, idle, self._ask)
            for stream in self.streams
        }
        self._next_claim = 0.0

    def _create(self, group: StreamGroup) -> None:
        """Create a group, unless it exists; a user that may not has to find one."""
        (reply,) = self._exchange(group.stream, group.creation(self.start))
        if not isinstance(reply, Exception) or (code := parse(reply)[0]) == "BUSYGROUP":
            return
        if code != "NOPERM":
            raise self._failure(reply, group.stream)
        self._ask(group.stream, group.summary)

    @contextmanager
    def _renamed_if_interrupted(self) -> Iterator[None]:
        """Take a new name after an error: entries of a lost reply are pending under this one."""
        try:
            yield
        except BaseException:
            self._begin()
            raise

    # --- The server --------------------------------------------------------------------------

    def _connect(self, within: float | None = None) -> Servers:
        limits = (self.socket_timeout, self.connect_timeout)
        timeout, connect_timeout = (min(each, within or each) for each in limits)
        return servers(self._address, timeout=timeout, connect_timeout=connect_timeout)

    def _drop(self) -> None:
        connected, self._servers = self._servers, None
        if connected is not None:
            connected.close()

    def _exchange(self, stream: str, *commands: bytes) -> list[Any]:
        """Send commands in one round trip, and return their replies; errors are values."""
        if self._servers is None:
            raise BackendUnavailable(f"consumer {self.alias!r} is closed")
        try:
            connection = self._servers.connection_of(stream)
            return connection.ask(b"".join(commands), len(commands))
        except BackendUnavailable:
            self._is_lost = True
            raise

    def _ask(self, stream: str, *commands: bytes) -> list[Any]:
        """Send commands, and return their replies; raises the error of one of them."""
        replies = self._exchange(stream, *commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._failure(reply, stream)
        return replies

    def _ask_each(self, commands: Mapping[str, bytes]) -> None:
        """Send a command for each stream, in one round trip unless they are on several nodes."""
        if self._address.cluster:
            for stream, command in commands.items():
                self._ask(stream, command)
        elif commands:
            self._ask(next(iter(commands)), *commands.values())

    def _failure(self, error: Exception, stream: str) -> Exception:
        """Return what an error reply means; `error` is its cause."""
        if parse(error)[0] == "WRONGTYPE":
            failure = self.option_error("stream_name", f"the key {stream!r} is not a stream")
            failure.__cause__ = error
            return failure
        if redirection(error) is not None and self._servers is not None:
            self._servers.lost()  # another node has the stream now
        return unavailable(f"{self._address.place}, stream {stream!r}", error)


def _by_stream(deliveries: Sequence[Delivery]) -> dict[str, list[bytes]]:
    ids: dict[str, list[bytes]] = {}
    for delivery in deliveries:
        stream, entry_id = delivery.receipt
        ids.setdefault(stream, []).append(entry_id)
    return ids
