"""From alias to consumer, by OUTBOX_CONSUMERS."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from django.utils.module_loading import import_string

from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.redaction import masking_errors

from .base import Consumer

ENTRY_KEYS = frozenset({"CONSUMER", "OPTIONS", "DELIVER_TO"})


class ConsumerHandler:
    """The configured consumers."""

    def __init__(self) -> None:
        self._of_thread = _OfThread()

    def aliases(self) -> tuple[str, ...]:
        """Return the configured aliases in the order of the setting."""
        return tuple(conf.CONSUMERS)

    def entry(self, alias: str) -> Mapping[str, Any]:
        """Return the alias's part of OUTBOX_CONSUMERS; raises BackendConfigurationError."""
        try:
            return conf.CONSUMERS[alias]
        except (KeyError, TypeError):
            listed = ", ".join(map(repr, self.aliases())) or "no consumers"
            raise BackendConfigurationError(
                f"OUTBOX_CONSUMERS has no {alias!r}; it has {listed}"
            ) from None

    def create(self, alias: str) -> Consumer:
        """Make a new instance for a caller who opens and closes it: a receiver has its own.

        Raises:
            BackendConfigurationError: A setting is invalid; the text names it and the alias.
        """
        entry, where = self.entry(alias), f"OUTBOX_CONSUMERS[{alias!r}]"
        with masking_errors():
            consumer_class = _consumer_class(entry, where)
            try:
                return consumer_class(alias=alias, **entry.get("OPTIONS", {}))
            except BackendConfigurationError:
                raise
            except (TypeError, ValueError) as error:
                raise BackendConfigurationError(f"{where}['OPTIONS']: {error}") from error

    def decoder(self, alias: str) -> Consumer:
        """Return an instance that is never opened, to decode messages that are stored.

        Each thread has its own, and keeps it with the schemas that it knows by now. A new value of
        the setting makes a new instance.

        Raises:
            BackendConfigurationError: A setting is invalid; the text names it and the alias.
        """
        entry = self.entry(alias)
        made_of, found = self._of_thread.made.get(alias, (None, None))
        if found is None or made_of is not entry:
            found = self.create(alias)
            self._of_thread.made[alias] = entry, found
        return found

    def delivers_to(self, alias: str) -> str:
        """Return the alias of the backend that runs handlers for a consumer's events.

        Raises:
            BackendConfigurationError: DELIVER_TO names no such backend, or is missing while there
                is not exactly one.
        """
        where = f"OUTBOX_CONSUMERS[{alias!r}]['DELIVER_TO']"
        return local_backend(self.entry(alias).get("DELIVER_TO"), where)


class _OfThread(threading.local):
    """The instances of a thread by alias, and the settings of which they were made."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[Mapping[str, Any], Consumer]] = {}


def local_backend(named: object, where: str) -> str:
    """Return the alias of the backend that runs handlers: the named one, or the only one.

    Args:
        named: The alias, or None.
        where: The setting or argument that names it.

    Raises:
        BackendConfigurationError: There is no such backend, or none is named of several.
    """
    local = [each for each in backends.aliases() if backends.runs_handlers(each)]
    listed = ", ".join(map(repr, local)) or "none"
    if named is None and len(local) == 1:
        return local[0]
    if named is None:
        raise BackendConfigurationError(
            f"{where} must be given, because OUTBOX_PUBLISHERS does not have exactly one backend "
            f"that runs handlers; it has {listed}"
        )
    if named not in local:
        raise BackendConfigurationError(
            f"{where} must be an alias of OUTBOX_PUBLISHERS whose backend runs handlers, not "
            f"{named!r}; such are {listed}"
        )
    return str(named)


def _consumer_class(entry: Mapping[str, Any], where: str) -> type[Consumer]:
    path = entry.get("CONSUMER")
    if not path:
        raise BackendConfigurationError(
            f"{where} needs 'CONSUMER': the dotted path of a consumer class"
        )
    try:
        found = import_string(path)
    except ImportError as error:
        raise BackendConfigurationError(
            f"{where}['CONSUMER']: {path!r} can't be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Consumer)):
        raise BackendConfigurationError(
            f"{where}['CONSUMER']: {path!r} is not a subclass of "
            "django_broadcaster.consumers.Consumer"
        )
    return found


consumers = ConsumerHandler()
"""The consumers of this process."""
