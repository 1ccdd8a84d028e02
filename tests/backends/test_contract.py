"""The contract suite on every backend that the project ships.

A new backend is one more subclass here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

import pytest

from django_broadcaster.backends import (
    ConsoleBackend,
    DummyBackend,
    LocalBackend,
    LocMemBackend,
    MessageBackend,
)
from django_broadcaster.backends import locmem as locmem_module
from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import BackendContract


class TestLocMemBackend(BackendContract):
    """Read back from the list that tests look at."""

    @pytest.fixture(autouse=True)
    def _empty(self) -> Iterator[None]:
        locmem_module.clear()
        yield
        locmem_module.clear()

    def make_backend(self, **options: Any) -> MessageBackend:
        return LocMemBackend(**options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(message.to_json()) for message in locmem_module.outbox(self.alias)]


class TestConsoleBackend(BackendContract):
    """Read back from what it printed."""

    per_message_failure = False

    @pytest.fixture(autouse=True)
    def _terminal(self) -> None:
        self.terminal = StringIO()

    def make_backend(self, **options: Any) -> MessageBackend:
        return ConsoleBackend(stream=self.terminal, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        printed = re.split(r"^\[.*\n", self.terminal.getvalue(), flags=re.MULTILINE)
        return [json.loads(text) for text in printed[1:]]


class TestDummyBackend(BackendContract):
    """Nothing can be read back."""

    reads_back = False
    per_message_failure = False

    def make_backend(self, **options: Any) -> MessageBackend:
        return DummyBackend(**options)


@pytest.mark.django_db
class TestLocalBackend(BackendContract):
    """Read back from what a handler was given."""

    per_message_failure = False

    @pytest.fixture(autouse=True)
    def _handler(self) -> Iterator[None]:
        self.handled: list[CloudEvent] = []
        event_registry.register("*", name="contract")(self.handled.append)
        yield
        event_registry.unregister("contract")

    def make_backend(self, **options: Any) -> MessageBackend:
        return LocalBackend(**options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [event.to_dict() for event in self.handled]
