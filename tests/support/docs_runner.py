"""Runs what the README and the pages of `docs/` show, as a reader would, in a project of their own.

A page's blocks run in order:

`python`    in one namespace for the page
`pycon`     there too, and what it prints is compared (`...` stands for anything)
`console`   each line behind `$` in a shell, and the lines below it are compared; a last line `^C`
            means: let it run until the lines above are there, then interrupt it (lines below `^C`
            are what it says at its end, and then its exit status may be any)
`text`      is shown only; so is `json`, which has to be valid

A block whose first line is a comment with a path is that file; a `settings.py` is added to the one
that is there, and the system checks must have nothing to say about it. After either, the page's
namespace is new. A block that cannot be run has a comment with the reason on the line above it:
`<!-- not run: it would restart the machine -->`.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from threading import Thread
from uuid import uuid4

from . import aws_server, kafka_server, mosquitto_server, nats_server, rabbitmq_server
from .redis_server import free_port, shared_url

ROOT = Path(__file__).resolve().parent.parent.parent
SESSION = Path(__file__).with_name("docs_session.py")
SECONDS = 60.0
START_SECONDS = 3.0

# What the pages name, and what stands for it here.
REDIS = "redis://localhost:6379/0"
KAFKA = "localhost:9092"
RABBITMQ = "amqp://guest:guest@localhost:5672/"
NATS = "nats://localhost:4222"
MQTT = '"localhost"'
MQTT_PORT = "1883"
AWS = "http://localhost:5000"
ENDPOINT = "8808"  # the port of an endpoint that a page runs itself
STREAM = "shop.events"  # and exchanges, queues, subjects and topics whose names begin so
NATS_STREAM = "SHOP_EVENTS"

_FENCE = re.compile(r"( *)(`{3,})(\S*)(?: .*)?")
_NOT_RUN = re.compile(r" *<!-- not run: (.+) -->")
_FILE = re.compile(r"(?:# ([\w./-]+\.(?:py|ini|toml))|<!-- ([\w./-]+\.md) -->)\n")


class Mistake(AssertionError):
    """A page shows something that is not so."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is the one of its fence."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, as `page:line`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block is, if it is one."""
        named = _FILE.match(self.text)
        return named[1] or named[2] if named else None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the page's fenced blocks, without those that are directives to Sphinx."""
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    not_run = None
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence:
            body = []
            for _, inner in lines:
                if inner.strip() == fence[2]:
                    break
                body.append(f"{inner}\n")
            if not fence[3].startswith("{"):
                yield Block(page, number, fence[3], dedent("".join(body)), not_run)
        if line.strip():
            reason = _NOT_RUN.fullmatch(line)
            not_run = reason[1] if reason else None


class Project:
    """A Django project in `folder`, where a page's blocks run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stands_for: dict[str, str] = {}
        self._session: subprocess.Popen[str] | None = None
        self._environment = _environment()

    def run(self, block: Block) -> None:
        """Run one block; raises Mistake if it does not do what the page says."""
        text = self._localised(block.text)
        if block.not_run:
            return
        if block.file:
            self._write(block.file, text)
        elif block.language in ("python", "pycon"):
            self._ask(block, text)
        elif block.language == "console":
            for command, expected in _commands(text):
                self._command(block, command, expected)
        elif block.language == "json":
            json.loads(text)
        elif block.language != "text":
            raise Mistake(f"{block.place}: nobody knows how to run {block.language!r}")

    def call(self, *command: str) -> str:
        """Run a command in the project; return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise Mistake(f"{' '.join(command)}\nexit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def close(self) -> None:
        """End what runs, and remove what went into the shared servers."""
        self._end_session()
        if RABBITMQ in self._stands_for:
            stream = self._stands_for[STREAM]
            names = (stream, f"{stream}.audit", f"{stream}.billing")
            rabbitmq_server.remove(self._stands_for[RABBITMQ], *names)
        if NATS in self._stands_for:
            nats_server.delete_stream(self._stands_for[NATS], self._stands_for[NATS_STREAM])
        if MQTT in self._stands_for:
            stream = self._stands_for[STREAM]
            mosquitto_server.forget_retained(f"{stream}/prices")
            address = mosquitto_server.shared_address()
            mosquitto_server.forget_session(address, f"{stream}.billing")
        if REDIS in self._stands_for:
            import redis

            with redis.Redis.from_url(self._stands_for[REDIS]) as client:
                for key in client.scan_iter(f"*{self._stands_for[STREAM]}*"):
                    client.delete(key)

    # Files

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._end_session()
        if path.name == "settings.py" and path.exists():
            path.write_text(f"{path.read_text()}\n{text}")
            manage = next(
                each / "manage.py" for each in path.parents if (each / "manage.py").exists()
            )
            self.call("python", str(manage), "check", "--fail-level", "WARNING")
        else:
            path.write_text(text)

    def _localised(self, text: str) -> str:
        """Put the shared servers, and a name that nobody else uses, where the page names its own.

        Skips the test where there is no such server, and fails in CI.
        """
        servers = {
            REDIS: shared_url,
            KAFKA: kafka_server.shared_servers,
            RABBITMQ: rabbitmq_server.shared_url,
            NATS: nats_server.shared_url,
            MQTT: lambda: f'"{mosquitto_server.shared_address()[0]}"',
            MQTT_PORT: lambda: str(mosquitto_server.shared_address()[1]),
            AWS: lambda: aws_server.shared_url(
                "shop-events.fifo", "shop-audit.fifo", "shop-orders.fifo"
            ),
        }
        for shown, find in servers.items():
            if shown in text and shown not in self._stands_for:
                self._stands_for[shown] = find()
                self._stands_for.setdefault(STREAM, f"{STREAM}.{uuid4().hex}")
                self._stands_for.setdefault(NATS_STREAM, f"{NATS_STREAM}_{uuid4().hex}")
        if ENDPOINT in text:
            self._stands_for.setdefault(ENDPOINT, str(free_port()))
        for shown, real in self._stands_for.items():
            text = text.replace(shown, real)
        return text

    # Python

    def _ask(self, block: Block, text: str) -> None:
        session = self._session or self._begin_session()
        assert session.stdin is not None
        assert session.stdout is not None
        request = {"kind": block.language, "source": text, "place": block.place, "line": block.line}
        session.stdin.write(json.dumps(request) + "\n")
        session.stdin.flush()
        answer = session.stdout.readline()
        problem = json.loads(answer) if answer else "the process ended"
        if problem:
            raise Mistake(f"{block.place}:\n{problem}")

    def _begin_session(self) -> subprocess.Popen[str]:
        self._session = subprocess.Popen(
            [sys.executable, str(SESSION)],
            cwd=self.folder,
            env={"DJANGO_SETTINGS_MODULE": "mysite.settings", **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._session

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session:
            session.communicate(timeout=SECONDS)

    # The shell

    def _command(self, block: Block, command: str, expected: str) -> None:
        above, interrupt, below = expected.partition("^C")
        below = below.lstrip("\n")
        try:
            if interrupt:
                printed = self._until_interrupted(command, above, judge_status=not below)
            else:
                printed = self.call("sh", "-c", command)
        except Mistake as mistake:
            raise Mistake(f"{block.place}: {mistake}") from None
        if (above or below) and not _matches(above + below, printed):
            said = f"the page says\n{above}{below}\nbut\n{printed}"
            raise Mistake(f"{block.place}: $ {command}\n{said}")

    def _until_interrupted(self, command: str, expected: str, *, judge_status: bool) -> str:
        """Run a command until it has printed what is expected, then press Ctrl-C.

        One that prints nothing is given more time, if it had not begun on a busy machine.
        """
        try:
            return self._interrupted(command, expected, judge_status, START_SECONDS)
        except Mistake as mistake:
            if expected or "KeyboardInterrupt" not in str(mistake):
                raise
            return self._interrupted(command, expected, judge_status, 10 * START_SECONDS)

    def _interrupted(
        self, command: str, expected: str, judge_status: bool, start_seconds: float
    ) -> str:
        lines: list[str] = []
        with subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            reader = Thread(target=_collect, args=(process.stdout, lines), daemon=True)
            reader.start()
            _wait_for(expected, lines, start_seconds)
            process.send_signal(signal.SIGINT)
            status = process.wait(SECONDS)
            reader.join(SECONDS)
        if status and judge_status:
            raise Mistake(f"$ {command}\nexit status {status} after Ctrl-C\n{''.join(lines)}")
        return "".join(lines)


def new_project(folder: Path) -> Project:
    """Make the project that most pages begin with: `mysite` with an app `shop`, on SQLite."""
    project = Project(folder)
    project.call("django-admin", "startproject", "mysite", ".")
    project.call("python", "manage.py", "startapp", "shop")
    for name, text in _FILES.items():
        with (folder / name).open("a") as file:
            file.write(text)
    project.call("python", "manage.py", "makemigrations", "shop")
    project.call("python", "manage.py", "migrate")
    return project


def copy_of(project: Project, folder: Path) -> Project:
    """Return a copy of a project."""
    shutil.copytree(project.folder, folder, dirs_exist_ok=True)
    return Project(folder)


_FILES: Mapping[str, str] = {
    "mysite/settings.py": """
INSTALLED_APPS += ["django_broadcaster", "shop"]
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
""",
    "shop/models.py": """

class Order(models.Model):
    product = models.CharField(max_length=100)
    status = models.CharField(max_length=20, default="placed")
""",
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\n",
}


def _collect(source: Iterable[str], lines: list[str]) -> None:
    for line in source:
        lines.append(line)  # one by one: somebody watches the list


def _wait_for(expected: str, lines: list[str], start_seconds: float) -> None:
    """Return when the lines match, or never will; without any, after time enough to start."""
    deadline = time.monotonic() + (SECONDS if expected else start_seconds)
    while time.monotonic() < deadline:
        if expected and _matches(expected, "".join(lines)):
            return
        time.sleep(0.05)


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.replace("\\\n", "").partition("\n")
        yield command, output


def _matches(expected: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)


def _environment() -> dict[str, str]:
    """Return this process's environment without what pytest and Django put there."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "DJANGO_", "PYTHON", "BROADCASTER_"))
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": programs, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
