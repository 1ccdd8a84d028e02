"""Programs in Java, which use Kafka's own client: each is one source file, compiled as it runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.redis_server import missing
from tools.kafka_node import POM, is_installed, java

HERE = Path(__file__).resolve().parent

CLOUDEVENTS = HERE / "pom.xml"
"""The pom with the SDK of CloudEvents, which not every program needs."""

SECONDS = 60.0


def run_java(name: str, *arguments: str, given: str = "", pom: Path = POM) -> str:
    """Run one of the programs with arguments and standard input; return what it printed."""
    if not is_installed() or shutil.which("javac") is None:
        missing("a JDK and Maven, for Kafka's client in Java")
    done = subprocess.run(
        java(str(HERE / f"{name}.java"), *arguments, pom=pom),
        input=given.encode(),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
