"""Runs a RabbitMQ node that has nothing to do with any other on the machine.

    python tools/rabbitmq_node.py PORT FOLDER

It listens on PORT of this machine, keeps everything in FOLDER, and ends at SIGTERM. Erlang's port
mapper, which a node wants beside it, is one of its own too, and ends with it: the usual one would
be started when it is missing, and stay. Standard library only, as `services.py` is.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's, without the wrapper on the PATH, which changes the account and writes elsewhere."""

STOP_SECONDS = 20.0


class Node:
    """One node and its port mapper. `config` is the text of a rabbitmq.conf."""

    def __init__(self, folder: Path, port: int, config: str = "") -> None:
        self.folder = folder
        self.port = port
        self.name = f"broadcaster{port}@localhost"
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.local = 127.0.0.1:{port}\n{config}")
        (folder / "plugins").write_text("[].\n")
        self.environment = {
            **os.environ,
            "HOME": str(folder),  # where the Erlang cookie is
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(_free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # One core is enough for tests; threads that wait for work would spin on it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the script become the server, without a shell that would get its signals.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        self.mapper: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it, and do not wait until it answers."""
        if self.mapper is None:
            self.mapper = self._launch(["epmd"], output)
        program = str(PROGRAM) if PROGRAM.exists() else "rabbitmq-server"
        self.server = self._launch([program], output)

    def control(self, *arguments: str) -> None:
        """Run rabbitmqctl on it."""
        program = PROGRAM.with_name("rabbitmqctl")
        command = [str(program) if program.exists() else "rabbitmqctl", "--node", self.name]
        subprocess.run(
            [*command, *arguments], env=self.environment, check=True, capture_output=True
        )

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def close(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """End all of it."""
        self._end(signum)
        mapper, self.mapper = self.mapper, None
        if mapper is not None:
            mapper.kill()
            mapper.wait()

    def _launch(self, command: list[str], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def _end(self, signum: signal.Signals) -> None:
        server, self.server = self.server, None
        if server is None:
            return
        server.send_signal(signum)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def is_installed() -> bool:
    """Whether a node can be started here."""
    return PROGRAM.exists() or shutil.which("rabbitmq-server") is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run a node until it ends, or SIGTERM comes."""
    node = Node(Path(sys.argv[2]), int(sys.argv[1]))
    node.start()
    server = node.server
    assert server is not None
    # A signal that comes during wait() runs this, and wait() goes on until the server has ended.
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    finally:
        node.close(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
