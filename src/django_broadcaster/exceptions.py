"""Every exception of django-broadcaster.

BroadcasterError
├── PublishError                     a publish call failed, and has written nothing
│   ├── InvalidEvent (ValueError)    the event breaks the CloudEvents specification or a column
│   │   └── PayloadTooLarge          the payload is over the backend's limit
│   │       └── StatementTooLong     the row is over `max_allowed_packet` of the database
│   ├── UnknownBackend (LookupError) the alias is not in OUTBOX_PUBLISHERS
│   ├── InvalidPublisherConfig (ValueError)   a key or value that the backend rejects
│   ├── WrongTransaction (RuntimeError)       the row would not commit with the caller's change
│   ├── PublishedFromAsync (SynchronousOnlyOperation)   a synchronous call in async code
│   └── RefusedByDatabase            the database's configuration prevents writing events
├── DeliveryError                    an attempt to deliver failed
│   ├── BackendUnavailable           the broker is unavailable: no retry is spent
│   ├── TransientError               this event failed: retry it by the retry policy
│   │   └── Retry                    raised by a handler: retry the event, by the policy or later
│   ├── Rejected                     this event can never be sent: make it a dead letter
│   │   ├── Reject                   raised by a handler: do not run the handler again
│   │   └── AfterCommitFailed        a handler's `on_commit` function failed: no retry repeats it
│   └── Held                         not sent, because an earlier event of its key failed
├── IllegalTransition                an event can't change from its status to another one
├── BrokenTransaction (TransactionManagementError)   a receiver broke the caller's transaction
├── CannotUnseal                     no key decrypts an encrypted payload
├── LeaseLost                        another relay may own the partitions now
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
    """Base class of all exceptions of django-broadcaster, which can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The method of Exception would call the class with the message only.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class PublishError(BroadcasterError):
    """A publish call failed; it has written nothing, and the transaction stays usable.

    If one event of `publish_events` is the cause, `index` is its place, from 0. Otherwise, and for
    calls with one event, it is None.
    """

    index: int | None = None

    def place_at(self, index: int) -> None:
        """Set `index`, and add it to the error's text."""
        self.index = index
        self.args = (f"event {index}: {self}",)


class InvalidEvent(PublishError, ValueError):
    """An attribute of an event is not valid; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class PayloadTooLarge(InvalidEvent):
    """The event is larger than the backend's limit; sizes are in bytes."""

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
    """The event's row exceeds `max_allowed_packet` of MariaDB or MySQL; sizes are in bytes.

    `database` is the alias. The statement would end the session, so it was not sent.
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
    """The alias is not in OUTBOX_PUBLISHERS; `known` has its aliases."""

    field = "backend"

    def __init__(self, alias: object, known: tuple[str, ...]) -> None:
        listed = ", ".join(map(repr, known)) or "no backends"
        named = "must be given, because there is no default"
        if alias is not None:
            named = f"must be an alias of OUTBOX_PUBLISHERS, not {alias!r}"
        super().__init__(f"backend: {named}; OUTBOX_PUBLISHERS has {listed}")
        self.alias = alias
        self.known = known


class InvalidPublisherConfig(PublishError, ValueError):
    """`publisher_config` has a key or a value that its backend rejects.

    `backend` is the alias, or None if the value is wrong for every backend.
    """

    field = "publisher_config"

    def __init__(self, message: str, backend: str | None = None) -> None:
        where = f" for backend {backend!r}" if backend else ""
        super().__init__(f"publisher_config{where}: {message}")
        self.backend = backend


class WrongTransaction(PublishError, RuntimeError):
    """The event's row would not commit together with the caller's change.

    A delivery in the caller's process also raises this error if a transaction is open.
    """


class RefusedByDatabase(PublishError):
    """The database's configuration prevents writing events; the text says what to change.

    It is also raised if the replication slot of a `DebeziumBackend` does not exist.

    If `publish_events` raises it, the block of `transaction.atomic()` can't commit, as after other
    errors of the database.
    """


class PublishedFromAsync(PublishError, SynchronousOnlyOperation):
    """A synchronous publish call was made in a running event loop; the text has alternatives."""

    def __init__(self) -> None:
        super().__init__(
            "publish calls are synchronous, but an event loop is running. Put the change and the "
            "publish call into one function under transaction.atomic(), and await "
            "sync_to_async(function)(). For an event without a change, await apublish_event()."
        )


MAX_RETRY_AFTER: Final = 86_400.0
"""The maximum of a requested pause in seconds, a day."""


class DeliveryError(BroadcasterError):
    """An attempt to deliver failed; raised and returned by backends.

    `retry_after` is the pause that the destination requests, in seconds up to a day. The relay
    waits at least that long. The value has no meaning for `Rejected` and `Held`.
    """

    retry_after: float = 0.0

    sent: bool = True
    """False if the event was not sent because another one failed."""

    unforeseen: Exception | None = None
    """An exception other than DeliveryError, whose traceback the relay logs."""

    details: str = ""
    """Further text that is stored with the error, but never logged, such as a response."""

    reason: str = ""
    """The loggable part of the error: a status, a code or a fixed text; nothing of an event."""

    handlers: tuple[tuple[str, Exception], ...] = ()
    """The handlers that failed, by name, each with its error."""

    delay: float | None = None
    """The seconds before the next attempt, in place of the retry policy's; None leaves it to that.

    `retry_after` still applies if it is longer.
    """

    def __init__(self, *args: object, retry_after: float = 0.0) -> None:
        super().__init__(*args)
        self.retry_after = min(max(0.0, retry_after), MAX_RETRY_AFTER)


class BackendUnavailable(DeliveryError):
    """The broker is unavailable or refuses every event; the cause is not this event."""


class TransientError(DeliveryError):
    """This event was not accepted, but a retry may succeed.

    `spends_retry` is False if the cause is not the event, for example if one endpoint of many is
    unavailable. Such events wait without a limit. If the event was not sent, `waits_for` names the
    destination. Once the backend reports that the destination is available, the event is retried.
    """

    spends_retry: bool = True
    waits_for: str = ""

    def __init__(self, *args: object, retry_after: float = 0.0, spends_retry: bool = True) -> None:
        super().__init__(*args, retry_after=retry_after)
        self.spends_retry = spends_retry


class Retry(TransientError):
    """Raised by a handler that wants to run again, `after` this many seconds, up to a day.

    Without `after`, the retry policy has the pause. A retry is spent as for any other error.

        raise Retry("the stock is being counted", after=60)
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason or "the handler asked for a retry")
        if after is not None:
            self.delay = min(max(0.0, after), MAX_RETRY_AFTER)


class Rejected(DeliveryError):
    """This event can never be accepted by this broker."""


class Reject(Rejected):
    """Raised by a handler that can never process the event; it does not run for it again.

    The event becomes a dead letter once none of its other handlers is to be retried.
    """


class AfterCommitFailed(Rejected):
    """A handler has committed, and then a function that it passed to `on_commit` failed.

    The inbox has the handler's note, so the handler does not run again. Whatever `ON_EXHAUSTED` is,
    the event immediately becomes a dead letter, and a retry of it skips the handler.
    """


class Held(DeliveryError):
    """This event was not sent, because an earlier one of its key failed in the same batch.

    A backend may also return it for an event without a key, which it leaves to the next batch.
    """

    def __init__(self, why: str = "an earlier event of its key failed in this batch") -> None:
        super().__init__(why)


class IllegalTransition(BroadcasterError):
    """An event can't change from its status to the requested one."""

    def __init__(self, event_id: object, status: str, target: str) -> None:
        super().__init__(f"event {event_id} is {status} and can't become {target}")
        self.status = status
        self.target = target


class BrokenTransaction(BroadcasterError, TransactionManagementError):
    """A receiver of `event_created` caused a database error, so the transaction can't commit.

    Neither the event nor the caller's changes are saved. The transaction must be rolled back.
    """


class CannotUnseal(BroadcasterError):
    """A payload is encrypted, and no key of OUTBOX_ENCRYPTION_KEYS decrypts it."""


class LeaseLost(BroadcasterError):
    """The relay's lease has ended: until it joins again, it must not change rows or deliver."""


class ArchiveError(BroadcasterError):
    """Old events could not be archived. They stay in the outbox until a retry succeeds."""


class ArchiveConfigurationError(BroadcasterError, ImproperlyConfigured):
    """OUTBOX_ARCHIVE is not valid; the message names the setting."""


class BackendConfigurationError(BroadcasterError, ImproperlyConfigured):
    """A backend's settings are not valid; the message names the setting and the alias."""


class MissingClient(BackendConfigurationError):
    """A broker's client library is not installed; the message names the extra to install."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"The client library {module!r} is not installed. "
            f"Install it with: pip install 'django-broadcaster[{extra}]'"
        )
        self.module = module
        self.extra = extra
