"""Type checkers know the documented API, managers and awaitable calls included."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import services

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "type_samples"
WITHOUT_DJANGO = SAMPLES / "typed_events.py"

MISTAKES = """\
from dataclasses import dataclass
from typing import TypedDict

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.setting_types import BackendEntry, Retry
from django_broadcaster.typed_events import typed_event

OUTBOX_PUBLISHERS: dict[str, BackendEntry] = {"default": {}}  # wrong
OUTBOX_RETRY: Retry = {"inital": 5}  # wrong


@typed_event("order.placed", source="/shop")
@dataclass
class OrderPlaced:
    order_id: int


@typed_event("order.paid", source="/shop")
class OrderPaid(TypedDict):
    order_id: int


OutboxEvent.objects.undeliverd()  # wrong
publisher.publish_event(1, "/s")  # wrong
publisher.publish(OrderPlaced("7"))  # wrong
publisher.publish(OrderPlaced(7), retries=1)  # wrong
publisher.apublish(OrderPlaced(7), retries=1)  # wrong
event_registry.register(7)  # wrong
typed_event("order.placed", source=7)  # wrong


@event_registry.register(OrderPlaced)  # wrong
def handles(event: OrderPaid) -> None: ...


@event_registry.register(OrderPaid, retries=1)  # wrong
async def awaits(event: OrderPaid) -> None: ...
"""


Checker = Callable[[Path, Path], subprocess.CompletedProcess[str]]
"""Checks a file or a folder; has a folder for its own files."""


def checked(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a type checker, which a laptop need not have."""
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        if services.in_ci():
            pytest.fail(f"{command[0]} is not installed")
        pytest.skip(f"{command[0]} is not installed")
    # Without what pytest-django told this process: mypy's plugin sets Django up by itself.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    return subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        env=outside,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def mypy(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy with the project's own settings, which have the plugin of django-stubs."""
    return checked(["mypy", str(path)])


def mypy_without_stubs(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy as in a project without django-stubs: all of Django is `Any`."""
    config = folder / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\n")
    # Errors of this package would be those of reading Django as `Any`.
    options = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    return checked(["mypy", "--config-file", str(config), *options, str(path)])


def pyright(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pyright as an editor does, in the mode that it has by default."""
    settings = {
        "include": [str(path)],
        "typeCheckingMode": "standard",
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
    }
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps(settings))
    return checked(["basedpyright", "-p", str(config), "--pythonpath", sys.executable])


CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@CHECKERS
def test_type_checkers_understand_a_project(checker: Checker, tmp_path: Path) -> None:
    """A project that uses the documented API has no error, and gets the types that it expects."""
    done = checker(SAMPLES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_typed_events_are_understood_without_the_stubs_of_django(tmp_path: Path) -> None:
    """Their types need neither django-stubs nor its plugin."""
    done = mypy_without_stubs(WITHOUT_DJANGO, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@CHECKERS
def test_type_checkers_find_mistakes(checker: Checker, tmp_path: Path) -> None:
    """A misspelt method, an argument of another type, and a handler of another class are found."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(MISTAKES)
    done = checker(wrong, tmp_path)
    assert done.returncode == 1, done.stderr
    found = {int(line) for line in re.findall(r"wrong\.py:(\d+):.*error", done.stdout)}
    lines = enumerate(MISTAKES.splitlines(), 1)
    assert found == {number for number, line in lines if line.endswith("# wrong")}, done.stdout
