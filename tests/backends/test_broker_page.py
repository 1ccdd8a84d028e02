"""The page of each broker's tests, which is written from the tests."""

from __future__ import annotations

from importlib import import_module

import pytest

from django_broadcaster.backends import MessageBackend
from django_broadcaster.testing import BackendFaultContract
from tests.support.broker_page import BROKERS, PAGE, SERVERLESS, classes_of, page

from .test_options import backend_classes


def test_page_is_as_the_tests_are() -> None:
    """Write it with `python -m tests.support.broker_page`."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize(
    "backend", [pytest.param(each, id=each.__name__) for each in backend_classes()]
)
def test_every_backend_with_a_server_runs_the_fault_contract(backend: type[MessageBackend]) -> None:
    """A backend has a class of the contract, or is named among those without a server."""
    name = backend.__name__
    assert (name in BROKERS) is not (name in SERVERLESS)
    contracts = [
        each
        for module in (BROKERS[name].modules if name in BROKERS else ())
        for each in classes_of(import_module(module), BackendFaultContract)
    ]
    assert (backend in [each.backend for each in contracts]) is (name in BROKERS)


@pytest.mark.parametrize("title", sorted({each.title for each in BROKERS.values()}))
def test_every_broker_has_a_test_of_what_all_promise(title: str) -> None:
    """Besides its faults, a broker has the contract, order, escaped names and the SDK."""
    (section,) = [part for part in page().split("\n## ") if part.startswith(f"{title}\n")]
    for row in ("contract", "order after a failure in a batch", "names are escaped", "read by the"):
        assert f"\n| {row}" in section
