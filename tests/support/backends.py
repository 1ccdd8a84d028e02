"""Backends that fail, hang, kill and keep a record, for tests of the relay.

`ScriptedBackend` works in the process of the test, which tells it by `script(alias)` what to do.
The others work in processes of their own: options and files control them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django_broadcaster.backends import Message, MessageBackend, Outcome, RedisStreamBackend
from django_broadcaster.backends.base import send_one_by_one
from django_broadcaster.consumers.local import LocalBackend

Answer = Callable[[Sequence[Message]], Any]


class Script:
    """The script of the `ScriptedBackend` of one alias, and the record of its calls.

    `arrived` are the names of the events that it acknowledged, in order; `batches` the names in
    each batch that it was given. `returned` are destinations that are back. `answer` takes the
    place of `send_batch`, where it is set; `on_open` and `on_close` are called by
    `open` and `close`.
    """

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.messages: list[Message] = []
        self.batches: list[list[str]] = []
        self.opened = 0
        self.returned: set[str] = set()
        self.answer: Answer | None = None
        self.on_open: Callable[[], object] | None = None
        self.on_close: Callable[[], object] | None = None
        self._failures: dict[str, list[BaseException]] = {}
        self._always: dict[str, BaseException] = {}

    def fail(self, name: str, error: BaseException, times: int | None = None) -> None:
        """Let the event of that name fail `times` times, or until `heal`."""
        if times is None:
            self._always[name] = error
        else:
            self._failures.setdefault(name, []).extend([error] * times)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._failures.clear()
        self._always.clear()
        self.answer = self.on_open = self.on_close = None

    def accept(self, message: Message) -> None:
        """Acknowledge an event, or fail by the script; `*` stands for every event."""
        name = message.subject
        if self._failures.get(name):
            raise self._failures[name].pop(0).with_traceback(None)
        for each in (name, "*"):
            if each in self._always:
                raise self._always[each].with_traceback(None)
        self.arrived.append(name)
        self.messages.append(message)


_scripts: dict[str, Script] = {}


def script(alias: str = "default") -> Script:
    """Return the script of the `ScriptedBackend` with that alias."""
    return _scripts.setdefault(alias, Script())


def forget_scripts() -> None:
    """Give every alias a new script."""
    _scripts.clear()


class ScriptedBackend(MessageBackend):
    """Does what `script(alias)` says."""

    config_keys = frozenset({"lane"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.script = script(self.alias)

    def open(self) -> None:
        """Count, and do what the script wants."""
        self.script.opened += 1
        if self.script.on_open is not None:
            self.script.on_open()

    def close(self) -> None:
        """Do what the script wants."""
        if self.script.on_close is not None:
            self.script.on_close()

    def send(self, message: Message) -> None:
        """Do as the script says."""
        self.script.accept(message)

    def returned(self) -> set[str]:
        """Return the destinations that the script says are back, once."""
        returned, self.script.returned = self.script.returned, set()
        return returned

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Keep the promises of the contract, unless the script answers itself."""
        self.script.batches.append([message.subject for message in messages])
        if self.script.answer is not None:
            answer: list[Outcome] = self.script.answer(messages)
            return answer
        return send_one_by_one(messages, self.script.accept)


class RecordingBackend(MessageBackend):
    """Appends each delivery to a file: one line of JSON with the name and the process."""

    def __init__(self, *, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._path = path
        self._file: int | None = None

    def open(self) -> None:
        """Open the file so that several processes may append to it."""
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def send(self, message: Message) -> None:
        """Append a line in one piece."""
        assert self._file is not None
        line = json.dumps({"name": message.subject, "process": os.getpid()})
        os.write(self._file, f"{line}\n".encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class DyingOnceBackend(RecordingBackend):
    """The first one in any process ends its relay's thread, by what the thread can't live through.

    An error whose class has no name can't even be logged.
    """

    def open(self) -> None:
        """Die, unless one has before."""
        try:
            Path(f"{self._path}.died").touch(exist_ok=False)
        except FileExistsError:
            super().open()
        else:
            raise _Unspeakable


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit


class _Unspeakable(BaseException, metaclass=_Nameless):
    pass


def append(path: Path, line: dict[str, Any]) -> None:
    """Append a line of JSON in one piece, so that several processes may do so."""
    with path.open("ab", buffering=0) as file:
        file.write(f"{json.dumps(line)}\n".encode())


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return what backends have appended to a file, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


class Gate:
    """Stops a backend behind a delivery: `arrived` appears there, and it goes on with `open`."""

    def __init__(self, folder: Path) -> None:
        self.arrived = folder / "arrived"
        self._open = folder / "open"

    def open(self) -> None:
        """Let the backend go on, now and whenever it comes by again."""
        self._open.touch()

    def pass_through(self) -> None:
        """Wait at the gate."""
        self.arrived.touch()
        while not self._open.exists():
            time.sleep(0.01)


class Trap:
    """A mixin that does something cruel once a batch with the event `at` has been published.

    It does it once for all processes that have the same `folder`.
    """

    def __init__(self, *, at: str, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self._at = at
        self._folder = Path(folder)

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish, and snap."""
        outcomes: list[Outcome] = super().send_batch(messages)  # type: ignore[misc]
        if any(message.subject == self._at for message in messages) and self._is_first():
            self.snap()
        return outcomes

    def _is_first(self) -> bool:
        try:
            (self._folder / "snapped").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def snap(self) -> None:
        """Be cruel."""
        raise NotImplementedError


class Dying(Trap):
    """Dies between publish and settle."""

    def snap(self) -> None:
        """End as by a power cut."""
        os.kill(os.getpid(), signal.SIGKILL)


class Stopping(Trap):
    """Waits at a `Gate` between publish and settle."""

    def snap(self) -> None:
        """Wait."""
        Gate(self._folder).pass_through()


class DyingRedisBackend(Dying, RedisStreamBackend):
    """Redis Streams, and death between publish and settle."""


class DyingRecordingBackend(Dying, RecordingBackend):
    """A record, and death between publish and settle."""


class StoppingRedisBackend(Stopping, RedisStreamBackend):
    """Redis Streams, and a gate between publish and settle."""


class StoppingRecordingBackend(Stopping, RecordingBackend):
    """A record, and a gate between publish and settle."""


class AnnouncingRedisBackend(RedisStreamBackend):
    """Redis Streams; notes in a file each batch as it begins to send it, by whom and when."""

    def __init__(self, *, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._record = Path(path)

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Note, and publish."""
        names = [message.subject for message in messages]
        append(self._record, {"names": names, "process": os.getpid(), "at": time.time()})
        return super().send_batch(messages)


class HangingBackend(MessageBackend):
    """Never answers; the file `arrived` in its folder appears when it was asked."""

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self._gate = Gate(Path(folder))

    def send(self, message: Message) -> None:
        """Hang."""
        self._gate.pass_through()


class SlowBackend(MessageBackend):
    """Takes `seconds` for each event; the file `arrived` appears when it was asked."""

    def __init__(self, *, folder: str, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._gate = Gate(Path(folder))
        self._seconds = seconds

    def send(self, message: Message) -> None:
        """Take its time."""
        self._gate.arrived.touch()
        time.sleep(self._seconds)


POISON = "p1"
"""The name of the event that no relay with a `HandlersBackend` survives."""


class HandlersBackend(LocalBackend):
    """Runs the handlers of `tests/support/handlers.py`, which no other process is to know.

    `death` is how the handler of `POISON` ends its process. Each batch is noted in the file `path`,
    if one is given, once it has been handled.
    """

    def __init__(self, *, path: str = "", death: str = "exit", **options: Any) -> None:
        super().__init__(**options)
        self._path = path
        self._death = death

    def open(self) -> None:
        """Register them."""
        from . import handlers  # registers by being imported

        handlers.death = self._death

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Let the handlers run, and note the batch."""
        outcomes = super().send_batch(messages)
        if self._path:
            append(Path(self._path), {"names": [message.subject for message in messages]})
        return outcomes
