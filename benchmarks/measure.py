"""Runs something of ours and its bare loop in turns, and sums up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: `ours` and `bare` are medians in `unit`, `ratio` the median of runs.

    `wanted` says what the ratio is to reach, such as `>= 0.80`; empty where nothing was set.
    """

    name: str
    unit: str
    ours: float
    bare: float
    ratio: float
    wanted: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is what was wanted; None where nothing was."""
        if not self.wanted:
            return None
        sign, bound = self.wanted.split()
        return self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)

    def as_dict(self) -> dict[str, object]:
        """Return the figure for JSON."""
        return {**asdict(self), "reached": self.reached}


def compare(
    name: str,
    ours: Callable[[], float],
    bare: Callable[[], float],
    *,
    unit: str = "events/s",
    wanted: str = "",
    runs: int = 5,
) -> Figure:
    """Measure both in turns, `runs` times, so that a busy machine is busy for both."""
    pairs = []
    for run in range(runs):
        # The one that goes second finds warmer caches, so they take turns at that too.
        pair = (ours(), bare()) if run % 2 else tuple(reversed((bare(), ours())))
        pairs.append(pair)
    return Figure(
        name,
        unit,
        ours=median(pair[0] for pair in pairs),
        bare=median(pair[1] for pair in pairs),
        ratio=median(pair[0] / pair[1] for pair in pairs),
        wanted=wanted,
    )
