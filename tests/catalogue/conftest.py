"""Fixtures: a project whose only events are those of a module that a test writes."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest
from django.core.management import call_command

from django_broadcaster.model_events.declarations import model_events
from django_broadcaster.typed_events import event_types
from tests.support.registered import only_handlers

HEAD = """
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta, Struct, field
from pydantic import BaseModel, Field

from django_broadcaster.registry import event_registry
from django_broadcaster.typed_events import typed_event, upcasts
"""

_numbers = count()


def forget_events() -> None:
    """Remove all declared events."""
    for each in event_types:
        event_types.remove(each.event_class)


class EventsModule:
    """A module with declared events, which can be replaced by its next revision."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder

    def declare(self, text: str) -> None:
        """Forget all events, and import a module with this text below the imports of HEAD."""
        forget_events()
        name = f"catalogue_events_{next(_numbers)}"
        self.file = self._folder / f"{name}.py"
        self.file.write_text(HEAD + dedent(text))
        importlib.invalidate_caches()
        importlib.import_module(name)

    def line_of(self, text: str) -> str:
        """Return the file and the number of the only line that contains a text."""
        lines = self.file.read_text().splitlines()
        (found,) = [number for number, line in enumerate(lines, 1) if text in line]
        return f"{self.file}:{found}"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventsModule]:
    """A module of events; other events, those of models, and all handlers are put aside."""
    monkeypatch.syspath_prepend(tmp_path)
    known = list(event_types)
    modules = set(sys.modules)
    forget_events()
    monkeypatch.setattr(model_events, "_by_model", {})
    try:
        with only_handlers():
            yield EventsModule(tmp_path)
    finally:
        forget_events()
        for each in known:
            event_types.add(each)
        for name in set(sys.modules) - modules:
            if name.startswith("catalogue_events_"):
                del sys.modules[name]


def catalogue(*arguments: str) -> tuple[int, str]:
    """Run the command; return its exit status, and what it printed."""
    out = io.StringIO()
    try:
        call_command("outbox_catalogue", *arguments, stdout=out, no_color=True)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()
