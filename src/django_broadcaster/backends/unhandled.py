"""A warning about events that no handler takes, once for each type."""

from __future__ import annotations

import logging

logger = logging.getLogger("django_broadcaster.backends")

MOST = 1000
"""The number of types that are remembered. Further ones are not logged."""

_logged: set[str] = set()


def tell_unhandled(event_type: str) -> None:
    """Log that no handler takes events of a type, the first time in this process."""
    if event_type in _logged or len(_logged) >= MOST:
        return
    _logged.add(event_type)
    logger.warning(
        "No handler takes events of type %r, so they count as delivered. Handlers are found in the "
        "module event_handlers of each installed app when the relay starts: restart it after "
        "adding a handler, and replay the events that it missed",
        event_type,
    )
