"""Type checkers know the documented API, managers and awaitable calls included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import services

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tests" / "type_samples" / "sample.py"
WRONG = 'OutboxEvent.objects.undeliverd()\npublisher.publish_event(1, "/s")\n'


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


def mypy(path: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy with the project's own settings."""
    return checked(["mypy", str(path)])


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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_understand_a_project(checker: str, tmp_path: Path) -> None:
    """A project that uses the documented API has no error, and gets the types that it expects."""
    done = mypy(SAMPLE) if checker == "mypy" else pyright(SAMPLE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_find_mistakes(checker: str, tmp_path: Path) -> None:
    """A method that is misspelt and an argument of another type are found."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from django_broadcaster.models import OutboxEvent\n"
        "from django_broadcaster.publishers import publisher\n" + WRONG
    )
    done = mypy(wrong) if checker == "mypy" else pyright(wrong, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "undeliverd" in done.stdout
    assert "publish_event" in done.stdout
