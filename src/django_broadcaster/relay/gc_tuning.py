"""Python's collector of reference cycles, told what a relay's memory looks like.

A batch is thousands of objects that live until it is settled, and next to none of them is in a
cycle. By its own figures the collector looks through them several times a batch, and now and then
through all that Django and the project have loaded, for 50 to 150 milliseconds each time: a tenth
to a fifth of what a relay takes of its processor.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_OBJECTS: Final = 10_000
"""New objects from which on the collector looks through them: about two batches of 1,000."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Leave alone what was loaded before, and look through what is new less often.

    It holds for the whole process. Cycles are still found, so that memory does not grow.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
