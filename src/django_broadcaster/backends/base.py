"""The contract of a backend: all that is needed to write one.

A backend takes messages to one destination. The relay gives it `Message`s, never rows. The backend
acknowledges each, or maps its client's error to one of three kinds:

`BackendUnavailable`
    the broker is away or refuses everyone: no retry is spent, the relay waits and probes;
`TransientError`
    this event was not accepted now: the relay tries again by the retry policy;
`Rejected`
    this event can never be accepted: the relay makes it a dead letter at once.

Any other exception counts as transient; the relay logs its traceback. Write `send`; override
`send_batch` for speed. `django_broadcaster.testing.BackendContract` tests the promises.
"""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, TypeVar

from django_broadcaster.events import JSON_NULL, CloudEvent, encode_data, envelope
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)

from .options import OptionReader
from .position import Position

if TYPE_CHECKING:
    from django_broadcaster.models import OutboxEvent


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A call in another thread."""

    def result(self) -> T_co:
        """Wait for the call, and return what it returned; raises what it raised."""


class Thread(Protocol):
    """A thread with database connections of its own."""

    def begin(self, function: Callable[..., T], *args: Any) -> Pending[T]:
        """Call the function there after the calls that have begun; return at once."""

    def end(self) -> None:
        """End the thread, which closes its connections."""


Outcome = DeliveryError | None
"""The outcome of a message: None once the broker holds it durably, else the error."""


@dataclass(slots=True, eq=False)
class Message:
    """An event as a backend receives it. JSON is text until `event` is read.

    `extensions` includes `partitionkey` where the event has a key. `attempt` counts from 1. `row`
    is the event's id in the outbox, for backends that keep positions; 0 outside of a relay.
    """

    event_id: str
    source: str
    event_type: str
    subject: str
    time: datetime | None
    data_content_type: str
    data_schema: str
    extensions: Mapping[str, Any]
    data_json: str | None
    data_binary: bytes | None
    partition_key: str
    config: Mapping[str, Any]
    attempt: int = 1
    row: int = 0

    @property
    def event(self) -> CloudEvent:
        """The event with its data decoded; raises InvalidEvent if the row was tampered with."""
        return CloudEvent._stored(
            event_type=self.event_type,
            source=self.source,
            data=self._data(),
            subject=self.subject,
            data_content_type=self.data_content_type,
            data_schema=self.data_schema,
            id=self.event_id,
            time=self.time,
            extensions=self.extensions,
        )

    @property
    def type(self) -> str:
        """The event type, by its name in the specification."""
        return self.event_type

    @classmethod
    def of(
        cls,
        event: CloudEvent,
        *,
        partition_key: str | None = None,
        config: Mapping[str, Any] | None = None,
        attempt: int = 1,
    ) -> Self:
        """Return an event as a relay hands it to a backend.

        The key is `partition_key`, else the event's own.

        Raises:
            InvalidEvent: The event's data can't be written as JSON.
        """
        key = partition_key or event.partition_key or ""
        binary = event.data if isinstance(event.data, bytes) else None
        return cls(
            event_id=event.id,
            source=event.source,
            event_type=event.event_type,
            subject=event.subject,
            time=event.time,
            data_content_type=event.stated_content_type,
            data_schema=event.data_schema,
            extensions={**event.extensions, "partitionkey": key} if key else event.extensions,
            data_json=encode_data(event.data) if event.has_data and binary is None else None,
            data_binary=binary,
            partition_key=key,
            config=config or {},
            attempt=attempt,
        )

    def to_json(self) -> bytes:
        """Return the event in the CloudEvents JSON format (structured mode), in UTF-8."""
        return envelope(
            id=self.event_id,
            source=self.source,
            event_type=self.event_type,
            time=self.time,
            subject=self.subject,
            data_content_type=self.data_content_type,
            data_schema=self.data_schema,
            extensions=self.extensions,
            data_json=self.data_json,
            data_binary=self.data_binary,
        )

    def _data(self) -> Any:
        if self.data_binary is not None:
            return self.data_binary
        if self.data_json is None:
            return None
        data = parse_json(self.data_json)
        return JSON_NULL if data is None else data


NOT_SHOWN: Final = "(not shown)"
"""Replaces a secret in what a backend shows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as a backend sends it, for a person to read.

    `destination` names what it is sent to and how, by the words of the broker: `topic`, `key`.
    `headers` go beside the `body`, which is None where there is none. None of it is a secret.

    A body that is encoded by a schema is shown as JSON. Then `encoding` has the members of an
    AsyncAPI message with the schema.
    """

    destination: Mapping[str, Any]
    headers: Mapping[str, str]
    body: bytes | None
    encoding: Mapping[str, Any] | None = None


class PublisherBackend(ABC):
    """A destination that takes one event at a time; the contract since version 0.1.

    A subclass is given its `OPTIONS` as one dictionary, publishes an `OutboxEvent` and returns True
    once it is done. The relay delivers to it with order, retries and dead letters as to any other:
    False or an exception is a failed attempt. `MessageBackend` is the contract of those that send
    batches, tell outages from bad events, and have options of their own names.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})

    @abstractmethod
    def publish(self, event: OutboxEvent) -> bool:
        """Publish an event; return True once it is done.

        Args:
            event: The event. Its `id` is the id of the CloudEvent, as text.
        """

    @abstractmethod
    def health_check(self) -> bool:
        """Return True if the destination can be reached now."""

    def get_name(self) -> str:
        """Return the backend's name, by default that of its class."""
        return type(self).__name__


def takes_dictionary(backend_class: type[Any]) -> bool:
    """Return True if the constructor of a class takes its options as one dictionary only."""
    parameters = signature(backend_class.__init__).parameters.values()
    return not any(each.name == "alias" or each.kind is each.VAR_KEYWORD for each in parameters)


class _TakesOptionsAsDictionary(ABCMeta):
    """Lets a backend with keyword options be made from one dictionary, as the documented ones are.

    `RedisStreamBackend({"host": "redis"})` is `RedisStreamBackend(host="redis", alias="default")`.
    """

    def __call__(cls, config: Mapping[str, Any] | None = None, /, **options: Any) -> Any:
        if config is None:
            return super().__call__(**options)
        if takes_dictionary(cls):
            return super().__call__(config, **options)
        return super().__call__(**{"alias": "default", **config, **options})


class MessageBackend(PublisherBackend, metaclass=_TakesOptionsAsDictionary):
    """One configured destination that is given messages.

    Options arrive as keyword arguments. The constructor of a subclass lists its own, passes the
    others to `super().__init__(**options)` and reads its own by `self.read`. It opens nothing; the
    client is imported in `open` or `send`. The relay uses an instance from one thread at a time and
    never shares it between processes.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset()
    """The keys that an event's `publisher_config` may have."""

    system: ClassVar[str] = "django_broadcaster"
    """The messaging system, as traces and metrics call it: OpenTelemetry's `messaging.system`."""

    client_library: ClassVar[tuple[str, str] | None] = None
    """The module of the client that it needs, and the extra of django-broadcaster with it.

    A backend of another package has none: that package requires its client itself.
    """

    runs_handlers: ClassVar[bool] = False
    """Whether the handlers of `event_registry` are run by it."""

    uses_event_loop: ClassVar[bool] = False
    """Whether it runs an asyncio event loop, which a process patched by gevent refuses."""

    may_be_away_in_part: bool = False
    """Whether a part of the broker can be away alone, as a node of a cluster can.

    Several events that fail as `BackendUnavailable` while others get through then spend no retry.
    """

    keeps_positions: bool = False
    """Whether the broker stores a batch together with the ids of its rows, its *position*.

    Then nothing is sent twice: the relay calls `take_over` before it sends for the first time, and
    settles what the last position of an earlier relay has.
    """

    max_batch: int | None = None
    """The most messages that `send_batch` takes; None for any number."""

    runs_alone: ClassVar[bool] = False
    """Whether its methods run no code of a project, such as handlers or functions in options.

    Then the relay calls it in its own thread, which saves a handover a batch. It holds for the
    class that says so, and not for subclasses.
    """

    default_max_message_bytes: ClassVar[int | None] = None
    """The broker's own limit for one message, where it has one."""

    def __init__(self, *, alias: str, max_message_bytes: int | None = None, **unknown: Any) -> None:
        if unknown:
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{alias!r}]['OPTIONS']: {type(self).__name__} does not know "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )
        super().__init__()
        self.alias = alias
        self.read = OptionReader(self.option_error)
        """Reads the options of a backend."""
        self.read_config = OptionReader(self.config_error)
        """Reads the `publisher_config` of an event in a publish call, for `validate_config`."""
        self.read_message_config = OptionReader(_reject_config)
        """Reads the `config` of a message in `send`, and raises Rejected.

        A row can have a value that no publish call has read: it was changed, or written by other
        means.
        """
        self.read.integer("max_message_bytes", max_message_bytes, 1, optional=True)
        self.max_message_bytes = max_message_bytes or self.default_max_message_bytes
        self.on_progress: Callable[[], object] = _nothing
        """Set by the relay. Called between the messages of a long batch, it shows that the batch
        goes on: silence for longer than OUTBOX_STALL_SECONDS counts as a stall."""
        self.unsettled: Position = {}
        """Set by the relay before each batch: rows that were delivered and could not be settled.
        A backend that keeps positions adds them to that of the batch."""
        self.new_thread: Callable[[str], Thread] | None = None
        """Set by the relay. Returns a thread by its name, for a backend that does things in
        parallel. None in `process_pending_events`, whose callers have all in their own thread."""

    def option_error(self, option: str, problem: str) -> BackendConfigurationError:
        """Return the error for an option with a wrong value, naming the setting and the alias."""
        where = f"OUTBOX_PUBLISHERS[{self.alias!r}]['OPTIONS'][{option!r}]"
        return BackendConfigurationError(f"{where}: {problem}")

    def config_error(self, key: str, problem: str) -> InvalidPublisherConfig:
        """Return the error for a wrong value in the `publisher_config` of an event."""
        return InvalidPublisherConfig(f"{key!r} {problem}", self.alias)

    def publish(self, event: OutboxEvent) -> bool:
        """Open the backend, send one event here and now, and return True.

        For tests and scripts: the relay calls `send_batch`.

        Raises:
            DeliveryError: The event was not delivered.
        """
        self.open()
        self.send(
            Message.of(
                event.cloud_event, config=event.publisher_config, attempt=event.retry_count + 1
            )
        )
        return True

    @abstractmethod
    def send(self, message: Message) -> None:
        """Send one message; return once the broker has acknowledged it durably.

        Raises a DeliveryError. A message whose fate is unknown (a timeout, a lost connection) is
        unavailable or transient: it is sent again, and a consumer may see it twice.
        """

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send messages in order; return one outcome for each, in the same order.

        The events of one key keep their order. After one of them failed, later ones in the batch
        are not sent and come back as `Held`. So may events without a key, which a backend that has
        sent others leaves to the next batch. After `BackendUnavailable` nothing further is sent.
        May raise BackendUnavailable when no message at all is known to be acknowledged.
        """
        return send_one_by_one(messages, self._send_and_show_progress)

    def _send_and_show_progress(self, message: Message) -> None:
        self.on_progress()
        self.send(message)

    def show(self, message: Message) -> Shown:
        """Return what `send` would send, without a connection; raises Rejected as it would.

        For the page of an event in the admin. Leave passwords, tokens and signatures out.
        """
        return Shown({}, {}, message.to_json())

    def health_check(self) -> bool:
        """Return True if the broker can be reached now; cheap, and never raises."""
        return True

    def returned(self) -> Collection[str]:
        """Return the destinations that are back since the last call.

        Events whose error named one of them by `waits_for` are due then.
        """
        return ()

    def must_take_over(self, lease: int) -> bool:
        """Return True if a relay with this lease has to call `take_over` before its next batch."""
        return False

    def take_over(self, lease: int, earlier: Collection[int]) -> Sequence[Position]:
        """Get ready to send under a lease; called instead of `open` if it keeps positions.

        When it returns, no relay can send any more under the `earlier` leases, or under this one
        before it is called.

        Returns:
            The last positions of the earlier leases. This lease may be one of them.

        Raises:
            BackendUnavailable: The broker does not answer; the relay tries again.
        """
        return ()

    def store_position(self, position: Position) -> None:  # not every backend keeps positions
        """Store a position without a batch, under the lease of the last `take_over`.

        Raises:
            BackendUnavailable: The broker does not answer; the relay takes over again.
        """

    def open(self) -> None:  # not every backend has something to open
        """Get ready to publish; called once before the first batch. May raise DeliveryError."""

    def close(self) -> None:
        """Release connections; called when the relay stops. May be called more than once."""

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge an event's `publisher_config`; raises InvalidPublisherConfig naming the key."""
        unknown = sorted(map(repr, config.keys() - self.config_keys))
        if unknown:
            known = ", ".join(sorted(map(repr, self.config_keys))) or "none"
            raise InvalidPublisherConfig(
                f"unknown key {', '.join(unknown)}; known keys: {known}", self.alias
            )


def _reject_config(key: str, problem: str) -> Rejected:
    return Rejected(f"publisher_config: {key!r} {problem}")


def _nothing() -> None:
    """Do nothing: no relay is watching."""


def as_delivery_error(error: Exception) -> DeliveryError:
    """Return a DeliveryError itself, or any other error as transient with its type and text."""
    if isinstance(error, DeliveryError):
        return error
    transient = TransientError(f"{type(error).__name__}: {error}")
    transient.__cause__ = transient.unforeseen = error
    return transient


def send_one_by_one(messages: Sequence[Message], send: Callable[[Message], None]) -> list[Outcome]:
    """Call `send` for each message and keep the promises of `send_batch`."""
    outcomes: list[Outcome] = []
    failed_keys: set[str] = set()
    for message in messages:
        outcome: Outcome = None
        if message.partition_key in failed_keys:
            outcome = Held()
        else:
            try:
                send(message)
            except BackendUnavailable as error:
                rest = len(messages) - len(outcomes)
                return outcomes + [error] * rest
            except Exception as error:
                outcome = as_delivery_error(error)
                if message.partition_key:
                    failed_keys.add(message.partition_key)
        outcomes.append(outcome)
    return outcomes
