"""Values that differ from `None`: "not given", and JSON's null as data."""

from enum import Enum
from typing import Final


class Absent(Enum):
    """The type of `ABSENT`; an enum, which type checkers narrow and pickling preserves."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


class JSONNull(Enum):
    """The type of `JSON_NULL`."""

    JSON_NULL = "null"

    def __repr__(self) -> str:
        return "JSON_NULL"


ABSENT: Final = Absent.ABSENT
"""Not given: as `time`, the event happens now; as `data`, the event has none."""

JSON_NULL: Final = JSONNull.JSON_NULL
"""As `data`, the payload is JSON's null: `data=None` is an event without data."""
