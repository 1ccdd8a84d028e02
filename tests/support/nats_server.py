"""NATS servers: the shared one, and private ones that a test may kill, fill up and lock.

Streams are read with nats-py's own JetStream interface, which the backend does not use for that.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from tests.support.hanging import hang
from tests.support.redis_server import free_port, missing
from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.launch import CACHE, SEARCH_PATH
from tools.servers import SERVICES, probe

T = TypeVar("T")

START_SECONDS = 20.0


@cache
def shared_url() -> str:
    """The address of the NATS server that all tests share: use streams that nobody else does."""
    url = services.address("nats")
    try:
        probe(SERVICES["nats"], url)
    except NoAnswer as error:
        missing(f"a NATS server, at {url or 'the address in BROADCASTER_NATS_URL'}: {error}")
    return url


@dataclass(frozen=True)
class Stored:
    """A message in a stream."""

    subject: str
    headers: dict[str, str]
    data: bytes


def ask(url: str, question: Callable[[JetStreamContext], Awaitable[T]], **options: Any) -> T:
    """Connect, ask, disconnect; `options` are nats-py's."""

    async def answer() -> T:
        client = await nats.connect(url, allow_reconnect=False, **options)
        try:
            return await question(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(answer())


def add_stream(url: str, name: str, *subjects: str, **config: Any) -> None:
    """Make a stream, or one with another configuration of one that is there not."""

    async def add(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(name=name, subjects=list(subjects), **config)

    ask(url, add)


def update_stream(url: str, name: str, **config: Any) -> None:
    """Change a stream's configuration."""

    async def update(jetstream: JetStreamContext) -> None:
        now = (await jetstream.stream_info(name)).config
        await jetstream.update_stream(now.evolve(**config))

    ask(url, update)


def delete_stream(url: str, name: str) -> None:
    """Delete a stream; one that is not there is no error."""

    async def delete(jetstream: JetStreamContext) -> None:
        try:
            await jetstream.delete_stream(name)
        except NotFoundError:
            return

    ask(url, delete)


def purge_stream(url: str, name: str) -> None:
    """Empty a stream."""

    async def purge(jetstream: JetStreamContext) -> None:
        await jetstream.purge_stream(name)

    ask(url, purge)


def config_of(url: str, name: str) -> Any:
    """The configuration of a stream, None if there is none."""

    async def config(jetstream: JetStreamContext) -> Any:
        try:
            return (await jetstream.stream_info(name)).config
        except NotFoundError:
            return None

    return ask(url, config)


def stored(url: str, name: str, **options: Any) -> list[Stored]:
    """The messages of a stream, in order."""

    async def read(jetstream: JetStreamContext) -> list[Stored]:
        state = (await jetstream.stream_info(name)).state
        if not state.messages:
            return []
        numbers = range(state.first_seq, state.last_seq + 1)
        messages = []
        for start in range(0, len(numbers), 200):
            some = numbers[start : start + 200]
            messages += await asyncio.gather(*(jetstream.get_msg(name, each) for each in some))
        assert len(messages) == state.messages
        return [Stored(each.subject, each.headers or {}, each.data or b"") for each in messages]

    return ask(url, read, **options)


def count(url: str, name: str) -> int:
    """How many messages a stream has."""

    async def count(jetstream: JetStreamContext) -> int:
        return (await jetstream.stream_info(name)).state.messages

    return ask(url, count)


def version_of(url: str) -> tuple[int, int]:
    """The version of a server, its major and minor number."""

    async def ask() -> tuple[int, int]:
        client = await nats.connect(url)
        version = client.connected_server_version
        await client.close()
        return version.major, version.minor

    return asyncio.run(ask())


class NatsServer:
    """A nats-server of our own. Its data is in `folder`, and it keeps its port when restarted.

    `config` is text for its configuration file, besides the port and the folder.
    """

    def __init__(self, folder: Path, config: str = "", *, jetstream: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._config = folder / "nats.conf"
        self._log = folder / "nats.log"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{folder}"\n {jetstream} }}\n{config}\n'
        )

    @property
    def url(self) -> str:
        """The server's address."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [_program(), "--config", str(self._config)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._is_up, START_SECONDS, "nats-server is up")
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

    def reload(self, old: str, new: str) -> None:
        """Change its configuration file, and let it read that."""
        assert self.process is not None
        text = self._config.read_text()
        assert old in text
        self._config.write_text(text.replace(old, new))
        said = self._log.read_bytes().count(b"Reloaded")
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: self._log.read_bytes().count(b"Reloaded") > said, START_SECONDS, "it reloaded"
        )

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"nats-server has ended: {self._log.read_text()}")
        try:
            probe(SERVICES["nats"], self.url)
        except NoAnswer as error:
            # One that wants to know who we are, or encryption first, is up as well.
            return "Authorization" in str(error)
        return True


@contextmanager
def nats_server(folder: Path, config: str = "", *, jetstream: str = "") -> Iterator[NatsServer]:
    """A running server for the time of the block."""
    server = NatsServer(folder, config, jetstream=jetstream)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def port_of(url: str) -> int:
    """The port of an address."""
    return urlsplit(url).port or 4222


def _program() -> str:
    found = shutil.which("nats-server", path=SEARCH_PATH)
    if found is None:
        # Where tools/services.py puts the one from PyPI.
        found = shutil.which("nats-server", path=CACHE / "nats" / "bin")
    return found or missing("the program nats-server")
