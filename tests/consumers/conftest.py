"""Fixtures and marks of the consumers' tests."""

from __future__ import annotations

import pytest

from django_broadcaster.testing import ConsumerFault
from tests.relay.conftest import workers

__all__ = ["workers"]

STOPPING = {
    ConsumerFault.RESTART,
    ConsumerFault.CUT,
    ConsumerFault.CUT_ACKNOWLEDGEMENT,
    ConsumerFault.FROZEN,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the faults that stop a server or cut it off to `make test-chaos`."""
    for item in items:
        if getattr(getattr(item, "function", None), "fault", None) in STOPPING:
            item.add_marker(pytest.mark.chaos)
