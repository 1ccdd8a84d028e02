"""From alias to backend, by OUTBOX_PUBLISHERS."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from threading import RLock
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError, UnknownBackend
from django_broadcaster.redaction import masking_errors
from django_broadcaster.registry import event_registry
from django_broadcaster.retention import RetentionPolicy, by_status
from django_broadcaster.retry import RetryPolicy

from .base import MessageBackend, PublisherBackend, takes_dictionary
from .event_backend import EventBackend
from .in_database import InDatabaseBackend

ENTRY_KEYS = frozenset({"BACKEND", "OPTIONS", "RETRY", "ON_EXHAUSTED", "RETENTION"})
ON_EXHAUSTED = ("skip", "block")

_HANDLERS_ENTRY = {
    "BACKEND": "django_broadcaster.backends.LocalBackend",
    "OPTIONS": {"requires_handler": True},
}


HANDLERS = "handlers"
"""The alias that runs handlers if no setting of the project names a backend for them."""


class BackendHandler:
    """The configured backends. `backends["alias"]` is made once and kept for publish calls.

    Four kinds of aliases are known: those of OUTBOX_PUBLISHERS, those whose backend was `put` in
    by hand, `handlers`, and those of the queues of an `OutboxTaskBackend` in TASKS. `handlers`
    exists if handlers are registered, no backend runs them, and OUTBOX_ROUTES is not set. The
    default of OUTBOX_PUBLISHERS is for a project that puts in none.
    """

    def __init__(self) -> None:
        self._made: dict[str, MessageBackend] = {}
        self._by_hand: dict[str, MessageBackend] = {}
        self._locks: dict[str, RLock] = {}
        self._runs_handlers: bool | None = None
        self._of_tasks: Mapping[str, Mapping[str, Any]] | None = None

    def __getitem__(self, alias: str) -> MessageBackend:
        backend = self._made.get(alias)
        if backend is None:
            backend = self._made[alias] = self.create(alias)
        return backend

    def aliases(self) -> tuple[str, ...]:
        """Return the configured aliases in the order of the setting."""
        return tuple(self._entries())

    def default_alias(self) -> str | None:
        """Return `default` if there is such an alias, else the first alias, else None."""
        aliases = self.aliases()
        return "default" if "default" in aliases else next(iter(aliases), None)

    def put(self, alias: str, backend: PublisherBackend) -> None:
        """Use this instance for an alias, configured or not, until it is removed.

        Raises:
            BackendConfigurationError: The instance is in use for another alias.
        """
        for other, known in self._made.items():
            if other != alias and (backend is known or backend is getattr(known, "wrapped", None)):
                raise BackendConfigurationError(
                    f"backend {alias!r}: the instance is in use for the alias {other!r}; "
                    "make an instance for each alias"
                )
        self._by_hand[alias] = self._made[alias] = _of_messages(backend, alias)
        self._locks.setdefault(alias, RLock())
        self._runs_handlers = None

    def put_in(self) -> tuple[str, ...]:
        """Return the aliases whose backend was put in by hand."""
        return tuple(self._by_hand)

    def lock_of(self, alias: str) -> RLock | None:
        """Return the lock of the instance that was put in for an alias, None if there is none.

        All deliveries of the process share that instance, one call at a time.
        """
        return self._locks[alias] if alias in self._by_hand else None

    def remove(self, alias: str) -> None:
        """Forget the instance that was put in for an alias; raises KeyError if there is none."""
        del self._by_hand[alias]
        self._made.pop(alias, None)
        self._runs_handlers = None

    def of_handlers(self, event_type: str) -> str | None:
        """Return the alias that an event's handlers need beside the backends that it goes to."""
        if not event_registry or not self._adds_handlers():
            return None
        return HANDLERS if event_registry.handlers_for(event_type) else None

    def adds(self, alias: str) -> bool:
        """Return True if no setting names the alias: it was added for an event's handlers."""
        return alias == HANDLERS and bool(self._adds_handlers())

    def of_tasks(self) -> tuple[str, ...]:
        """Return the aliases that the queues of an `OutboxTaskBackend` in TASKS send tasks to."""
        return tuple(self._entries_of_tasks())

    def _configured(self) -> Mapping[str, Mapping[str, Any]]:
        if self._by_hand and not hasattr(settings, "OUTBOX_PUBLISHERS"):
            return {}
        return conf.PUBLISHERS

    def _entries(self) -> Mapping[str, Mapping[str, Any]]:
        of_tasks = self._entries_of_tasks()
        adds_handlers = bool(event_registry) and self._adds_handlers()
        if not (self._by_hand or adds_handlers or of_tasks):
            return conf.PUBLISHERS
        entries = {**self._configured()}
        for alias in self._by_hand:
            entries.setdefault(alias, {})
        if adds_handlers:
            entries[HANDLERS] = _HANDLERS_ENTRY
        return {**entries, **{k: v for k, v in of_tasks.items() if k not in entries}}

    def _entries_of_tasks(self) -> Mapping[str, Mapping[str, Any]]:
        if self._of_tasks is None:
            self._of_tasks = _entries_of_tasks()
        return self._of_tasks

    def _adds_handlers(self) -> bool:
        if conf.ROUTES is not None or not event_registry:
            return False
        configured = self._configured()
        if HANDLERS in configured:
            return False
        if self._runs_handlers is None:
            self._runs_handlers = any(map(_is_consumer, configured.values())) or any(
                backend.runs_handlers for backend in self._by_hand.values()
            )
        return not self._runs_handlers

    def entry(self, alias: str) -> Mapping[str, Any]:
        """Return the alias's part of OUTBOX_PUBLISHERS; raises UnknownBackend."""
        try:
            return self._entries()[alias]
        except (KeyError, TypeError):
            raise UnknownBackend(alias, self.aliases()) from None

    def create(self, alias: str) -> MessageBackend:
        """Make a new instance for a caller who opens and closes it: a relay has its own.

        One that was put in by hand is returned as it is.

        Raises:
            UnknownBackend: The alias is not configured.
            BackendConfigurationError: A setting is invalid; the text names it and the alias.
        """
        if alias in self._by_hand:
            return self._by_hand[alias]
        entry = self.entry(alias)
        where = f"OUTBOX_PUBLISHERS[{alias!r}]"
        with masking_errors():
            backend_class = _backend_class(entry, where)
            try:
                options = entry.get("OPTIONS", {})
                if takes_dictionary(backend_class):
                    made = backend_class(dict(options))
                else:
                    made = backend_class(alias=alias, **options)  # type: ignore[call-arg]
                return _of_messages(made, alias)
            except BackendConfigurationError:
                raise
            except (TypeError, ValueError) as error:
                raise BackendConfigurationError(f"{where}['OPTIONS']: {error}") from error

    def retry_policy(self, alias: str) -> RetryPolicy:
        """Return the backend's RETRY over OUTBOX_RETRY; raises BackendConfigurationError."""
        options = {**conf.RETRY, **self.entry(alias).get("RETRY", {})}
        try:
            return RetryPolicy(**options)
        except (TypeError, ValueError) as error:
            raise BackendConfigurationError(
                f"OUTBOX_PUBLISHERS[{alias!r}]['RETRY'] over OUTBOX_RETRY: {error}"
            ) from error

    def max_retries(self, alias: str) -> object:
        """Return `max_retries` of the backend's RETRY, OUTBOX_RETRY or OUTBOX_MAX_RETRIES."""
        for options in (self.entry(alias).get("RETRY", {}), conf.RETRY):
            if options.get("max_retries") is not None:
                return options["max_retries"]
        return conf.MAX_RETRIES

    def runs_handlers(self, alias: str) -> bool:
        """Return True if the backend of an alias runs handlers."""
        if alias in self._by_hand:
            return self._by_hand[alias].runs_handlers
        return _is_consumer(self._entries().get(alias, {}))

    def slots(self) -> dict[str, tuple[str, int]]:
        """Return the replication slot of each backend that has one, and its limit in bytes.

        A backend that can't be created is left out: the relay and the system checks report it.
        """
        found = {}
        for alias, entry in self._entries().items():
            if alias in self._by_hand or _writes_in_database(entry):
                with suppress(BackendConfigurationError):
                    backend = self[alias]
                    if isinstance(backend, InDatabaseBackend):
                        found[alias] = (backend.slot, backend.max_wal_bytes)
        return found

    def blocks_when_exhausted(self, alias: str) -> bool:
        """Return True if an event that ran out of retries keeps its place, and its key waiting."""
        return bool(self.entry(alias).get("ON_EXHAUSTED", "skip") == "block")

    def retention(self, alias: str) -> RetentionPolicy:
        """Return how long the backend's events are kept: its RETENTION over OUTBOX_RETENTION."""
        own = self.entry(alias).get("RETENTION", {})
        return RetentionPolicy.of({**by_status(conf.RETENTION), **by_status(own)})

    def reset(self) -> None:
        """Close and forget every instance."""
        made, self._made = self._made, {**self._by_hand}
        self._runs_handlers = self._of_tasks = None
        for alias, backend in made.items():
            if alias not in self._by_hand:
                backend.close()


def _backend_class(entry: Mapping[str, Any], where: str) -> type[PublisherBackend]:
    path = entry.get("BACKEND")
    if not path:
        raise BackendConfigurationError(
            f"{where} needs 'BACKEND': the dotted path of a backend class"
        )
    try:
        found = import_string(path)
    except ImportError as error:
        raise BackendConfigurationError(
            f"{where}['BACKEND']: {path!r} can't be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, PublisherBackend)):
        raise BackendConfigurationError(
            f"{where}['BACKEND']: {path!r} is not a subclass of PublisherBackend"
        )
    return found


def _of_messages(backend: PublisherBackend, alias: str) -> MessageBackend:
    """Return a backend that is given messages: itself, or one that hands it each as an event.

    A subclass of a `MessageBackend` with a `publish` of its own wants events, too.
    """
    if isinstance(backend, MessageBackend) and type(backend).publish is MessageBackend.publish:
        backend.alias = alias
        return backend
    return EventBackend(wrapped=backend, alias=alias)


def _is_consumer(entry: Mapping[str, Any]) -> bool:
    """Return True if the backend of an entry runs handlers; a wrong entry does not."""
    return bool(getattr(_class_of(entry), "runs_handlers", False))


def _writes_in_database(entry: Mapping[str, Any]) -> bool:
    """Return True if the backend of an entry writes into the outbox's own database."""
    found = _class_of(entry)
    return found is not None and issubclass(found, InDatabaseBackend)


def _class_of(entry: Mapping[str, Any]) -> type[PublisherBackend] | None:
    """Return the class of an entry's backend, None for a wrong entry."""
    try:
        return _backend_class(entry, "")
    except (BackendConfigurationError, AttributeError, TypeError):
        return None


def _entries_of_tasks() -> Mapping[str, Mapping[str, Any]]:
    """Return the entries that the backends in TASKS want to have."""
    entries: dict[str, Mapping[str, Any]] = {}
    for alias, params in getattr(settings, "TASKS", {}).items():
        with suppress(ImportError, ImproperlyConfigured, KeyError):  # Django reports it
            publishers = getattr(import_string(params["BACKEND"]), "outbox_publishers", None)
            if publishers is not None:
                entries |= {k: v for k, v in publishers(alias, params).items() if k not in entries}
    return entries


backends = BackendHandler()
"""The backends of this process."""


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("OUTBOX_PUBLISHERS", "OUTBOX_ROUTES", "TASKS"):
        backends.reset()


setting_changed.connect(_forget, dispatch_uid="django_broadcaster.backends")
