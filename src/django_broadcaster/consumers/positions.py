"""Positions of sources that are stored in the database, in the transaction of each batch.

A broker keeps the position up to which a group has read. A receiver that crashes between the commit
of a batch and its acknowledgement reads the batch again. With its position in the database it does
not.

Each source, such as a partition, has a row. A receiver that is given a source takes its row: the
row's epoch grows, which fences the receiver that had the source before. That one's batch is then
written without the messages of the source, and the position does not move back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class Source:
    """A source that a receiver has taken.

    Args:
        name: The name, which no other source of the consumer has.
        row: The id of its row.
        epoch: The epoch of this receiver.
        position: Where to begin; None if none is stored.
        is_held: Whether the broker has not given it to another receiver, as far as is known.
    """

    name: str
    row: int
    epoch: int
    position: int | None
    is_held: bool = True


class Position(NamedTuple):
    """The position in a source after a message."""

    source: Source
    after: int


TakeSources = Callable[[Collection[str]], Sequence[Source]]
"""Takes sources by their names, for a consumer that has just been given them."""
