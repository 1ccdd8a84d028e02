"""`manage.py outbox_worker`: parses arguments and runs a `Worker`, no more."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import router

from django_broadcaster.backends.greenlets import refuse_greenlets
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.instrumentation.monitors import Watch, watching
from django_broadcaster.management.selection import HIGHEST, seconds, whole
from django_broadcaster.management.sessions import refuse_other_schema
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.supervisor import Supervisor, is_supervised
from django_broadcaster.relay.worker import Worker


class Command(BaseCommand):
    """Deliver the outbox's events until stopped by SIGTERM or SIGINT."""

    help = "Delivers the outbox's events to their backends. SIGTERM and SIGINT stop it cleanly."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--batch-size",
            type=whole(1, 10_000),
            help="events of one delivery at the most (default: OUTBOX_BATCH_SIZE)",
        )
        parser.add_argument(
            "--interval",
            type=_interval,
            help="seconds between looks when idle (default: OUTBOX_POLL_INTERVAL)",
        )
        parser.add_argument(
            "--max-iterations",
            metavar="N",
            type=whole(0, HIGHEST),
            default=0,
            help="stop after N polls for each backend; 0 never stops (default: 0)",
        )
        parser.add_argument(
            "--backend",
            action="append",
            metavar="ALIAS",
            help="deliver to this backend only; may be given several times (default: all)",
        )
        parser.add_argument(
            "--exclude-backend",
            action="append",
            metavar="ALIAS",
            help="deliver to all but this one, which has a worker of its own; may be repeated",
        )
        parser.add_argument(
            "--processes",
            type=whole(1, 1024),
            default=1,
            help="run so many processes, which share the partitions (default: 1)",
        )
        parser.add_argument(
            "--metrics-port",
            type=whole(1, 65_535),
            metavar="PORT",
            help="serve metrics for Prometheus there, of all processes, and the health "
            "(default: none)",
        )
        parser.add_argument(
            "--health-port",
            type=whole(1, 65_535),
            metavar="PORT",
            help="serve the health there: /livez, /readyz and /healthz (default: none)",
        )
        parser.add_argument(
            "--listen",
            metavar="ADDRESS",
            help="of the interface that has these ports, such as 127.0.0.1 (default: all)",
        )
        parser.add_argument(
            "--health-file",
            type=Path,
            metavar="PATH",
            help="write the health there every second, for outbox_health --file (default: none)",
        )
        parser.add_argument("--database", help="alias of the database (default: by the router)")
        parser.add_argument(
            "--drain",
            action="store_true",
            help="exit when nothing is left that is due: 0, or 1 if it can't get there, because a "
            "broker is away for example",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker; raises CommandError, and so exits with 1, if it did not end well."""
        worker_options = WorkerOptions(
            database=_database(options["database"]),
            backends=_chosen(options["backend"] or [], options["exclude_backend"] or []),
            batch_size=options["batch_size"] or conf.BATCH_SIZE,
            interval=options["interval"] or conf.POLL_INTERVAL,
            max_iterations=options["max_iterations"] or None,
            drain=options["drain"],
        )
        _refuse_what_cannot_run(worker_options.backends)
        several = options["processes"] > 1 and not is_supervised()
        finite = options["drain"] or worker_options.max_iterations is not None
        worker: Worker | Supervisor
        if several:
            worker = Supervisor(sys.orig_argv, options["processes"], finite=finite)
        else:
            worker = Worker(worker_options)
        with ExitStack() as stack:
            _watch(stack, worker, worker_options, options)
            refuse_other_schema(worker_options.database)
            # A run that ends by itself is for cron, which mails whatever is printed.
            if options["verbosity"] and not finite and not is_supervised():
                self._say(_greeting(worker_options))
                _on_signals(worker.stop, lambda: self._say(_farewell()))
            else:
                _on_signals(worker.stop)
            ended_well = worker.run()
        if not ended_well:
            raise CommandError("the relay did not end as it should; its log says why")

    def _say(self, line: str) -> None:
        """Print a line; that nobody reads it must not end the relay."""
        with suppress(OSError, ValueError, RuntimeError):  # the last where a signal interrupts it
            self.stdout.write(line)
            self.stdout.flush()


def _greeting(options: WorkerOptions) -> str:
    named = (f"{alias} ({backends[alias].get_name()})" for alias in options.backends)
    return f"delivering from database {options.database!r} to {', '.join(named)}; Ctrl-C stops"


def _farewell() -> str:
    return f"stopping; batches in flight have {conf.SHUTDOWN_TIMEOUT:g} s to end"


def _on_signals(stop: Callable[[], None], say: Callable[[], None] | None = None) -> None:
    """Stop at a signal, and say so at the first one."""
    words = [say] if say else []

    def receive(*_: Any) -> None:
        stop()
        if words:
            words.pop()()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)


def _watch(
    stack: ExitStack, worker: Worker | Supervisor, relay: WorkerOptions, options: dict[str, Any]
) -> None:
    """Let everything watch the relay that was asked for; raises CommandError if it can't."""
    if options["listen"] and not (options["metrics_port"] or options["health_port"]):
        raise CommandError("--listen needs --metrics-port or --health-port, or nothing listens")
    watch = Watch(
        database=relay.database,
        backends=relay.backends,
        metrics_port=options["metrics_port"],
        health_port=options["health_port"],
        listen=options["listen"],
        health_file=options["health_file"],
    )
    try:
        stack.enter_context(watching(worker, watch))
    except ImportError as error:
        raise CommandError(
            "--metrics-port needs prometheus-client: pip install 'django-broadcaster[prometheus]'"
        ) from error
    except OSError as error:
        raise CommandError(f"the relay can't be watched as asked: {error}") from error


def _database(alias: str | None) -> str:
    if alias is not None and alias not in settings.DATABASES:
        raise CommandError(f"--database {alias}: DATABASES has {_listed(settings.DATABASES)}")
    chosen = alias or router.db_for_write(OutboxEvent)
    if not settings.DATABASES[chosen].get("AUTOCOMMIT", True):
        raise CommandError(
            f"DATABASES[{chosen!r}]['AUTOCOMMIT'] is False, so the relay could never commit; "
            "give it a settings module in which that is True"
        )
    return chosen


def _chosen(wanted: list[str], excluded: list[str]) -> list[str]:
    """Return the aliases to deliver to; raises CommandError for one that there is not."""
    known = backends.aliases()
    for option, aliases in (("--backend", wanted), ("--exclude-backend", excluded)):
        for alias in aliases:
            if alias not in known:
                raise CommandError(f"{option} {alias}: OUTBOX_PUBLISHERS has {_listed(known)}")
    chosen = [alias for alias in dict.fromkeys(wanted or known) if alias not in excluded]
    if not chosen:
        raise CommandError("--exclude-backend leaves no backend to deliver to")
    return chosen


def _refuse_what_cannot_run(aliases: Iterable[str]) -> None:
    """Raise CommandError for a backend that can't deliver in such a process."""
    try:
        for alias in aliases:
            refuse_greenlets(backends.create(alias))
    except BackendConfigurationError as error:
        raise CommandError(str(error)) from error


def _listed(aliases: Iterable[str]) -> str:
    return ", ".join(map(repr, aliases))


def _interval(text: str) -> float:
    value = seconds(text)
    if not 0.001 <= value <= 3600:
        raise ArgumentTypeError(f"0.001 to 3600 seconds are possible, not {text}")
    return value
