"""Fixtures of the backends' tests."""

from __future__ import annotations

import pytest

from django_broadcaster.testing import Fault
from tests.relay.conftest import clock, join

__all__ = ["clock", "join"]


STOPPING = {Fault.RESTART, Fault.CUT, Fault.FROZEN, Fault.INTERRUPT}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the faults that stop a server or cut it off to `make test-chaos`.

    A class may name more such faults of its server in `stopping`.
    """
    for item in items:
        stopping = STOPPING | getattr(getattr(item, "cls", None), "stopping", frozenset())
        if getattr(getattr(item, "function", None), "fault", None) in stopping:
            item.add_marker(pytest.mark.chaos)
