"""When an event is tried again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from django_broadcaster.retry import RetryPolicy
from django_broadcaster.states import RETRIES_OF_SETTINGS

ALMOST_ONE = 1 - 2**-53
"""The largest value of random.random()."""

POLICIES = st.builds(
    RetryPolicy,
    initial=st.floats(1e-6, 10),
    factor=st.floats(1, 100) | st.integers(1, 100),
    maximum=st.floats(10, 1e9),
    jitter=st.floats(0, 1, exclude_max=True),
    random=st.floats(0, ALMOST_ONE).map(lambda value: lambda: value),
)
ATTEMPTS = st.integers(1, 10_000)


def schedule(policy: RetryPolicy, attempts: int, max_retries: int | None = None) -> list[Any]:
    """The delays after the first attempts."""
    return [policy.delay(attempt, max_retries) for attempt in range(1, attempts + 1)]


def test_schedule_of_the_defaults() -> None:
    """The retries follow after about 10 s, 80 s and 11 minutes, then every 15 minutes."""
    policy = RetryPolicy(random=lambda: 0.5)
    assert schedule(policy, 3) == pytest.approx([10, 80, 640])
    assert schedule(RetryPolicy(jitter=0), 5)[3:] == [900, 900]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_default_retries_reach_over_ten_minutes(chance: float) -> None:
    """Whatever the jitter, the third retry comes after ten minutes, and the first within 15 s."""
    delays = schedule(RetryPolicy(random=lambda: chance), 4, int(RETRIES_OF_SETTINGS))
    assert delays[0] < 15
    assert sum(delays[:3]) > 600
    assert delays[3] is None


def test_schedule_of_own_options() -> None:
    """Initial delay, factor and maximum are obeyed, and a factor of 1 keeps the delay."""
    policy = RetryPolicy(initial=0.5, factor=3, maximum=10, jitter=0)
    assert schedule(policy, 5) == [0.5, 1.5, 4.5, 10, 10]
    assert schedule(RetryPolicy(initial=5, factor=1, jitter=0), 3) == [5, 5, 5]


@pytest.mark.parametrize("max_retries", [0, 1, 3, 32_767])
def test_retries_are_counted_after_the_first_attempt(max_retries: int) -> None:
    """With `max_retries` = 3 the attempts 1 to 3 are followed by another, and the fourth is not."""
    policy = RetryPolicy()
    assert policy.delay(max_retries + 1, max_retries) is None
    assert policy.delay(max_retries + 2, max_retries) is None
    assert None not in schedule(policy, min(max_retries, 100), max_retries)
    assert max_retries == 0 or policy.delay(max_retries, max_retries) is not None


@given(policy=POLICIES, attempt=ATTEMPTS)
def test_no_limit_never_gives_up(policy: RetryPolicy, attempt: int) -> None:
    """Without a limit there is always a next attempt, however many there were."""
    assert policy.delay(attempt, None) is not None


@given(policy=POLICIES, attempt=ATTEMPTS)
def test_delay_is_within_its_bounds(policy: RetryPolicy, attempt: int) -> None:
    """It is above 0, never over the maximum, and off the backoff by no more than the jitter."""
    delay = policy.delay(attempt, None)
    assert delay is not None
    assert 0 < delay <= policy.maximum
    exact = RetryPolicy(
        initial=policy.initial, factor=policy.factor, maximum=policy.maximum, jitter=0
    ).delay(attempt, None)
    assert exact is not None
    slack = 1e-9 * exact
    assert exact * (1 - policy.jitter) - slack <= delay <= exact * (1 + policy.jitter) + slack


@given(policy=POLICIES, attempt=ATTEMPTS)
def test_delays_grow_until_the_maximum(policy: RetryPolicy, attempt: int) -> None:
    """With the same chance, a later attempt waits no shorter than the one before."""
    earlier, later = policy.delay(attempt, None), policy.delay(attempt + 1, None)
    assert earlier is not None
    assert later is not None
    assert earlier <= later * (1 + 1e-9)


@given(policy=POLICIES, attempt=ATTEMPTS)
def test_events_that_failed_together_come_back_apart(policy: RetryPolicy, attempt: int) -> None:
    """Jitter spreads the delays, also those at the maximum."""
    assume(policy.jitter > 0.01)
    options = {"initial": policy.initial, "factor": policy.factor, "maximum": policy.maximum}
    early, late = (
        RetryPolicy(**options, jitter=policy.jitter, random=lambda chance=chance: chance).delay(
            attempt, None
        )
        for chance in (0.0, ALMOST_ONE)
    )
    assert early is not None
    assert late is not None
    assert early < late


def test_chance_is_taken_for_every_delay() -> None:
    """The same attempt of two events is not delayed alike."""
    policy = RetryPolicy(jitter=0.5)
    assert len({policy.delay(5, None) for _ in range(100)}) > 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"initial": 0}, "initial"),
        ({"initial": -1}, "initial"),
        ({"factor": 0.9}, "factor"),
        ({"factor": -2}, "factor"),
        ({"maximum": 0.5}, "maximum"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1}, "jitter"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_retries": 32_768}, "max_retries"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], name: str) -> None:
    """An option out of its range is a ValueError that begins with its name."""
    with pytest.raises(ValueError, match=rf"^{name}: "):
        RetryPolicy(**options)


def test_policies_are_equal_by_value() -> None:
    """Where the chance comes from is no part of a policy."""
    assert RetryPolicy() == RetryPolicy(random=lambda: 0.0)
    assert RetryPolicy() != RetryPolicy(jitter=0)
    assert "random" not in repr(RetryPolicy())
