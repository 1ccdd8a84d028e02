"""Every exception of django-broadcaster.

BroadcasterError
├── PublishError                     a publish call was refused, and has written nothing
│   ├── InvalidEvent (ValueError)    the event breaks the CloudEvents specification or a column
│   │   └── PayloadTooLarge          the payload is over the backend's limit
│   │       └── StatementTooLong     the row is over `max_allowed_packet` of the database
│   ├── UnknownBackend (LookupError) no such alias in OUTBOX_PUBLISHERS
│   ├── InvalidPublisherConfig (ValueError)   a key or value that the backend does not know
│   ├── WrongTransaction (RuntimeError)       the row would not commit with the change it is about
│   ├── PublishedFromAsync (SynchronousOnlyOperation)   a synchronous call in async code
│   └── RefusedByDatabase            the database writes no events with its configuration
├── DeliveryError                    one attempt to deliver did not succeed
│   ├── BackendUnavailable           the broker is away: no retry is spent
│   ├── TransientError               this event, try again by the retry policy
│   ├── Rejected                     this event can never be sent: dead-letter it now
│   │   └── AfterCommitFailed        a handler's `on_commit` function failed: no retry repeats it
│   └── Held                         not sent, because an earlier event of its key failed
├── IllegalTransition                an event can't go from its status to that one
├── BrokenTransaction (TransactionManagementError)   a receiver broke the caller's transaction
├── CannotUnseal                     no key decrypts a payload that is encrypted
├── LeaseLost                        another relay may own our partitions now
├── ArchiveError                     old events could not be archived, and stay in the outbox
├── ArchiveConfigurationError (ImproperlyConfigured)
└── BackendConfigurationError (ImproperlyConfigured)
    └── MissingClient                a broker's client library is not installed
"""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db.transaction import TransactionManagementError


class BroadcasterError(Exception):
    """Base of every exception raised by django-broadcaster; all can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would call the class with the message alone.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class PublishError(BroadcasterError):
    """A publish call was refused; it has written nothing, and the transaction stays usable.

    `index` is the place of the event at fault among those of `publish_events`, from 0. It is None
    where the fault is in the call itself, and for the calls that take one event.
    """

    index: int | None = None

    def place_at(self, index: int) -> None:
        """Set `index`, and say it in the error's text."""
        self.index = index
        self.args = (f"event {index}: {self}",)


class InvalidEvent(PublishError, ValueError):
    """An attribute of an event is not valid; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class PayloadTooLarge(InvalidEvent):
    """The event's payload is over the backend's limit; sizes are in bytes."""

    def __init__(self, backend: str, size: int, limit: int) -> None:
        super().__init__(
            "data",
            f"the event takes {size} bytes, over the limit of {limit} of backend {backend!r}; "
            "send a reference to the data instead, or raise the backend's max_message_bytes",
        )
        self.backend = backend
        self.size = size
        self.limit = limit


class StatementTooLong(PayloadTooLarge):
    """The event's row is over `max_allowed_packet` of MariaDB or MySQL; sizes are in bytes.

    `database` is the alias. Sent all the same, the statement would end the session.
    """

    def __init__(self, database: str, size: int, limit: int) -> None:
        InvalidEvent.__init__(
            self,
            "data",
            f"the event takes {size} bytes in a statement, over the limit of {limit} of database "
            f"{database!r}; send a reference to the data instead, or raise max_allowed_packet",
        )
        self.backend = ""
        self.database = database
        self.size = size
        self.limit = limit


class UnknownBackend(PublishError, LookupError):
    """The alias is not in OUTBOX_PUBLISHERS; `known` lists those that are."""

    field = "backend"

    def __init__(self, alias: object, known: tuple[str, ...]) -> None:
        listed = ", ".join(map(repr, known)) or "none at all"
        named = "no backend was named and there is no default" if alias is None else f"{alias!r}"
        super().__init__(f"backend: {named}; OUTBOX_PUBLISHERS has {listed}")
        self.alias = alias
        self.known = known


class InvalidPublisherConfig(PublishError, ValueError):
    """`publisher_config` has a key or a value that its backend does not accept.

    `backend` is the alias, or None where the value would be wrong for every backend.
    """

    field = "publisher_config"

    def __init__(self, message: str, backend: str | None = None) -> None:
        where = f" for backend {backend!r}" if backend else ""
        super().__init__(f"publisher_config{where}: {message}")
        self.backend = backend


class WrongTransaction(PublishError, RuntimeError):
    """The event's row would not commit together with the change it is about.

    Also raised by a delivery in the caller's own process, which needs that no transaction is open.
    """


class RefusedByDatabase(PublishError):
    """The database writes nothing with its configuration; the text says what to change.

    From `publish_events` it ends a block of `transaction.atomic()`, as the database's errors do.
    """


class PublishedFromAsync(PublishError, SynchronousOnlyOperation):
    """A synchronous publish call was made where an event loop runs; the message shows the ways."""

    def __init__(self) -> None:
        super().__init__(
            "publish calls are synchronous, and an event loop runs here. Put the change and the "
            "publish call into one function under transaction.atomic(), and await "
            "sync_to_async(function)(). An event without a change can await apublish_event()."
        )


MAX_RETRY_AFTER: Final = 86_400.0
"""Seconds: a day. What asks for a longer pause is not followed further than that."""


class DeliveryError(BroadcasterError):
    """One attempt to deliver did not succeed; raised and returned by backends.

    `retry_after` is how many seconds the destination wants to be left alone, from 0 to a day. The
    relay waits no less than that; it has no meaning for `Rejected` and `Held`.
    """

    retry_after: float = 0.0

    sent: bool = True
    """False where the event was not even sent, because of what came of another one."""

    unforeseen: Exception | None = None
    """What was raised instead of a DeliveryError, whose traceback the relay's log shows."""

    reason: str = ""
    """What may be logged of the error: a status, a code or a fixed text; nothing of an event."""

    handlers: tuple[tuple[str, Exception], ...] = ()
    """The handlers that failed, by name, each with its error."""

    def __init__(self, *args: object, retry_after: float = 0.0) -> None:
        super().__init__(*args)
        self.retry_after = min(max(0.0, retry_after), MAX_RETRY_AFTER)


class BackendUnavailable(DeliveryError):
    """The broker can't be reached or refuses everyone; the event itself is not to blame."""


class TransientError(DeliveryError):
    """This event was not accepted now, and may be later.

    `spends_retry` is False where the event is not to blame, as when it was not even sent because
    its one endpoint of many is away. Such events wait for as long as it takes. `waits_for` names
    that destination where the event was not sent: it is tried again when the backend says that the
    destination is back.
    """

    spends_retry: bool = True
    waits_for: str = ""

    def __init__(self, *args: object, retry_after: float = 0.0, spends_retry: bool = True) -> None:
        super().__init__(*args, retry_after=retry_after)
        self.spends_retry = spends_retry


class Rejected(DeliveryError):
    """This event can never be accepted by this broker."""


class AfterCommitFailed(Rejected):
    """A handler has committed, and then a function failed that it gave to `on_commit`.

    The inbox has the handler's note, so it does not run again: the event becomes a dead letter at
    once, whatever `ON_EXHAUSTED` says, and a retry of that dead letter skips the handler.
    """


class Held(DeliveryError):
    """This event was not sent, because an earlier one of its key failed in the same batch."""


class IllegalTransition(BroadcasterError):
    """An event can't go from its status to the one that was asked for."""

    def __init__(self, event_id: object, status: str, target: str) -> None:
        super().__init__(f"event {event_id} is {status} and can't become {target}")
        self.status = status
        self.target = target


class BrokenTransaction(BroadcasterError, TransactionManagementError):
    """A receiver of `event_created` met a database error: the transaction can't commit any more.

    Neither the event nor what the caller changed is saved. The transaction has to be rolled back.
    """


class CannotUnseal(BroadcasterError):
    """A payload is encrypted, and no key of OUTBOX_ENCRYPTION_KEYS decrypts it."""


class LeaseLost(BroadcasterError):
    """The relay's lease ended: it may change no row and start no delivery until it joins again."""


class ArchiveError(BroadcasterError):
    """Old events could not be archived: they stay in the outbox, and it is tried again."""


class ArchiveConfigurationError(BroadcasterError, ImproperlyConfigured):
    """OUTBOX_ARCHIVE is wrong; the message names the setting."""


class BackendConfigurationError(BroadcasterError, ImproperlyConfigured):
    """A backend's settings are wrong; the message names the setting and the alias."""


class MissingClient(BackendConfigurationError):
    """A broker's client library is not installed; the message names the extra to install."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"The client library {module!r} is not installed. "
            f"Install it with: pip install 'django-broadcaster[{extra}]'"
        )
        self.module = module
        self.extra = extra
