"""Asking a relay how it is: over HTTP, and in the place of systemd."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Answer:
    """The answer to a probe: its status, 0 if there was no answer, and its checks."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.checks: list[dict[str, Any]] = json.loads(body)["checks"] if body else []

    @property
    def failing(self) -> set[tuple[str, str | None]]:
        """The checks that failed, with their backends."""
        return {(each["name"], each.get("backend")) for each in self.checks if not each["ok"]}


def probe(port: int, path: str) -> Answer:
    """Ask a relay as Kubernetes does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        is_json = error.headers.get_content_type() == "application/json"
        return Answer(error.code, error.read() if is_json else b"")
    except OSError:
        return Answer(0, b"")


class Notified:
    """A datagram socket in the place of systemd's; keeps the messages that arrived."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.messages: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def words(self) -> list[str]:
        """Return each word that has arrived so far, in order."""
        while True:
            try:
                self.messages.append(self._socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return [word for message in self.messages for word in message]

    def count(self, word: str) -> int:
        """Return how often a word has arrived."""
        return self.words().count(word)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
