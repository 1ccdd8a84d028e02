"""Tuning of Python's garbage collector for the memory of a relay.

A batch is thousands of objects that live until it is settled, and nearly none of them is in a
cycle. By default the collector scans them several times a batch, and sometimes everything that
Django and the project have loaded, for 50 to 150 milliseconds each time. That is a tenth to a fifth
of the relay's processor time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_OBJECTS: Final = 100_000
"""New objects after which the collector scans them.

Two batches of 1,000 rows are about 10,000 objects, and those of a receiver about 50,000.
"""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Exclude what was loaded before from collections, and scan new objects less often.

    This applies to the whole process. Cycles are still found, so memory does not grow.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
