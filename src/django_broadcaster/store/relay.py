"""The rows of one backend as a relay reads and moves them, in SQL.

Every statement that changes a row carries the fence: once the relay's lease has ended, it changes
nothing. Each statement is complete in itself, so a crash between two of them loses nothing.
"""

from __future__ import annotations

from .fetch import FetchSQL
from .promote import PromoteSQL
from .pulse import PulseSQL
from .settle import SettleSQL


class RelayRows(FetchSQL, PulseSQL, SettleSQL, PromoteSQL):
    """The rows of one backend as the relay that holds lease `lease_id` may read and move them."""
