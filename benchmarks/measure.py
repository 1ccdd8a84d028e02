"""Run a measurement and its bare loop in turns, and compute the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: `ours` and `bare` are medians in `unit`, `ratio` the median of runs.

    `wanted` is the goal for the ratio, such as `>= 0.80`; empty without a goal.
    """

    name: str
    unit: str
    ours: float
    bare: float
    ratio: float
    wanted: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the ratio reaches the goal; None without a goal."""
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
    """Measure both in turns, `runs` times, so that other load affects both."""
    pairs: list[tuple[float, float]] = []
    for run in range(runs):
        # The second one finds warmer caches, so the order alternates.
        if run % 2:
            pairs.append((ours(), bare()))
        else:
            theirs = bare()
            pairs.append((ours(), theirs))
    return of_pairs(name, pairs, unit=unit, wanted=wanted)


def of_pairs(
    name: str, pairs: Sequence[tuple[float, float]], *, unit: str, wanted: str = ""
) -> Figure:
    """Return the figure of several runs, each of which measured both."""
    return Figure(
        name,
        unit,
        ours=median(ours for ours, _ in pairs),
        bare=median(bare for _, bare in pairs),
        ratio=median(ours / bare if bare else inf for ours, bare in pairs),
        wanted=wanted,
    )
