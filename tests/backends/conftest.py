"""Fixtures of the backends' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_broadcaster.testing import Fault
from tests.relay.conftest import clock, join
from tests.support.certificates import make_certificates

__all__ = ["certificates", "clock", "join"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, certificates of it for 127.0.0.1 and for a client, and another CA."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


STOPPING = {Fault.RESTART, Fault.CUT, Fault.FROZEN, Fault.INTERRUPT}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the faults that stop a server or cut it off to `make test-chaos`."""
    for item in items:
        if getattr(getattr(item, "function", None), "fault", None) in STOPPING:
            item.add_marker(pytest.mark.chaos)
