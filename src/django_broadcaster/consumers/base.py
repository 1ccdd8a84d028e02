"""The contract of a consumer: all that is needed to write one.

A consumer reads the messages of one broker. A receiver calls it in a loop:

    deliveries = consumer.receive(limit, seconds)
    # insert a row of the outbox for each, and commit
    consumer.acknowledge(deliveries)

So a message leaves the broker only after its row is committed, and one that the broker delivers
again is recognised by the row's identity. The relay delivers the rows to the handlers.

A consumer raises BackendUnavailable if the broker is unavailable: the receiver closes it, and opens
it again after a pause. `django_broadcaster.testing.ConsumerContract` tests the promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Final

from django.utils.module_loading import import_string

from django_broadcaster.backends.options import OptionReader
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable

from .positions import Position, TakeSources

MAX_MESSAGE_BYTES: Final = 16_000_000
"""The default of `max_message_bytes`."""


@dataclass(slots=True, kw_only=True)
class ReceivedMessage:
    """A message as the broker delivered it.

    Args:
        body: The bytes of the message.
        headers: Its headers, attributes or properties, as text.
        content_type: Its media type, if the broker has a property for it.
        key: The key by which the broker orders it: that of a record, or a message group. Empty if
            there is none.
        origin: Where it was read: a topic, stream, queue or subject.
        position: What names it within `origin`, the same each time it is delivered, such as an
            offset. Empty if the broker has no such thing.
        has_body: False for a message without a body, if the broker tells it from an empty one: a
            tombstone of Kafka.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    key: str = ""
    origin: str = ""
    position: str = ""
    has_body: bool = True

    @property
    def identity(self) -> str:
        """The name of the message: its origin, its position, and a digest of its bytes.

        The digest tells it from a message with the same position in a topic, stream or queue that
        was deleted and created again. Without a position, the headers are part of it.
        """
        digest = sha256(self.body)
        if self.position:
            return f"{self.origin}/{self.position}/{digest.hexdigest()[:16]}"
        for name, value in sorted(self.headers.items()):
            digest.update(f"\0{name}\0{value}".encode(errors="surrogatepass"))
        return f"{self.origin}/{digest.hexdigest()}"


Decoder = Callable[[ReceivedMessage], CloudEvent | None]
"""The option `decode`: returns the event of a message, or None for a message to be ignored."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that was received, with its event or its problem.

    Args:
        message: The message.
        receipt: What the consumer needs to acknowledge it.
        event: The event in it. None if there is a `problem`, or if the message is to be ignored.
        problem: Why no event could be read; empty if one could.
    """

    message: ReceivedMessage
    receipt: Any = None
    event: CloudEvent | None = None
    problem: str = ""


def problem_of(error: BaseException) -> str:
    """Return the class and the text of an error that a message caused."""
    try:
        text = str(error)
    except Exception as unreadable:
        text = f"the text can't be read: {type(unreadable).__name__}"
    return f"{type(error).__name__}: {text}"


class Consumer(ABC):
    """One configured source of messages.

    Options arrive as keyword arguments. The constructor of a subclass lists its own, passes the
    others to `super().__init__(**options)`, and reads its own by `self.read`. It opens nothing. A
    receiver uses an instance from one thread, but for `position_of`, and never shares it between
    processes.

    Args:
        alias: The alias in OUTBOX_CONSUMERS.
        decode: The dotted path of a function that makes a `CloudEvent` of a `ReceivedMessage`, for
            producers that don't send CloudEvents. It returns None for a message to be ignored; if
            it raises an exception, the message becomes a dead letter. After BackendUnavailable the
            receiver retries instead.
        max_message_bytes: The largest body. A larger message becomes a dead letter.
        ordered: Whether the events of a key keep their order. Then one receiver at a time reads,
            unless the broker itself keeps the order among several (`shares_by_key`).
    """

    system: ClassVar[str] = "django_broadcaster"
    """The messaging system, as traces and metrics call it: OpenTelemetry's `messaging.system`."""

    client_library: ClassVar[tuple[str, str] | None] = None
    """The module of the client that it needs, and the extra of django-broadcaster with it."""

    shares_by_key: bool = False
    """Whether the broker gives the messages of a key to one receiver at a time, in their order.

    Where it does not, an `ordered` consumer is read by one receiver at a time: the receivers take
    turns by a lease in the database. The one that takes over must first be given, in order, the
    messages that the one before had received and not acknowledged.
    """

    content_type: str = ""
    """The media type of data that are decoded by a schema, for the catalogue; empty for others."""

    take_sources: TakeSources | None = None
    """Takes sources whose positions are in the database; set by the receiver before `open`."""

    uses_event_loop: ClassVar[bool] = False
    """Whether it runs an asyncio event loop, which a process patched by gevent refuses."""

    def __init__(
        self,
        *,
        alias: str,
        decode: Decoder | str | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        ordered: bool = True,
        **unknown: Any,
    ) -> None:
        self.alias = alias
        if unknown:
            raise BackendConfigurationError(
                f"OUTBOX_CONSUMERS[{alias!r}]['OPTIONS']: {type(self).__name__} does not know "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )
        self.read = OptionReader(self.option_error)
        """Reads the options of a consumer."""
        self._decode = self._decoder(decode)
        self.max_message_bytes = self.read.integer("max_message_bytes", max_message_bytes, 1)
        self.ordered = self.read.flag("ordered", ordered)

    def option_error(self, option: str, problem: str) -> BackendConfigurationError:
        """Return the error for an option with a wrong value, naming the setting and the alias."""
        where = f"OUTBOX_CONSUMERS[{self.alias!r}]['OPTIONS'][{option!r}]"
        return BackendConfigurationError(f"{where}: {problem}")

    # --- What a subclass writes --------------------------------------------------------------

    @abstractmethod
    def open(self) -> None:
        """Connect and subscribe; raises BackendUnavailable or BackendConfigurationError."""

    @abstractmethod
    def close(self) -> None:
        """Return unacknowledged messages to the broker, and disconnect.

        May be called more than once, and after any error.
        """

    @abstractmethod
    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return up to `limit` messages, in the broker's order; wait up to `seconds` for the first.

        While earlier deliveries are being written, it is called once more: at most twice `limit`
        are received and not acknowledged. Use `delivery` to make each item.

        Raises:
            BackendUnavailable: The broker is unavailable; what was received is delivered again.
        """

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker that these messages are stored, in the order in which they were received.

        One that the broker has given to another receiver meanwhile is left out silently.

        Raises:
            BackendUnavailable: The broker may deliver them again.
        """

    def reject(self, delivery: Delivery) -> None:
        """Give up a message that no row can hold; a dead letter has its beginning and its position.

        A broker with dead letters of its own keeps it there; others keep it where it is.
        """
        self.acknowledge([delivery])

    def extend(self, deliveries: Sequence[Delivery]) -> None:  # noqa: B027  # few brokers need it
        """Ask the broker for more time before it delivers these again; called each few seconds.

        The database is slow or unavailable. The deliveries are all that are not acknowledged.
        Raises BackendUnavailable.
        """

    @abstractmethod
    def event_of(self, message: ReceivedMessage) -> CloudEvent | None:
        """Read a CloudEvent by the broker's protocol binding; raises InvalidEvent.

        Both content modes are read.
        """

    def health_check(self) -> bool:
        """Return True if the broker can be reached now; cheap, and never raises."""
        return True

    def lag(self) -> int | None:
        """Return the number of messages that wait at the broker; None if it can't say.

        Called by the thread that calls `receive`, each few seconds. Raises BackendUnavailable.
        """
        return None

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return what it reads, in the broker's words, such as `[{"topic": "orders"}]`.

        For the catalogue. None of it is a secret.
        """
        return ()

    def position_of(self, delivery: Delivery) -> Position | None:
        """Return the position after a message, for the database; None if the broker keeps it.

        It is stored in the transaction that writes the row. For a consumer that can begin at any
        position: when it is given sources, such as partitions, it calls `take_sources` with their
        names, and begins each one at the position that it gets. When a source is given to another
        receiver, it sets `is_held` to False. The thread that writes the rows calls this method.
        """
        return None

    @property
    def redelivery_seconds(self) -> float | None:
        """The longest time after which the broker may deliver a message again; None if unknown."""
        return None

    # --- What it uses ------------------------------------------------------------------------

    def delivery(self, message: ReceivedMessage, receipt: Any = None) -> Delivery:
        """Return the delivery of a message, with the event in it or what is wrong with it.

        Raises:
            BackendUnavailable: What decodes the message is unavailable, such as a schema registry.
        """
        size = len(message.body)
        if size > self.max_message_bytes:
            problem = f"the message has {size} bytes, over max_message_bytes"
            return Delivery(message, receipt, problem=f"{problem} ({self.max_message_bytes})")
        try:
            return Delivery(message, receipt, self.decode(message))
        except BackendUnavailable:
            raise
        except (Exception, SystemExit) as error:  # also of the project's own function
            return Delivery(message, receipt, problem=problem_of(error))

    def decode(self, message: ReceivedMessage) -> CloudEvent | None:
        """Return the event of a message by the option `decode`, else by `event_of`; may raise."""
        if self._decode is None:
            return self.event_of(message)
        event = self._decode(message)
        if event is not None and not isinstance(event, CloudEvent):
            raise TypeError(
                f"decode returned {type(event).__name__}; it must return a CloudEvent or None"
            )
        return event

    def _decoder(self, given: Decoder | str | None) -> Decoder | None:
        if given is not None and not isinstance(given, str):
            return self.read.function("decode", given)
        if given is None:
            return None
        try:
            found = import_string(self.read.text("decode", given))
        except ImportError as error:
            raise self.option_error("decode", f"{given!r} can't be imported: {error}") from error
        decoder: Decoder = self.read.function("decode", found)
        return decoder
