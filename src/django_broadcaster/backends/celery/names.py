"""What a task, a queue or a routing key may be called."""

from __future__ import annotations

from typing import Final, TypeVar

from ..options import OptionReader

T = TypeVar("T")

PRIORITIES: Final = (0, 255)
"""What AMQP can carry; on Redis Celery knows 0 to 9."""

_LONGEST: Final = 255


def read_name(read: OptionReader, option: str, name: T, *, optional: bool = False) -> T:
    """Read a name; raises the reader's error."""
    read.text(option, name, _LONGEST, optional=optional)
    if isinstance(name, str) and not name.isprintable():
        read.refuse(option, f"must have no control characters, not {name!r}")
    return name
