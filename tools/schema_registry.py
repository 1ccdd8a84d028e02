"""Runs one Apicurio Registry, which speaks the REST interface of Confluent's, from Maven Central.

    python tools/schema_registry.py serve PORT

It is fetched once and cached, as the jars of Kafka are. The registry listens on PORT of this
machine, keeps its schemas in memory, and ends at SIGTERM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.kafka_node import LOOPBACK, QUICK, made_once

ARTIFACT = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"
"""The newest version that runs on Java 17, with all its jars."""

PATH = "/apis/ccompat/v7"
"""Where its interface for Confluent's clients is."""


class Registry:
    """One registry, whose interface is at `url`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}{PATH}"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = port

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it, and do not wait until it answers."""
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def command(self) -> list[str]:
        """Return the command line that serves; fetches it if it is missing."""
        (jar,) = _unpacked().glob("*-runner.jar")
        where = [f"-Dquarkus.http.host={LOOPBACK}", f"-Dquarkus.http.port={self.port}"]
        return ["java", *QUICK, *where, "-jar", str(jar)]

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


def _unpacked() -> Path:
    copy = ["mvn", "--batch-mode", "--quiet", "dependency:copy", f"-Dartifact={ARTIFACT}"]
    this = Path(__file__)
    fetched = made_once("registry-file", lambda to: [*copy, f"-DoutputDirectory={to}"], this)
    (archive,) = fetched.iterdir()
    return made_once("registry", lambda to: ["tar", "-xzf", str(archive), "-C", str(to)], this)


def main() -> None:
    """Become a registry that runs until SIGTERM."""
    command = Registry(int(sys.argv[2])).command()
    os.execvp(command[0], command)  # noqa: S606  # no shell, which would get its signals


if __name__ == "__main__":
    main()
