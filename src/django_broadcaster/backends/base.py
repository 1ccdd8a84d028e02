"""The contract of a backend: all that is needed to write one.

A backend takes messages to one destination. It is given `Message`s, never rows, and answers with
an acknowledgement or one of three kinds of error, mapped from its client's errors at its edge:

`BackendUnavailable`
    the broker is away or refuses everyone: no retry is spent, the relay waits and probes;
`TransientError`
    this event was not accepted now: the relay tries again by the retry policy;
`Rejected`
    this event can never be accepted: the relay makes it a dead letter at once.

Any other exception counts as transient; the relay logs its traceback. Write `publish`; override
`publish_batch` for speed. `django_broadcaster.testing.BackendContract` tests the promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from django_broadcaster.events import ABSENT, CloudEvent, envelope
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
    InvalidPublisherConfig,
    TransientError,
)

Outcome = DeliveryError | None
"""What became of a message: None once the broker holds it durably, else the error."""


@dataclass(slots=True, eq=False)
class Message:
    """An event as a backend receives it. JSON is text until somebody asks for `event`.

    `extensions` includes `partitionkey` where the event has a key. `attempt` counts from 1.
    """

    event_id: str
    source: str
    type: str
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

    @property
    def event(self) -> CloudEvent:
        """The event with its data decoded; raises InvalidEvent if the row was tampered with."""
        return CloudEvent(
            id=self.event_id,
            source=self.source,
            type=self.type,
            subject=self.subject or None,
            time=self.time,
            data=self._data(),
            data_content_type=self.data_content_type or None,
            data_schema=self.data_schema or None,
            extensions=self.extensions,
        )

    def to_json(self) -> bytes:
        """Return the event in the CloudEvents JSON format (structured mode), in UTF-8."""
        return envelope(
            id=self.event_id,
            source=self.source,
            type=self.type,
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
        return ABSENT if self.data_json is None else parse_json(self.data_json)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a backend sends for a message, for a person to read.

    `destination` names what it is sent to and how, by the words of the broker: `topic`, `key`.
    `headers` go beside the `body`, which is None where there is none. None of it is a secret.
    """

    destination: Mapping[str, Any]
    headers: Mapping[str, str]
    body: bytes | None


class PublisherBackend(ABC):
    """One configured destination.

    Options arrive as keyword arguments: a subclass lists its own, passes the rest on to
    `super().__init__(**options)`, opens nothing yet and imports its client no earlier than in
    `open` or `publish`. The relay uses an instance from one thread at a time and never shares it
    between processes.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset()
    """The keys that an event's `publisher_config` may have."""

    system: ClassVar[str] = "django_broadcaster"
    """The messaging system, as traces and metrics call it: OpenTelemetry's `messaging.system`."""

    client_library: ClassVar[tuple[str, str] | None] = None
    """The module of the client that it needs, and the extra of django-broadcaster with it.

    A backend of another package has none: that package requires its client itself.
    """

    default_max_message_bytes: ClassVar[int | None] = None
    """The broker's own limit for one message, where it has one."""

    def __init__(self, *, alias: str, max_message_bytes: int | None = None, **unknown: Any) -> None:
        if unknown:
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{alias!r}]['OPTIONS']: {type(self).__name__} does not know "
                f"{', '.join(sorted(map(repr, unknown)))}"
            )
        if max_message_bytes is not None and not _is_size(max_message_bytes):
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{alias!r}]['OPTIONS']['max_message_bytes']: must be a whole "
                f"number from 1 on, or None, not {max_message_bytes!r}"
            )
        self.alias = alias
        self.max_message_bytes = max_message_bytes or self.default_max_message_bytes
        self.on_progress: Callable[[], object] = _nothing
        """Set by the relay. Called between the messages of a long batch, it shows that the batch
        goes on: silence for longer than OUTBOX_STALL_SECONDS counts as a stall."""

    def option_error(self, option: str, problem: str) -> BackendConfigurationError:
        """Return the error for an option with a wrong value, naming the setting and the alias."""
        where = f"OUTBOX_PUBLISHERS[{self.alias!r}]['OPTIONS'][{option!r}]"
        return BackendConfigurationError(f"{where}: {problem}")

    @abstractmethod
    def publish(self, message: Message) -> None:
        """Send one message; return once the broker has acknowledged it durably.

        Raises a DeliveryError. A message whose fate is unknown (a timeout, a lost connection) is
        unavailable or transient: it is sent again, and a consumer may see it twice.
        """

    def publish_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send messages in order; return one outcome for each, in the same order.

        The events of one key keep their order: after one of them failed, those behind it in the
        batch are not sent and come back as `Held`. After `BackendUnavailable` nothing further is
        sent. May raise BackendUnavailable when no message at all is known to be acknowledged.
        """
        return publish_one_by_one(messages, self._publish_and_tell)

    def _publish_and_tell(self, message: Message) -> None:
        self.on_progress()
        self.publish(message)

    def show(self, message: Message) -> Shown:
        """Return what `publish` would send, without a connection; raises Rejected as it would.

        For the page of an event in the admin. Leave passwords, tokens and signatures out.
        """
        return Shown({}, {}, message.to_json())

    def health_check(self) -> bool:
        """Tell cheaply whether the broker can be reached now; never raises."""
        return True

    def open(self) -> None:  # noqa: B027  # not every backend has something to open
        """Get ready to publish; called once before the first batch. May raise DeliveryError."""

    def close(self) -> None:  # noqa: B027
        """Release connections; called when the relay stops. May be called more than once."""

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge an event's `publisher_config`; raises InvalidPublisherConfig naming the key."""
        unknown = sorted(map(repr, config.keys() - self.config_keys))
        if unknown:
            known = ", ".join(sorted(map(repr, self.config_keys))) or "none"
            raise InvalidPublisherConfig(
                f"unknown key {', '.join(unknown)}; known keys: {known}", self.alias
            )


def _nothing() -> None:
    """Do nothing: no relay is watching."""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def as_delivery_error(error: Exception) -> DeliveryError:
    """Return the error itself, or an unforeseen one as transient with its type and text."""
    if isinstance(error, DeliveryError):
        return error
    transient = TransientError(f"{type(error).__name__}: {error}")
    transient.__cause__ = transient.unforeseen = error
    return transient


def publish_one_by_one(
    messages: Sequence[Message], publish: Callable[[Message], None]
) -> list[Outcome]:
    """Call `publish` for each message and keep the promises of `publish_batch`."""
    outcomes: list[Outcome] = []
    failed_keys: set[str] = set()
    for message in messages:
        outcome: Outcome = None
        if message.partition_key in failed_keys:
            outcome = Held("an earlier event of its key failed in this batch")
        else:
            try:
                publish(message)
            except BackendUnavailable as error:
                rest = len(messages) - len(outcomes)
                return outcomes + [error] * rest
            except Exception as error:
                outcome = as_delivery_error(error)
                if message.partition_key:
                    failed_keys.add(message.partition_key)
        outcomes.append(outcome)
    return outcomes
