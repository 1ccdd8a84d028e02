"""Programs in JavaScript, which use packages from npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.kafka_node import made_once

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "package.json"
SECONDS = 60.0


def run_javascript(name: str, given: str) -> str:
    """Run one of the programs with standard input; return what it printed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node and npm, which the project does not install")
    path = made_once("npm", _install, PACKAGES) / "node_modules"
    done = subprocess.run(
        ["node", str(HERE / f"{name}.js")],
        input=given.encode(),
        capture_output=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "NODE_PATH": str(path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def _install(folder: Path) -> list[str]:
    wanted = json.loads(PACKAGES.read_text())["dependencies"]
    packages = [f"{name}@{version}" for name, version in wanted.items()]
    return [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        f"--prefix={folder}",
        *packages,
    ]
