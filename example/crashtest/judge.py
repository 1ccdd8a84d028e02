"""Compare the committed events with those that arrived. This module does not import Django."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """An event, published by a writer or read at the destination."""

    id: str
    key: str
    sequence: int  # the place among the events of the key: 1, 2, 3


@dataclass(frozen=True)
class Verdict:
    """The numbers of events. All from `missing` on should be zero."""

    committed: int
    delivered: int  # committed events that arrived, without duplicates
    missing: int
    rolled_back: int  # arrived although their transaction was rolled back
    unknown: int  # arrived although they were not published, or with different values
    duplicates: int
    out_of_order: int

    @property
    def kept(self) -> bool:
        """Return True if all guarantees were kept."""
        fates = (self.missing, self.rolled_back, self.unknown, self.duplicates, self.out_of_order)
        return not any(fates)


def judge(
    committed: Collection[Event], rolled_back: Collection[str], arrived: Sequence[Event]
) -> Verdict:
    """Return the verdict. `rolled_back` has ids, and `arrived` is in the order of arrival."""
    promised, undone = set(committed), set(rolled_back)
    first_arrivals = list(dict.fromkeys(arrived))
    unpromised = [event for event in first_arrivals if event not in promised]
    from_undone = sum(event.id in undone for event in unpromised)
    delivered = len(first_arrivals) - len(unpromised)
    return Verdict(
        committed=len(promised),
        delivered=delivered,
        missing=len(promised) - delivered,
        rolled_back=from_undone,
        unknown=len(unpromised) - from_undone,
        duplicates=len(arrived) - len(first_arrivals),
        out_of_order=_overtaken(first_arrivals),
    )


def _overtaken(first_arrivals: Iterable[Event]) -> int:
    """Count the events that arrived after a later one of their key."""
    latest: dict[str, int] = {}
    count = 0
    for event in first_arrivals:
        count += event.sequence < latest.get(event.key, 0)
        latest[event.key] = max(event.sequence, latest.get(event.key, 0))
    return count
