"""Tests about the faults of a server: each is about one, and runs once for each of its cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from functools import wraps
from typing import Any, ClassVar, Final

import pytest

SECONDS: Final = 60.0
"""The longest that a delivery may take after a fault is over."""


def about(fault: StrEnum) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Note which fault a test is about, and close after it what `closed_after_test` was given."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(self: FaultTests, **arguments: Any) -> None:
            with ExitStack() as self._made:
                test(self, **arguments)

        run.fault = fault  # type: ignore[attr-defined]
        return run

    return decorate


class FaultTests:
    """The base of a contract whose tests are each about one fault."""

    excluded: ClassVar[Mapping[Any, str]] = {}
    """Faults that this server cannot have, each with the reason. They have no test."""

    cases: ClassVar[Mapping[Any, Sequence[str]]] = {}
    """The ways in which a fault occurs, by name. The hook is called with each."""

    _made: ExitStack

    def __init_subclass__(cls) -> None:
        """Remove the tests of what a server cannot have."""
        super().__init_subclass__()
        for name in dir(cls):
            if getattr(getattr(cls, name), "fault", None) in cls.excluded:
                setattr(cls, name, None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test once for each case of its fault."""
        if "case" in metafunc.fixturenames:
            fault = metafunc.function.fault
            metafunc.parametrize("case", self.cases.get(fault, ("default",)))

    def closed_after_test(self, close: Callable[[], object]) -> None:
        """Call a function after the test."""
        self._made.callback(close)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} seconds: {what}"
        time.sleep(0.01)
