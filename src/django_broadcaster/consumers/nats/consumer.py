"""The consumer for NATS JetStream: its options, and the contract."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ssl import SSLContext
from typing import Any, ClassVar, Final, TypeVar

from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.nats.address import DEFAULT_SERVERS, Address
from django_broadcaster.backends.nats.connection import CLIENT, CLOSE_SECONDS, Connection
from django_broadcaster.backends.nats.names import read_name
from django_broadcaster.consumers.base import Consumer, Delivery, ReceivedMessage
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable

from .reader import TERM, Reader, Received

T = TypeVar("T")

ACK_WAIT: Final = 30.0
"""The default of `ack_wait`, which is also the server's."""

MAX_ACK_PENDING: Final = 10_000
"""The default of `max_ack_pending`."""

_NANO: Final = 10**9
_NOT_FOUND: Final = 404


class NATSConsumer(Consumer):
    """Receives the messages of a stream by a durable pull consumer of the server.

    Args:
        stream: The name of the stream.
        durable: The name of the consumer at the server, which remembers what was acknowledged.
            Receivers with the same name share its messages.
        create: Whether to create the durable consumer if it is missing. An existing one is never
            changed, and must agree with the options that are given.
        filter_subjects: One subject or a list of them, with wildcards, to receive no others.
            Several need nats-server 2.10 or newer.
        start: Where a durable consumer that is created begins: "all" for the first message in the
            stream, "new" for those that are stored from then on, the number of a message, or a
            `datetime` with a time zone.
        ack_wait: Seconds after which the server delivers an unacknowledged message again. A
            receiver extends them while the database is slow.
        max_ack_pending: The most messages that are delivered and not acknowledged, for all
            receivers together.
        servers: One URL, or a list of those of one cluster: `nats://`, `tls://`, or with aiohttp
            `ws://`, `wss://`.
        username, password: The credentials, unless a URL has them.
        token, user_credentials, nkeys_seed, nkeys_seed_str, inbox_prefix: As in nats-py.
        tls: True for an encrypted connection, a dictionary of `ca_file`, `cert_file`, `key_file`,
            `verify` and `check_hostname`, or an `ssl.SSLContext`.
        tls_hostname, tls_handshake_first: As in nats-py.
        timeout: Seconds to wait for a connection, and for each answer of the server.
    """

    system: ClassVar[str] = "nats"
    client_library = CLIENT
    uses_event_loop = True

    def __init__(
        self,
        *,
        stream: str,
        durable: str,
        create: bool = True,
        filter_subjects: str | Sequence[str] | None = None,
        start: str | int | datetime | None = None,
        ack_wait: float | None = None,
        max_ack_pending: int | None = None,
        servers: str | Sequence[str] = DEFAULT_SERVERS,
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
        timeout: float = 5.0,
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
        self.durable = read_name(self.read, "durable", durable)
        self.create = self.read.flag("create", create)
        self._given = self._read_settings(filter_subjects, start, ack_wait, max_ack_pending)
        self._connection: Connection | None = None
        self._reader: Reader | None = None
        self._max_age = 0

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and find or create the durable consumer.

        Raises:
            BackendUnavailable: No server answers, or the stream or the consumer is missing.
            BackendConfigurationError: The existing consumer has other settings.
        """
        self.close()
        connection = self.address.connect()
        try:
            ack_wait = connection.run(self._prepare(connection))
            self._reader = Reader(
                connection, self.stream, self.durable, ordered=self.ordered, ack_wait=ack_wait
            )
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def close(self) -> None:
        """Return unacknowledged messages to the server, and disconnect."""
        connection, self._connection = self._connection, None
        reader, self._reader = self._reader, None
        if connection is None:
            return
        try:
            if reader is not None and not connection.is_lost:
                connection.timeout = min(connection.timeout, CLOSE_SECONDS)
                with suppress(BackendUnavailable):
                    connection.run(reader.release())
        finally:
            connection.close()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return up to `limit` messages; while earlier ones are missing, none."""
        reader = self._open_reader()
        return [self._delivery(each) for each in self._run(reader.receive(limit, seconds))]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages in one round trip. One that is lost is delivered again."""
        if deliveries:
            self._run(self._open_reader().acknowledge([each.receipt for each in deliveries]))

    def reject(self, delivery: Delivery) -> None:
        """Terminate a message: the server delivers it no more, and tells those who listen."""
        self._run(self._open_reader().acknowledge([delivery.receipt], TERM))

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the server that the messages, and those that wait here, are in progress."""
        if deliveries:
            self._run(self._open_reader().extend())

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the stream, and with `filter_subjects` each subject."""
        if "filter_subject" in self._given:
            subjects = [self._given["filter_subject"]]
        else:
            subjects = self._given.get("filter_subjects", [])
        origins = [{"stream": self.stream, "subject": each} for each in subjects]
        return origins or [{"stream": self.stream}]

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read a message of the binding for NATS; one without headers is structured."""
        return CloudEvent.from_nats(message.headers, message.body)

    def health_check(self) -> bool:
        """Return True if a server can be reached over a new connection."""
        try:
            self.address.connect(HEALTH_SECONDS).close()
        except Exception:
            return False
        return True

    def lag(self) -> int:
        """Return the number of messages that are not acknowledged."""
        info = self._run(self._open_reader().info())
        return int(info["num_pending"] + info["num_ack_pending"])

    @property
    def redelivery_seconds(self) -> float | None:
        """The stream's `max_age`, as far as it is known: until then the server delivers again."""
        return self._max_age / _NANO or None

    # --- The connection ----------------------------------------------------------------------

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise BackendUnavailable(f"NATS at {self.address.place}: not connected")
        return self._reader

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._connection is not None  # as there is a reader
        return self._connection.run(work)

    def _delivery(self, received: Received) -> Delivery:
        message = ReceivedMessage(
            body=bytes(received.body),
            headers=_headers(received.headers),
            origin=_text(received.subject),
            position=str(received.receipt.sequence),
        )
        return self.delivery(message, received.receipt)

    # --- The durable consumer ----------------------------------------------------------------

    async def _prepare(self, connection: Connection) -> float:
        """Find or create the durable consumer; return its `ack_wait` in seconds."""
        stream = await connection.ask_jetstream(f"STREAM.INFO.{self.stream}", {})
        self._raise_error(connection, stream, f"stream {self.stream!r}")
        self._max_age = stream["config"].get("max_age", 0)
        name = f"{self.stream}.{self.durable}"
        found = await connection.ask_jetstream(f"CONSUMER.INFO.{name}", {})
        if self.create and found.get("error", {}).get("code") == _NOT_FOUND:
            found = await self._create(connection)
        self._raise_error(connection, found, f"consumer {self.durable!r} of stream {self.stream!r}")
        self._check(found["config"])
        ack_wait: int = found["config"].get("ack_wait", 0)
        return ack_wait / _NANO or ACK_WAIT

    async def _create(self, connection: Connection) -> dict[str, Any]:
        if "filter_subjects" in self._given and connection.server_version < (2, 10):
            problem = "must be one subject: several need nats-server 2.10 or newer"
            self.read.refuse("filter_subjects", problem)
        config = {
            "durable_name": self.durable,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT * _NANO),
            "max_ack_pending": MAX_ACK_PENDING,
            "max_deliver": -1,
            "replay_policy": "instant",
            **self._given,
        }
        return await connection.ask_jetstream(
            f"CONSUMER.DURABLE.CREATE.{self.stream}.{self.durable}",
            {"stream_name": self.stream, "config": config},
        )

    def _raise_error(self, connection: Connection, answer: Mapping[str, Any], what: str) -> None:
        if not (error := answer.get("error")):
            return
        if error.get("code") != _NOT_FOUND:
            raise connection.unavailable(f"{what}: {error.get('description')}")
        command = f"nats stream add {self.stream}"
        if "consumer" in what:
            command = f"nats consumer add {self.stream} {self.durable} --pull --ack explicit"
        raise connection.unavailable(f"no {what}; create it, for example with: {command}")

    def _check(self, config: Mapping[str, Any]) -> None:
        """Compare an existing consumer with what is needed, and with the options."""
        where = f"consumer {self.durable!r} of stream {self.stream!r}"
        for key, needed, problem in (
            ("deliver_subject", ("",), "pushes its messages; it must be a pull consumer"),
            ("ack_policy", ("explicit",), "must have the acknowledgement policy 'explicit'"),
            ("max_deliver", (-1, 0), "loses messages after 'max_deliver' deliveries; set it to -1"),
            ("headers_only", (False,), "leaves out the bodies; unset 'headers_only'"),
            ("inactive_threshold", (0,), "ends when unused; unset 'inactive_threshold'"),
        ):
            if config.get(key, needed[0]) not in needed:
                self.read.refuse(
                    "durable", f"names a consumer that can't be used: {where} {problem}"
                )
        if config.get("max_ack_pending", 0) <= 0 and self.ordered:
            problem = "must have a limit for unacknowledged messages; set 'max_ack_pending'"
            self.read.refuse("durable", f"names a consumer that can't be used: {where} {problem}")
        for key, value in self._given.items():
            found = config.get(key)
            if _comparable(found) != _comparable(value):
                option = _OPTION_OF.get(key, key)
                shown = found / _NANO if key == "ack_wait" and found is not None else found
                self.read.refuse(
                    option,
                    f"differs from the existing {where}, which has {key} {shown!r}; an existing "
                    "consumer is not changed: edit or delete it, or leave out the option",
                )

    # --- Options -----------------------------------------------------------------------------

    def _read_settings(
        self,
        filter_subjects: str | Sequence[str] | None,
        start: str | int | datetime | None,
        ack_wait: float | None,
        max_ack_pending: int | None,
    ) -> dict[str, Any]:
        """Return the given settings of a durable consumer, in the server's terms."""
        settings: dict[str, Any] = {}
        if filter_subjects is not None:
            subjects = self.read.one_or_more("filter_subjects", filter_subjects, "a subject")
            if len(subjects) == 1:
                settings["filter_subject"] = subjects[0]
            else:
                settings["filter_subjects"] = list(subjects)
        if start is not None:
            settings |= self._read_start(start)
        if ack_wait is not None:
            settings["ack_wait"] = int(self.read.seconds("ack_wait", ack_wait, 1, 86_400) * _NANO)
        if max_ack_pending is not None:
            settings["max_ack_pending"] = self.read.integer("max_ack_pending", max_ack_pending, 1)
        return settings

    def _read_start(self, start: object) -> dict[str, Any]:
        if start in ("all", "new"):
            return {"deliver_policy": start}
        if isinstance(start, int) and not isinstance(start, bool) and start > 0:
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
        if isinstance(start, datetime) and start.tzinfo is not None:
            text = start.astimezone(UTC).isoformat().replace("+00:00", "Z")
            return {"deliver_policy": "by_start_time", "opt_start_time": text}
        rule = "'all', 'new', the number of a message, or a datetime with a time zone"
        raise self.option_error("start", f"must be {rule}")


_OPTION_OF: Final = {
    "filter_subject": "filter_subjects",
    "deliver_policy": "start",
    "opt_start_seq": "start",
    "opt_start_time": "start",
}
"""The option behind a setting of the server's."""


def _comparable(value: Any) -> Any:
    """Return a setting so that it equals the server's: lists without order, times as instants."""
    if isinstance(value, list):
        return sorted(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    return value


def _headers(raw: bytes) -> dict[str, str]:
    """Return the headers of a message; of one that is repeated, the first."""
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(_text(name), _text(value.strip()))
    return headers


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
