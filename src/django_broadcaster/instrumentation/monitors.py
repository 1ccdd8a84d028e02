"""Starts the metrics and health checks of a relay, for `outbox_worker`."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.db import connections

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
"""prometheus-client's own variable, which must be set before the library is imported."""

REPORTS = "DJANGO_BROADCASTER_HEALTH_DIR"
"""The folder in which each process of a supervisor writes a health file."""

JUDGE_SECONDS = 10.0
"""Seconds between two queries for the health file: relays write their figures as often."""

BEATS_PER_WATCHDOG = 3
"""Reports per watchdog timeout: systemd acts after two late reports, not after one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The requested metrics and health checks; systemd is configured by the environment."""

    database: str
    backends: Sequence[str]
    consumers: Sequence[str] = ()
    metrics_port: int | None = None
    health_port: int | None = None
    listen: str | None = None
    health_file: Path | None = None


@contextmanager
def watching(worker: Worker | Supervisor, watch: Watch) -> Iterator[None]:
    """Run the metrics and health checks of a relay for the time of the block.

    One of several processes only reports to its supervisor.

    Raises:
        OSError: A port or a file is not available.
        ImportError: prometheus-client is not installed.
    """
    with ExitStack() as stack:
        if is_supervised():
            _report_to_supervisor(stack, worker, watch)
        else:
            _serve_and_report(stack, worker, watch)
        yield


def _report_to_supervisor(stack: ExitStack, worker: Worker | Supervisor, watch: Watch) -> None:
    if watch.metrics_port is not None:
        from .prometheus import install

        install()
    if REPORTS in os.environ:
        file = HealthFile(_report_of(Path(os.environ[REPORTS]), os.getpid()))
        stack.enter_context(reporting(_source(worker, None), [file]))


def _serve_and_report(stack: ExitStack, worker: Worker | Supervisor, watch: Watch) -> None:
    systemd = Systemd.from_environment(os.environ)
    ports = {port for port in (watch.metrics_port, watch.health_port) if port is not None}
    if not (ports or watch.health_file or systemd):
        return
    several = isinstance(worker, Supervisor)
    reports = stack.enter_context(_folder("health", REPORTS)) if several else None
    source = _source(worker, reports)
    outbox = partial(outbox_health, watch.database, watch.backends, receiving=watch.consumers)
    metrics = _metrics(stack, watch, several) if watch.metrics_port is not None else None
    for port in ports:
        app = site(source, outbox, metrics if port == watch.metrics_port else None)
        stack.enter_context(serving(port, app, watch.listen or ALL_INTERFACES))
    reporters: list[Reporter] = [systemd] if systemd else []
    if watch.health_file:
        if not os.access(watch.health_file.parent, os.W_OK):
            raise OSError(f"The folder of {watch.health_file} does not exist or is not writable.")
        failures = stack.enter_context(asked_again(lambda: failures_of(outbox()), JUDGE_SECONDS))
        reporters.append(HealthFile(watch.health_file, failures))
    seconds = REPORT_SECONDS
    if systemd and systemd.watchdog_seconds:
        seconds = min(seconds, systemd.watchdog_seconds / BEATS_PER_WATCHDOG)
    stack.enter_context(reporting(source, reporters, seconds))


def failures_of(health: Health) -> tuple[Check, ...]:
    """Return the checks that a backend's attempts do not fail."""
    return tuple(check for check in health.checks if check.name == "failures")


@contextmanager
def asked_again(
    question: Callable[[], tuple[Check, ...]], seconds: float
) -> Iterator[Callable[[], tuple[Check, ...]]]:
    """Ask the database every `seconds`, in a thread; give a function that returns the last answer.

    A database that hangs delays no report of the relay's own health.
    """
    ended = threading.Event()
    answer: tuple[Check, ...] = ()

    def ask() -> None:
        nonlocal answer
        while True:
            try:
                answer = question()
            except Exception:  # such as invalid settings, which the checks name
                answer = ()
            finally:
                connections.close_all()  # those of this thread
            if ended.wait(seconds):
                return

    threading.Thread(target=ask, name="relay-failures", daemon=True).start()
    try:
        yield lambda: answer
    finally:
        ended.set()


def _metrics(stack: ExitStack, watch: Watch, several: bool) -> App:
    from .prometheus import install, metrics_app

    if not several:
        install()
    # For the child processes: this process imported the library without the variable.
    folder = stack.enter_context(_folder("metrics", METRICS)) if several else None
    app: App = metrics_app(watch.database, folder)
    return app


@contextmanager
def _folder(name: str, variable: str) -> Iterator[Path]:
    """Create a temporary folder and set an environment variable to it."""
    with tempfile.TemporaryDirectory(prefix=f"outbox-{name}-") as folder:
        os.environ[variable] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[variable]


def _source(worker: Worker | Supervisor, reports: Path | None) -> Callable[[], Health]:
    """Return a function that returns the current health of a relay."""
    if isinstance(worker, Worker):
        return lambda: judge(worker.state, conf.STALL_SECONDS)
    assert reports is not None
    return lambda: _of_several(worker, reports)


def _of_several(supervisor: Supervisor, reports: Path) -> Health:
    """Return the health of all processes and of their supervisor."""
    stopping = supervisor.is_stopping
    checks = [
        Check(name="running", ok=not stopping, detail="stopping" if stopping else "yes"),
        stall_check("supervisor", "supervising", supervisor.activity.silence, conf.STALL_SECONDS),
    ]
    for process, seconds in supervisor.processes():
        checks += _of_process(process, seconds, reports)
    return Health(tuple(checks))


def _of_process(process: int | None, seconds: float, reports: Path) -> Iterator[Check]:
    """Yield the checks of a process, `seconds` after its start."""
    if process is None:
        yield Check(name="process", ok=False, detail="crashed; restarting")
        return
    path = _report_of(reports, process)
    if not path.exists():
        late = seconds > conf.STALL_SECONDS
        detail = f"no report {seconds:.0f} s after the start"
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
