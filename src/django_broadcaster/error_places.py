"""The line of the project that raised an error. It holds nothing of a payload."""

from __future__ import annotations

import os.path
import sys
import sysconfig
from functools import lru_cache
from traceback import walk_tb
from types import TracebackType

_PACKAGE = os.path.join(os.path.dirname(__file__), "")
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = (*(os.path.join(path, "") for path in _PATHS), "<")


def place_of(error: BaseException) -> str:
    """Return the file and line of the project where an error was raised, as in `shop/pay.py:12`.

    If no line of its traceback is the project's, that is the first line of another package.
    """
    others = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_PACKAGE)
    ]
    projects = [each for each in others if not each[0].startswith(_LIBRARIES)]
    found = projects[-1:] or others[:1]
    return "".join(f"{_short(path)}:{line}" for path, line in found)


def from_project(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first line of the project; unchanged if it has none.

    The frames before are those of this package that called it, the same for every error.
    """
    found = trace
    while found is not None and _is_foreign(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found or trace


def _is_foreign(path: str) -> bool:
    return path.startswith((_PACKAGE, *_LIBRARIES))


@lru_cache(maxsize=256)
def _short(path: str) -> str:
    """Return the path of a file below the folder that it is imported from."""
    roots = (os.path.join(os.path.abspath(root), "") for root in sys.path)
    return path[max((len(root) for root in roots if path.startswith(root)), default=0) :]
