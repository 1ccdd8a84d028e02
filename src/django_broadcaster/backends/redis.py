"""Redis Streams: every event becomes one entry of a stream.

    event_id, event_type, source   as published
    timestamp                      the event's time, RFC 3339 in UTC with `Z`; empty if it has none
    cloud_event                    the event in the CloudEvents JSON format (structured mode)

Needs Redis 5 or newer and, where ACLs are used, a user with `+xadd +multi +exec` on its streams.
An acknowledged entry is as durable as the server is set up to make it (`appendonly`,
`appendfsync`, `min-replicas-to-write`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ssl import VerifyMode
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    InvalidPublisherConfig,
    MissingClient,
    Rejected,
    TransientError,
)

from .base import Message, Outcome, PublisherBackend, as_delivery_error
from .batch import Batch

HEALTH_SECONDS = 1.0
"""The longest that a health check waits for a connection, and again for the answer."""

EXCHANGE_BYTES = 8 * 2**20
"""Where a batch is split into several transactions: the server holds one in memory until EXEC, and
cuts the connection of a client that makes it hold too much (`client-query-buffer-limit`)."""

# Commands as they go over the wire: https://redis.io/docs/latest/develop/reference/protocol-spec/
# Packing them here and reading the replies off the connection takes a third of the time that
# redis-py's pipeline takes, and tells which commands of a refused transaction were at fault.
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"
_GET_LIMIT = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$18\r\nproto-max-bulk-len\r\n"
_XADD = (  # after its head
    b"%b$8\r\nevent_id\r\n$%d\r\n%b\r\n$10\r\nevent_type\r\n$%d\r\n%b\r\n$6\r\nsource\r\n$%d\r\n%b\r\n"
    b"$9\r\ntimestamp\r\n$%d\r\n%b\r\n$11\r\ncloud_event\r\n$%d\r\n%b\r\n"
)

# Errors that any event would meet: the server is full, read-only, cannot persist, ...
_UNAVAILABLE = frozenset({
    "BUSY", "CLUSTERDOWN", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS",
    "OOM", "READONLY",
})  # fmt: skip
# Errors about the stream that was asked for: not permitted, or on another node of a cluster.
_MISPLACED = frozenset({"ASK", "CROSSSLOT", "MOVED", "NOPERM"})
# redis-py takes the code off the text where it has an exception for it.
_CODES = {
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}

_Chunk = list[tuple[int, bytes]]  # (index in the batch, packed XADD)


class RedisStreamBackend(PublisherBackend):
    """Appends events to a stream.

    host, port, db: the server; or `url` instead (`redis://`, `rediss://` for TLS, `unix://`).
    username, password: where the server wants them, and the URL has none.
    stream_name: the key of the stream, for events whose `publisher_config` names no other.
    max_len: about how many entries the stream keeps (`MAXLEN ~`); None trims nothing.
    timeout: seconds to wait for the server, each time that data is sent or read.
    connect_timeout: seconds to wait for a connection.
    ssl, ssl_*: TLS, in redis-py's own terms.

    `publisher_config` of an event may have `stream_name` and `max_len`.

    A batch goes in one round trip, as a transaction (MULTI, EXEC): the server takes all of it or
    nothing when it is full, refuses a command or loses the connection in the middle, so no event
    overtakes an earlier one of its key. A batch over `EXCHANGE_BYTES` is several transactions.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset({"stream_name", "max_len"})

    default_max_message_bytes: ClassVar[int | None] = 512 * 2**20 - 2**16
    """Redis' default for `proto-max-bulk-len`, less some slack. A server's lower one is obeyed
    where it may be asked for (`+config|get`); else set `max_message_bytes` to it."""

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        url: str | None = None,
        stream_name: str = "events",
        max_len: int | None = None,
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
        ssl: bool = False,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_cert_reqs: str | VerifyMode = "required",
        ssl_check_hostname: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.stream_name = stream_name
        self.max_len = max_len
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._url = url
        self._server = {"host": host, "port": port, "db": db}
        self._login = {"username": username, "password": password}
        self._ssl = ssl
        self._tls = {
            "ssl_ca_certs": ssl_ca_certs,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
            "ssl_cert_reqs": ssl_cert_reqs,
            "ssl_check_hostname": ssl_check_hostname,
        }
        for option, problem in self._problems():
            raise self.option_error(option, problem)
        self._client: Any = None
        self._limit = self.max_message_bytes or 0
        self._default_head = _head(stream_name, max_len)

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and see that the server lets us work; raises BackendUnavailable."""
        self.close()
        try:
            self._client = self._new_client(self.timeout, self.connect_timeout)
            self._greet()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; the next publish connects again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def publish(self, message: Message) -> None:
        """Append one event; raises its DeliveryError."""
        (outcome,) = self.publish_batch([message])
        if outcome is not None:
            raise outcome

    def publish_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Append events in order; one outcome for each. Raises MissingClient, and nothing else.

        After a timeout, or a connection that broke before the answer, the transaction may have
        been carried out all the same: unavailable, and sent again it makes duplicates.
        """
        batch = Batch(messages)
        settled = 0  # messages before this one have their outcome
        try:
            if self._client is None:
                self.open()
            for end, chunk in self._chunks(batch):
                stop = self._deliver(chunk, batch)
                settled = end
                if stop is not None:
                    raise stop
        except BackendUnavailable as error:
            batch.give_up(settled, error)
        return batch.outcomes

    def health_check(self) -> bool:
        """Ping the server over a connection of its own, within about `HEALTH_SECONDS`."""
        try:
            timeout = min(self.timeout, HEALTH_SECONDS)
            with self._new_client(timeout, min(self.connect_timeout, HEALTH_SECONDS)) as client:
                return bool(client.ping())
        except Exception as error:
            # A user that may do no more than publish is refused by a server that is up.
            return _parse(error)[0] == "NOPERM"

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge `stream_name` and `max_len` too; raises InvalidPublisherConfig."""
        super().validate_config(config)
        for key, problem in _stream_problems(config):
            raise InvalidPublisherConfig(f"{key!r} {problem}", self.alias)

    # --- From messages to chunks -------------------------------------------------------------

    def _chunks(self, batch: Batch) -> Iterator[tuple[int, _Chunk]]:
        """Yield what goes in one transaction each, with the index behind it.

        The caller delivers a chunk before it asks for the next. A message that cannot be sent gets
        its outcome here. In one chunk, all events of a key are for the same stream: what Redis
        refuses only as it executes (a key that is no stream) it then refuses for all of them. Were
        the streams different, the later events would be stored by then, for good.
        """
        chunk: _Chunk = []
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
            if key in batch.blocked:
                batch.hold(index)
                continue
            chunk.append((index, command))
            size += len(command)
            if key:
                streams[key] = stream
        if chunk:
            yield len(batch.messages), chunk

    def _command(self, message: Message) -> tuple[str, bytes]:
        """Return the stream and the packed XADD; raises Rejected for one that is too large."""
        body = message.to_json()
        if len(body) > self._limit:
            raise Rejected(
                f"the event takes {len(body)} bytes, over the limit of {self._limit}: the lower of "
                "the backend's max_message_bytes and the server's proto-max-bulk-len"
            )
        stream, head = self.stream_name, self._default_head
        if message.config:
            stream = message.config.get("stream_name", stream)
            head = _head(stream, message.config.get("max_len", self.max_len))
        event_id, event_type = message.event_id.encode(), message.type.encode()
        source, time = message.source.encode(), _timestamp(message.time)
        return stream, _XADD % (
            head, len(event_id), event_id, len(event_type), event_type, len(source), source,
            len(time), time, len(body), body,
        )  # fmt: skip

    # --- From chunks to outcomes -------------------------------------------------------------

    def _deliver(self, chunk: _Chunk, batch: Batch) -> BackendUnavailable | None:
        """Send a chunk; return the error after which nothing further may be sent.

        Raises BackendUnavailable when nothing of it is known to be stored. A transaction that was
        refused for some of its commands stored nothing: it is sent again without them, and without
        the later events of their keys.
        """
        stop = None
        while chunk:
            stored, errors = self._exchange([command for _, command in chunk])
            if stored and not any(errors):
                break
            again: _Chunk = []
            for (index, command), error in zip(chunk, errors, strict=True):
                message = batch.messages[index]
                if error is not None:
                    failure = self._failure(error, message)
                    if isinstance(failure, BackendUnavailable):
                        if not stored:
                            raise failure
                        stop = failure
                    batch.fail(index, failure)
                elif not stored and message.partition_key in batch.blocked:
                    batch.hold(index)
                elif not stored:
                    again.append((index, command))
            chunk = again
        return stop

    def _exchange(self, commands: list[bytes]) -> tuple[bool, list[Exception | None]]:
        """Run commands as one transaction, in one round trip.

        Returns whether it was executed, and for each command its error or None. Raises
        BackendUnavailable for all that no single command is to blame for.
        """
        packed = b"".join((_MULTI, *commands, _EXEC))
        replies = self._round_trip(packed, len(commands) + 2)
        begun, queued, executed = replies[0], replies[1 : len(commands) + 1], replies[-1]
        if isinstance(executed, list):
            return True, _errors(executed)
        if isinstance(begun, Exception):
            # Only if the permission for MULTI was taken away since `open`: each command has run
            # by itself, and those that answered with the id of an entry are stored.
            if b"QUEUED" in queued:
                raise self._unavailable(begun)
            return True, _errors(queued)
        errors = _errors(queued)
        if not any(errors):
            raise self._unavailable(executed)
        return False, errors + [None] * (len(commands) - len(errors))

    def _round_trip(self, packed: bytes, count: int) -> list[Any]:
        """Send, and read `count` replies; error replies are values, a protocol error the last.

        Nothing is repeated here or in redis-py: a transaction that is sent twice may be carried
        out twice, and behind a later one.
        """
        library, pool = _library(), self._client.connection_pool
        try:
            connection = pool.get_connection()
        except (library.RedisError, OSError, TypeError, ValueError) as error:
            # TypeError, ValueError: redis-py makes nothing of an option in the URL's query.
            raise self._unavailable(error) from error
        replies: list[Any] = []
        try:
            connection.send_packed_command([packed], check_health=False)
            _read(connection, count, replies, library.ResponseError)
        except (library.RedisError, OSError) as error:
            raise self._unavailable(error) from error
        finally:
            # Replies that were not read would pass for those of the next batch, and a transaction
            # without its EXEC would swallow it. Interrupts end up here, too.
            if len(replies) < count or isinstance(replies[-1], Exception):
                connection.disconnect()
            pool.release(connection)
        return replies

    def _failure(self, error: Exception, message: Message) -> DeliveryError:
        """Return what an error reply to one XADD means; `error` is its cause."""
        stream = message.config.get("stream_name", self.stream_name)
        code, text = _parse(error)
        if code in _UNAVAILABLE or text.startswith("unknown command"):
            return self._unavailable(error)
        if code in _MISPLACED and (stream == self.stream_name or "permissions to run" in text):
            # Nearly every event would meet this one, and none of them is to blame: they wait until
            # it is put right. But a stream that only this event asked for must not stop the others.
            return self._unavailable(error)
        kind = Rejected if code == "WRONGTYPE" or _is_protocol_error(error) else TransientError
        failure = kind(f"stream {stream!r} of Redis at {self._place}: {code} {text}".strip())
        failure.__cause__ = error
        return failure

    # --- The client --------------------------------------------------------------------------

    def _greet(self) -> None:
        """See that transactions are permitted, and learn the server's limit for one value.

        A command over that limit costs the connection, often before one can read why: without the
        limit, such an event would look like a server that is away, and stop all others.
        """
        begun, executed, limit = self._round_trip(_MULTI + _EXEC + _GET_LIMIT, 3)
        for reply in (begun, executed):
            if isinstance(reply, Exception):
                raise self._unavailable(reply)
        self._limit = self.max_message_bytes or 0
        if isinstance(limit, list) and len(limit) == 2:  # else CONFIG is not permitted
            self._limit = min(self._limit, int(limit[1]))

    def _new_client(self, timeout: float, connect_timeout: float) -> Any:
        """Return a client of redis-py, not yet connected; raises MissingClient."""
        redis = _library()
        options: dict[str, Any] = {
            **self._login,
            "socket_timeout": timeout,
            "socket_connect_timeout": connect_timeout,
            # The relay decides when to try again. redis-py would repeat whatever failed, an XADD
            # too, which makes duplicates, and hold up a health check for many seconds.
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            # RESP3 has nothing for a publisher, and brings messages that nobody asked for.
            "protocol": 2,
        }
        if self._url is None:
            return redis.Redis(**self._server, ssl=self._ssl, **self._tls, **options)
        if self._url.startswith("rediss:"):
            options.update(self._tls)
        try:
            return redis.Redis.from_url(self._url, **options)
        except ValueError as error:  # an option in the query
            raise self._unavailable(error) from error

    @property
    def _place(self) -> str:
        """Where the server is, without credentials."""
        if self._url is None:
            return "{host}:{port}/{db}".format(**self._server)
        parts = urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        failure = BackendUnavailable(f"Redis at {self._place}: {' '.join(_parse(error)).strip()}")
        failure.__cause__ = error
        return failure

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield the option and what is wrong with it."""
        yield from _stream_problems({"stream_name": self.stream_name, "max_len": self.max_len})
        for option in ("timeout", "connect_timeout"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                yield option, f"must be seconds above 0, not {value!r}"
        if self._tls["ssl_cert_reqs"] not in ("none", "optional", "required", *VerifyMode):
            yield "ssl_cert_reqs", "must be 'none', 'optional' or 'required'"
        encrypted = self._ssl
        if self._url is not None:
            yield from self._url_problems(self._url)
            encrypted = self._url.startswith("rediss:")
        for option, value in self._tls.items():
            if value not in (None, True, "required") and not encrypted:
                yield option, "has no effect without TLS: set 'ssl' to True, or a rediss:// url"

    def _url_problems(self, url: str) -> Iterator[tuple[str, str]]:
        try:
            parts = urlsplit(url)
            port = parts.port
            # Behind an unescaped /, ? or # in a password stands no host, and it would be shown.
            if parts.scheme != "unix" and "@" in "".join(parts[2:]):
                port = 0
        except ValueError:  # its text may show a piece of a password
            port = 0
        if port == 0:
            yield "url", "has a malformed host or port; percent-encode what is in the password"
            return
        if parts.scheme not in ("redis", "rediss", "unix"):
            yield "url", "must begin with redis://, rediss:// or unix://"
        if self._server != {"host": "localhost", "port": 6379, "db": 0}:
            yield "url", "give it, or 'host', 'port' and 'db', but not both"
        if "@" in parts.netloc and any(self._login.values()):
            yield "url", "give 'username' and 'password' in it or beside it, but not both"
        if self._ssl and parts.scheme != "rediss":
            yield "url", "must begin with rediss:// for TLS ('ssl' is True)"


def _library() -> Any:
    try:
        import redis
        import redis.backoff
        import redis.retry
    except ImportError as error:
        raise MissingClient("redis", "redis") from error
    return redis


def _stream_problems(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and what is wrong with it, of `stream_name` and `max_len` where given."""
    name = options.get("stream_name", "events")
    if not isinstance(name, str) or not name or name.encode(errors="ignore").decode() != name:
        yield "stream_name", f"must be text and not empty, not {name!r}"
    length = options.get("max_len")
    if length is not None and (type(length) is not int or not 0 < length < 2**63):
        yield "max_len", f"must be a whole number from 1 on, or None, not {length!r}"


def _head(stream: str, max_len: int | None) -> bytes:
    """Return the packed XADD up to its fields, which are five pairs of a name and a value."""
    # Approximate trimming: Redis drops whole nodes of the stream, which costs next to nothing.
    trim = [] if max_len is None else ["MAXLEN", "~", str(max_len)]
    arguments = [argument.encode() for argument in ("XADD", stream, *trim, "*")]
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments)
    return b"*%d\r\n%b" % (len(arguments) + 10, packed)


def _timestamp(time: datetime | None) -> bytes:
    """Return RFC 3339 in UTC; a naive time is in UTC."""
    if time is None:
        return b""
    if time.tzinfo not in (UTC, None):
        time = time.astimezone(UTC)
    return (time.isoformat().removesuffix("+00:00") + "Z").encode()


def _read(connection: Any, count: int, replies: list[Any], error_reply: type[Exception]) -> None:
    """Read up to `count` replies; after a protocol error the server says nothing more."""
    read = connection.read_response
    for _ in range(count):
        try:
            replies.append(read())
        except error_reply as error:
            replies.append(error)
            if _is_protocol_error(error):
                return


def _is_protocol_error(error: Exception) -> bool:
    """Tell whether a command was over the server's `proto-max-bulk-len`."""
    return str(error).startswith("Protocol error")


def _errors(replies: list[Any]) -> list[Exception | None]:
    return [reply if isinstance(reply, Exception) else None for reply in replies]


def _parse(error: Exception) -> tuple[str, str]:
    """Return the code of an error reply, empty where it has none, and its text."""
    text = str(error).rpartition("Transaction discarded because of: ")[2]
    code = _CODES.get(type(error).__name__, "")
    first, _, rest = text.partition(" ")
    if not code and first.isupper() and first.isalpha():
        return first, rest
    return code, text
