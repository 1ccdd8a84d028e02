"""The backends of events from 0.1.1: its default alias, and aliases that run handlers."""

from __future__ import annotations

from typing import Final

from django.utils.module_loading import import_string

from django_broadcaster.backends.handler import HANDLERS, backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import UnknownBackend

REDIS: Final = "django_broadcaster.backends.RedisStreamBackend"
"""The only backend in OUTBOX_PUBLISHERS that 0.1.1 loaded."""


def default_of_0_1_1() -> str:
    """Return the alias to which 0.1.1 sent an event without a backend.

    This is the first alias of its Redis backend, else the first backend that a caller set. If there
    is neither, the alias is that of a publish call without a backend and routes.
    """
    of_redis = (name for name, each in conf.PUBLISHERS.items() if each.get("BACKEND") == REDIS)
    by_hand = iter(backends.put_in())
    return next(of_redis, None) or next(by_hand, None) or backends.default_alias() or "default"


def runs_handlers(alias: str) -> bool:
    """Return True if the backend of an alias runs handlers; False for an invalid backend."""
    if alias == HANDLERS and HANDLERS not in conf.PUBLISHERS:
        return True
    try:
        if alias in backends.put_in():
            return backends[alias].runs_handlers
        return bool(
            getattr(import_string(backends.entry(alias)["BACKEND"]), "runs_handlers", False)
        )
    except (AttributeError, ImportError, KeyError, TypeError, UnknownBackend):
        return False
