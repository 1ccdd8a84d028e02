"""Redis servers: the shared one, and private ones that a test may kill, fill up and lock."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from tests.support.hanging import hang
from tests.support.waiting import wait_until
from tools import services

START_SECONDS = 20.0


def missing(what: str) -> NoReturn:
    """Skip the test on a laptop that lacks something; in CI it fails."""
    if services.in_ci():
        pytest.fail(f"CI needs {what}")
    pytest.skip(f"needs {what}")


@cache
def shared_url() -> str:
    """The address of the Redis that all tests share: use keys that nobody else does."""
    url = services.address("redis")
    if not url or not answers(url):
        missing(f"a Redis server, at {url or 'the address in BROADCASTER_REDIS_URL'}")
    return url


def answers(url: str, **options: Any) -> bool:
    """Whether a server is at the address, even one that wants a password first."""
    with redis.Redis.from_url(url, retry=None, socket_timeout=2, **options) as client:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        return True


def free_port() -> int:
    """A port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server of our own. Its data is in `folder`, and it keeps its port when restarted.

    `arguments` are those of the program, as in `RedisServer(folder, "--appendonly", "yes")`; where
    they ask for a password, `command` and `client` take it from `password`.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.password = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = _program()
        command = [program, *self.arguments, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._is_up, START_SECONDS, f"{program} is up")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL it, as a power cut would, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Let it hang (SIGSTOP): the system accepts connections for it, and nothing is answered."""
        assert self.process is not None
        hang(self.process)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hang for the time of the block."""
        self.stop()
        try:
            yield
        finally:
            self.resume()

    @contextmanager
    def client(self, **options: Any) -> Iterator[redis.Redis]:
        """A client of redis-py for the time of the block."""
        with redis.Redis.from_url(self.url, decode_responses=True, **options) as client:
            yield client

    def command(self, *arguments: object) -> Any:
        """Run one command as the default user, over a connection of its own."""
        with self.client() as client:
            return client.execute_command(*arguments)  # type: ignore[no-untyped-call]

    def raw(self, *arguments: object) -> Any:
        """Run one command, and return the reply as the server gives it, text decoded."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*arguments)  # type: ignore[no-untyped-call]

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"redis-server has ended: {(self.folder / 'redis.log').read_text()}")
        return answers(self.url)


@contextmanager
def redis_server(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    """A running server for the time of the block."""
    server = RedisServer(folder, *arguments)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def tls_arguments(certificates: Path) -> list[str]:
    """The arguments of a server that has a certificate, besides its `--tls-port`."""
    files = {"ca-cert": "ca.pem", "cert": "server.pem", "key": "server.key"}
    pairs = [(f"--tls-{name}-file", str(certificates / file)) for name, file in files.items()]
    return [word for pair in pairs for word in pair]


def _program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        # Where tools/services.py puts the one from PyPI.
        root = Path(services.__file__).resolve().parent.parent
        found = shutil.which("redis-server", path=root / ".cache" / "servers" / "redis" / "bin")
    return found or missing("the program redis-server")
