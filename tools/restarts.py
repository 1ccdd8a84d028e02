"""Lets the command of `services.py run` restart a server that was started for it.

The server stays a child of services.py, which ends it with the command. A server that was running
before, or that runs in Docker, where its data would be lost, is not restarted. Standard library
only, as `services.py` is.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer

from tools.launch import CannotStart, running

VARIABLE = "BROADCASTER_RESTARTS"
SECONDS = 120.0


class CannotRestart(Exception):
    """The server is somebody else's, or did not start again; the message says which."""


class _Request(StreamRequestHandler):
    """One line with the name of a server; the answer is empty once it runs again."""

    def handle(self) -> None:
        instance = running.get(self.rfile.readline().decode().strip())
        answer = "it was not started for this command"
        if instance is not None:
            try:
                instance.stop()
                instance.start()
                answer = ""
            except CannotStart as error:
                answer = str(error)
        self.wfile.write(answer.encode())


@contextmanager
def offered() -> Iterator[dict[str, str]]:
    """Restart servers on request for the time of the block; yields the environment for it."""
    # The path of a socket has at most about 100 characters, which TMPDIR may take alone.
    place = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108  # with a random name
    with tempfile.TemporaryDirectory(prefix="broadcaster-restarts-", dir=place) as folder:
        path = str(Path(folder, "socket"))
        with UnixStreamServer(path, _Request) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield {VARIABLE: path}
            finally:
                server.shutdown()  # returns behind a restart that is under way
                thread.join()


def restart(name: str) -> None:
    """Stop a server cleanly and start it again; raises CannotRestart."""
    path = os.environ.get(VARIABLE)
    if not path:
        raise CannotRestart("it was not started for this command")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(path)
        connection.sendall(f"{name}\n".encode())
        with connection.makefile("rb") as answers:
            answer = answers.read().decode()
    if answer:
        raise CannotRestart(answer)
