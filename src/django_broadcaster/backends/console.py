"""Writes events to the terminal, for development."""

from __future__ import annotations

import json
import sys
from threading import Lock
from typing import Any, TextIO

from django_broadcaster.exceptions import BackendUnavailable

from .base import Message, MessageBackend

_lock = Lock()  # several backends share a terminal, and each event stays in one piece


class ConsoleBackend(MessageBackend):
    """Writes a line that describes the event, and the event as JSON below it.

    Args:
        stream: A text stream. By default it is `sys.stdout`.
    """

    def __init__(self, *, stream: TextIO | None = None, **options: Any) -> None:
        super().__init__(**options)
        writes = callable(getattr(stream, "write", None))
        self._stream = self.read.require("stream", stream, writes, "a text stream", optional=True)

    def send(self, message: Message) -> None:
        """Write one event; raises BackendUnavailable when the stream is closed."""
        stream = self._stream or sys.stdout
        text = self._render(message)
        # Characters that the terminal cannot show are escaped: they must not fail an event.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            with _lock:
                stream.write(text)
                stream.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise BackendUnavailable(f"the console: {error}") from error

    def _render(self, message: Message) -> str:
        # Not orjson, which rounds integers over 64 bits.
        event = json.loads(message.to_json())
        key = f" key {message.partition_key}" if message.partition_key else ""
        line = f"[{self.alias}] {message.event_type} {message.event_id} from {message.source}{key}"
        return f"{line}\n{json.dumps(event, indent=2, ensure_ascii=False)}\n"
