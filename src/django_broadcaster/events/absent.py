"""The value that stands for "not given" where None means something else."""

from enum import Enum
from typing import Final


class Absent(Enum):
    """The type of `ABSENT`; an enum, so that type checkers narrow it and pickling keeps it one."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT  # "not given": an event without data, as against one with JSON null
