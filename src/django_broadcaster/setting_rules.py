"""Rules for values of settings: what a value must be, in words, and the function that judges it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from math import isfinite
from typing import Any, Final, NamedTuple, TypeGuard

LONGEST: Final = timedelta(days=36_500)
"""The longest duration in a setting. Subtracting more from today leaves the range of dates."""


class Rule(NamedTuple):
    """One rule. `wanted` follows the words "must be"; `unit` is what a number counts."""

    wanted: str
    accepts: Callable[[Any], bool]
    unit: str = ""


MAX_RETRIES: Final = 32_767
"""The highest `max_retries`: the limit of the column in the database with the smallest integers."""

BOOLEAN: Final = Rule("True or False", lambda value: isinstance(value, bool))

DURATION: Final = Rule(
    "a timedelta or a positive number of seconds, at most 100 years, or None",
    lambda value: value is None or 0 < seconds(value) <= LONGEST.total_seconds(),
    "seconds",
)

POSITIVE_SECONDS: Final = Rule(
    "a positive number of seconds", lambda value: is_number(value) and value > 0, "seconds"
)

RATIO: Final = Rule(
    "a number above 0, at most 1", lambda value: is_number(value) and 0 < value <= 1
)

DAYS: Final = Rule(
    f"a number of days from 0 to {LONGEST.days}",
    lambda value: is_number(value) and 0 <= value <= LONGEST.days,
    "days",
)


def seconds_from(least: float) -> Rule:
    """Return the rule for a number of seconds with a minimum."""
    return Rule(
        f"a number of seconds, {least:g} or more",
        lambda value: is_number(value) and value >= least,
        "seconds",
    )


@cache
def whole(unit: str, least: int, most: int | None = None) -> Rule:
    """Return the rule for a whole number within inclusive bounds."""
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    return Rule(
        f"a whole number{unit and ' of '}{unit}{bounds}",
        lambda value: is_whole(value, least) and (most is None or value <= most),
        unit,
    )


RETRIES: Final = whole("retries", 0, MAX_RETRIES)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return True for a finite number that is not a bool."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Return True for an integer that is not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def seconds(value: object) -> float:
    """Return a duration in seconds, or -1 for any other value."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if is_number(value) else -1
