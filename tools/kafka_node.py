"""Runs one Apache Kafka node, broker and controller in one process, from the jars of Maven Central.

    python tools/kafka_node.py prepare
    python tools/kafka_node.py serve PORT FOLDER

The version is in tools/kafka_pom.xml. The jars are fetched once, into .cache/servers. A node
listens on PORT of this machine, keeps everything in FOLDER, and ends at SIGTERM. Standard library
only, as `services.py` is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
POM = ROOT / "tools" / "kafka_pom.xml"
CACHE = ROOT / ".cache" / "servers" / "kafka"
LOOPBACK = "127.0.0.1"
CLUSTER = "broadcaster-for-testsA"
"""The id of every cluster: 16 bytes in Base64."""

QUICK = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of Java, made to start quickly and to leave memory and processors to the tests."""

_PROPERTIES = r"""
process.roles=broker,controller
node.id={node_id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
  PROXIED:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class Node:
    """One node, which listens on `port` without TLS and without asking who connects.

    `config` has more lines of its server.properties, which override those above. `listeners` has
    more ports by their security protocols, such as "SASL_SSL"; "PROXIED" is without TLS, too.
    `advertised` has the ports to which clients are sent, where these are others: those of proxies.
    `node_id` is its number in a cluster, whose nodes are `controllers`: their ports for each other,
    by number. Without these it is alone. `host` is the address for clients.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        config: str = "",
        listeners: Mapping[str, int] | None = None,
        advertised: Mapping[str, int] | None = None,
        *,
        node_id: int = 1,
        controllers: Mapping[int, int] | None = None,
        host: str = LOOPBACK,
    ) -> None:
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._node_id = node_id
        self._data = folder / f"kafka-{port}"
        ports = {"PLAINTEXT": port, **(listeners or {})}
        self._config = _write_config(
            self._data,
            ports,
            {**ports, **(advertised or {})},
            config,
            node_id=node_id,
            controllers=controllers or {node_id: _free_port()},
            host=host,
        )

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it, and do not wait until it answers."""
        self.process = subprocess.Popen(
            self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def command(self) -> list[str]:
        """Return the command line that serves; makes the data if there is none."""
        if not self._data.exists():
            shutil.copytree(formatted(self._node_id), self._data)
        return java("kafka.Kafka", str(self._config))

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


def is_installed() -> bool:
    """Whether a node can be started here."""
    return shutil.which("java") is not None and shutil.which("mvn") is not None


def formatted(node_id: int = 1) -> Path:
    """Return a node's folder of data in which there is nothing yet; takes jars and a second."""

    def make(folder: Path) -> list[str]:
        ports = {"PLAINTEXT": _free_port()}
        controllers = {node_id: _free_port()}
        config = _write_config(
            folder / "data", ports, ports, node_id=node_id, controllers=controllers
        )
        tool = ("kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER)
        return java(*tool, "--config", str(config))

    return made_once(f"data-{node_id}", make) / "data"


def _write_config(
    data: Path,
    listeners: Mapping[str, int],
    advertised: Mapping[str, int],
    config: str = "",
    *,
    node_id: int,
    controllers: Mapping[int, int],
    host: str = LOOPBACK,
) -> Path:
    path = data.with_suffix(".properties")
    lines = _PROPERTIES.format(
        data=data,
        node_id=node_id,
        voters=",".join(f"{each}@127.0.0.1:{port}" for each, port in controllers.items()),
        controller=controllers[node_id],
        listeners=_addresses(host, listeners),
        advertised=_addresses(host, advertised),
    )
    path.write_text(lines + config)
    return path


def _addresses(host: str, ports: Mapping[str, int]) -> str:
    return ",".join(f"{protocol}://{host}:{port}" for protocol, port in ports.items())


def java(*words: str, pom: Path = POM, options: Sequence[str] = QUICK) -> list[str]:
    """Return a command line of Java with the jars of a pom, which are fetched when missing."""
    return ["java", *options, "-cp", f"{_jars(pom)}{os.sep}*", *words]


def _jars(pom: Path) -> Path:
    command = ["mvn", "--batch-mode", "--quiet", "--file", str(pom), "dependency:copy-dependencies"]
    words = ["-DincludeScope=runtime"]
    return made_once("jars", lambda folder: [*command, *words, f"-DoutputDirectory={folder}"], pom)


def made_once(name: str, command: Callable[[Path], list[str]], versions: Path = POM) -> Path:
    """Return a folder of the cache for a file of versions; a command fills it if it is missing."""
    version = hashlib.sha256(versions.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"{name}-{version}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
            if not folder.exists():
                new = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
                subprocess.run(command(new), check=True, stdin=subprocess.DEVNULL)
                new.rename(folder)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Fetch what is needed, or become a node that runs until SIGTERM."""
    if sys.argv[1] == "prepare":
        formatted()
    else:
        command = Node(Path(sys.argv[3]), int(sys.argv[2])).command()
        os.execvp(command[0], command)  # noqa: S606  # no shell, which would get its signals


if __name__ == "__main__":
    main()
