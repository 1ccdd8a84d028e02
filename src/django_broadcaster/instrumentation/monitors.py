"""Everything that watches a relay while it works, put together for `outbox_worker`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django_broadcaster.conf import conf
from django_broadcaster.relay.health import LIVE, READY, Check, Health, judge, stall_check
from django_broadcaster.relay.supervisor import Supervisor, is_supervised
from django_broadcaster.relay.worker import Worker

from . import health_file
from .health import outbox_health
from .health_file import HealthFile
from .http_server import ALL_INTERFACES, App, serving, site
from .reporter import REPORT_SECONDS, Reporter, reporting
from .systemd import Systemd

METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable; it has to be set before a process imports the library."""

REPORTS = "DJANGO_BROADCASTER_HEALTH_DIR"
"""Where the processes of a supervisor write their health down, each in a file of its own."""

BEATS_PER_WATCHDOG = 3
"""So that two reports may be late before systemd acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who wants to know, as told on the command line; the environment tells of systemd."""

    database: str
    backends: Sequence[str]
    metrics_port: int | None = None
    health_port: int | None = None
    listen: str | None = None
    health_file: Path | None = None


@contextmanager
def watching(worker: Worker | Supervisor, watch: Watch) -> Iterator[None]:
    """Watch a relay that is about to run, until it has ended.

    One of several processes only leaves what there is to know about it to the one above it. Raises
    OSError for a port or a file that can't be had, ImportError without prometheus-client.
    """
    with ExitStack() as stack:
        if is_supervised():
            _tell_above(stack, worker, watch)
        else:
            _tell_the_world(stack, worker, watch)
        yield


def _tell_above(stack: ExitStack, worker: Worker | Supervisor, watch: Watch) -> None:
    if watch.metrics_port is not None:
        from .prometheus import install

        install()
    if REPORTS in os.environ:
        file = HealthFile(_report_of(Path(os.environ[REPORTS]), os.getpid()))
        stack.enter_context(reporting(_source(worker, None), [file]))


def _tell_the_world(stack: ExitStack, worker: Worker | Supervisor, watch: Watch) -> None:
    systemd = Systemd.from_environment(os.environ)
    ports = {port for port in (watch.metrics_port, watch.health_port) if port is not None}
    if not (ports or watch.health_file or systemd):
        return
    several = isinstance(worker, Supervisor)
    reports = stack.enter_context(_folder("health", REPORTS)) if several else None
    source = _source(worker, reports)
    outbox = partial(outbox_health, watch.database, watch.backends)
    metrics = _metrics(stack, watch, several) if watch.metrics_port is not None else None
    for port in ports:
        app = site(source, outbox, metrics if port == watch.metrics_port else None)
        stack.enter_context(serving(port, app, watch.listen or ALL_INTERFACES))
    reporters: list[Reporter] = [systemd] if systemd else []
    if watch.health_file:
        if not os.access(watch.health_file.parent, os.W_OK):
            raise OSError(f"{watch.health_file}: its folder is missing, or is not writable")
        reporters.append(HealthFile(watch.health_file))
    seconds = REPORT_SECONDS
    if systemd and systemd.watchdog_seconds:
        seconds = min(seconds, systemd.watchdog_seconds / BEATS_PER_WATCHDOG)
    stack.enter_context(reporting(source, reporters, seconds))


def _metrics(stack: ExitStack, watch: Watch, several: bool) -> App:
    from .prometheus import install, metrics_app

    if not several:
        install()
    # For the children: this process has imported the library without it.
    folder = stack.enter_context(_folder("metrics", METRICS)) if several else None
    app: App = metrics_app(watch.database, folder)
    return app


@contextmanager
def _folder(name: str, variable: str) -> Iterator[Path]:
    """Give a folder that child processes are told of by a variable of the environment."""
    with tempfile.TemporaryDirectory(prefix=f"outbox-{name}-") as folder:
        os.environ[variable] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[variable]


def _source(worker: Worker | Supervisor, reports: Path | None) -> Callable[[], Health]:
    """Return what judges the health of a relay now."""
    if isinstance(worker, Worker):
        return lambda: judge(worker.state, conf.STALL_SECONDS)
    assert reports is not None
    return lambda: _of_several(worker, reports)


def _of_several(supervisor: Supervisor, reports: Path) -> Health:
    """Return the health of all processes together, and of the one that keeps them running."""
    stopping = supervisor.is_stopping
    checks = [
        Check(name="running", ok=not stopping, detail="stopping" if stopping else "yes"),
        stall_check("supervisor", "supervising", supervisor.activity.silence, conf.STALL_SECONDS),
    ]
    for process, seconds in supervisor.processes():
        checks += _of_process(process, seconds, reports)
    return Health(tuple(checks))


def _of_process(process: int | None, seconds: float, reports: Path) -> Iterator[Check]:
    """Yield what a process says of itself, `seconds` after its start."""
    if process is None:
        yield Check(name="process", ok=False, detail="it has died, and is started again")
        return
    path = _report_of(reports, process)
    if not path.exists():
        late = seconds > conf.STALL_SECONDS
        detail = f"it says nothing, {seconds:.0f} s after its start"
        yield Check(
            name="process",
            ok=False,
            detail=detail,
            concerns=LIVE if late else READY,
            process=process,
        )
        return
    for check in health_file.read(path).checks:
        about = {**check.as_dict(), "process": process}
        yield Check.from_dict(about)


def _report_of(folder: Path, process: int) -> Path:
    return folder / f"{process}.json"
