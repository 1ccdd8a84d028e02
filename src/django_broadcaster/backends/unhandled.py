"""Events that no handler takes: delivered to nobody, which is said once for each type."""

from __future__ import annotations

import logging

logger = logging.getLogger("django_broadcaster.backends")

MOST = 1000
"""Types that are remembered to have been told of. Further ones are not told of."""

_told: set[str] = set()


def tell_unhandled(event_type: str) -> None:
    """Log that no handler takes events of a type, the first time in this process."""
    if event_type in _told or len(_told) >= MOST:
        return
    _told.add(event_type)
    logger.warning(
        "no handler takes events of type %r, so they count as delivered; handlers are found in the "
        "module event_handlers of each installed app, when the relay starts: start it anew for a "
        "new one, and replay what it has missed",
        event_type,
    )
