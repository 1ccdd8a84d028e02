"""Runs one worker of Kafka Connect with Debezium's PostgreSQL connector, from Maven Central.

    python tools/kafka_connect.py serve PORT BROKERS FOLDER

The versions are in tools/connect_pom.xml, and the jars are cached as those of Kafka are. The worker
listens on PORT of this machine, keeps its state in topics of BROKERS, and ends at SIGTERM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.kafka_node import QUICK, ROOT, java

POM = ROOT / "tools" / "connect_pom.xml"

_PROPERTIES = """
bootstrap.servers={brokers}
listeners=http://127.0.0.1:{port}
group.id={group}
config.storage.topic={group}-configs
config.storage.replication.factor=1
offset.storage.topic={group}-offsets
offset.storage.replication.factor=1
offset.storage.partitions=1
status.storage.topic={group}-status
status.storage.replication.factor=1
status.storage.partitions=1
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
plugin.path={plugins}
plugin.discovery=service_load
offset.flush.interval.ms=500
exactly.once.source.support=enabled
producer.transaction.timeout.ms=20000
scheduled.rebalance.max.delay.ms=0
session.timeout.ms=6000
heartbeat.interval.ms=1000
task.shutdown.graceful.timeout.ms=2000
"""


class Worker:
    """One worker, the only one of its `group`, whose REST interface is at `url`.

    `config` has more lines of its properties, which override those above. `options` are Java's.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        brokers: str,
        group: str = "connect",
        *,
        config: str = "",
        options: Sequence[str] = QUICK,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self._config = folder / f"connect-{port}.properties"
        plugins = folder / "no-plugins"  # they are on the class path
        plugins.mkdir(exist_ok=True)
        lines = _PROPERTIES.format(brokers=brokers, port=port, group=group, plugins=plugins)
        self._config.write_text(lines + config)

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it, and do not wait until it answers."""
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def command(self) -> list[str]:
        """Return the command line that serves."""
        options = (*self._options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        main_class = "org.apache.kafka.connect.cli.ConnectDistributed"
        return java(main_class, str(self._config), pom=POM, options=options)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    """Become a worker that runs until SIGTERM."""
    _, _, port, brokers, folder = sys.argv
    command = Worker(Path(folder), int(port), brokers).command()
    os.execvp(command[0], command)  # noqa: S606  # no shell, which would get its signals


if __name__ == "__main__":
    main()
