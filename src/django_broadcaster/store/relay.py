"""The rows of one backend as a relay reads and moves them, in SQL.

Every statement that changes a row carries the fence: once the relay's lease has ended, it changes
nothing. Each statement is complete in itself, so a crash between two of them loses nothing.
"""

from __future__ import annotations

from .fetch import FetchSQL
from .pulse import PulseSQL
from .settle import SettleSQL
from .waiting import WaitingSQL


class RelayRows(FetchSQL, PulseSQL, SettleSQL, WaitingSQL):
    """The rows of one backend as the relay that holds lease `relay_id` may read and move them."""
