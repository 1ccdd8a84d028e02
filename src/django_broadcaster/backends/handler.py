"""From alias to backend, by OUTBOX_PUBLISHERS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError, UnknownBackend
from django_broadcaster.redaction import hiding
from django_broadcaster.retention import RetentionPolicy
from django_broadcaster.retry import RetryPolicy

from .base import PublisherBackend

ENTRY_KEYS = frozenset({"BACKEND", "OPTIONS", "RETRY", "ON_EXHAUSTED", "RETENTION"})
ON_EXHAUSTED = ("skip", "block")


class BackendHandler:
    """The configured backends. `backends["alias"]` is made once and kept for publish calls."""

    def __init__(self) -> None:
        self._made: dict[str, PublisherBackend] = {}

    def __getitem__(self, alias: str) -> PublisherBackend:
        backend = self._made.get(alias)
        if backend is None:
            backend = self._made[alias] = self.create(alias)
        return backend

    def aliases(self) -> tuple[str, ...]:
        """Return the configured aliases in the order of the setting."""
        return tuple(conf.PUBLISHERS)

    def entry(self, alias: str) -> Mapping[str, Any]:
        """Return the alias's part of OUTBOX_PUBLISHERS; raises UnknownBackend."""
        try:
            return conf.PUBLISHERS[alias]
        except (KeyError, TypeError):
            raise UnknownBackend(alias, self.aliases()) from None

    def create(self, alias: str) -> PublisherBackend:
        """Make a new instance for a caller who opens and closes it: a relay has its own.

        Raises UnknownBackend, or BackendConfigurationError naming the setting and the alias.
        """
        entry = self.entry(alias)
        where = f"OUTBOX_PUBLISHERS[{alias!r}]"
        with hiding():
            backend_class = _backend_class(entry, where)
            try:
                return backend_class(alias=alias, **entry.get("OPTIONS", {}))
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

    def blocks_when_exhausted(self, alias: str) -> bool:
        """Tell whether an event that ran out of retries keeps its place, and its key waiting."""
        return bool(self.entry(alias).get("ON_EXHAUSTED", "skip") == "block")

    def retention(self, alias: str) -> RetentionPolicy:
        """Return how long the backend's events are kept: its RETENTION, or OUTBOX_RETENTION."""
        value = self.entry(alias).get("RETENTION", conf.RETENTION)
        return RetentionPolicy.of(value, default=conf.RETENTION)

    def reset(self) -> None:
        """Close and forget every instance."""
        made, self._made = self._made, {}
        for backend in made.values():
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


backends = BackendHandler()
"""The backends of this process."""


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "OUTBOX_PUBLISHERS":
        backends.reset()


setting_changed.connect(_forget, dispatch_uid="django_broadcaster.backends")
