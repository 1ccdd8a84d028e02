"""Calls of Kafka's client that may never end: closing a client, and deallocating it."""

from __future__ import annotations

import threading

import pytest

from django_broadcaster.backends.kafka.bounded import bounded


class Client:
    """A client that can be deallocated only after `released`; `deallocated_by` has the thread."""

    def __init__(self, released: threading.Event, deallocated_by: list[str]) -> None:
        self._released = released
        self._deallocated_by = deallocated_by

    def __del__(self) -> None:
        self._released.wait()
        self._deallocated_by.append(threading.current_thread().name)

    def ask(self) -> int:
        """Return an answer."""
        return 42


def test_result_and_error_of_a_bounded_call_are_the_callers() -> None:
    """The caller does not notice the thread."""
    assert bounded(lambda: 42, 10, "client") == 42
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 10, "client")


def test_client_that_cannot_be_deallocated_hangs_its_own_thread_only() -> None:
    """The caller gets an error that names the call, and goes on."""
    released, deallocated_by = threading.Event(), []  # type: ignore[var-annotated]

    def ask() -> int:
        client = Client(released, deallocated_by)
        return client.ask()

    with pytest.raises(TimeoutError, match=r"orders-client: no answer within 0\.1 s"):
        bounded(ask, 0.1, "orders-client")
    released.set()
    assert bounded(ask, 10, "orders-client") == 42
    assert {*deallocated_by} == {"orders-client"}
