"""`manage.py outbox_worker`: deliver to backends, and receive for consumers."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import CommandError
from django.db import router

from django_broadcaster.backends.base import MessageBackend
from django_broadcaster.backends.greenlets import refuse_greenlets
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.consumers.base import Consumer
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.exceptions import BackendConfigurationError, MissingClient
from django_broadcaster.instrumentation.monitors import Watch, watching
from django_broadcaster.management.base import ExplainedCommand
from django_broadcaster.management.selection import HIGHEST, seconds, whole
from django_broadcaster.management.sessions import refuse_missing_tables, refuse_other_schema
from django_broadcaster.models import OutboxEvent
from django_broadcaster.receiving.receiver_thread import ReceiverThread
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.outage import DatabaseOutage
from django_broadcaster.relay.supervisor import Supervisor, is_supervised
from django_broadcaster.relay.worker import Worker


class Command(ExplainedCommand):
    """Run relays and receivers until stopped by SIGTERM or SIGINT."""

    help = (
        "Delivers the outbox's events to their backends, and receives the messages of "
        "OUTBOX_CONSUMERS. SIGTERM or SIGINT stops it cleanly."
    )
    examples: ClassVar[tuple[str, ...]] = (
        "",
        "--backend default --consumer orders",
        "--health-port 8080 --metrics-port 9100 --processes 2",
    )
    delivers = True
    """Whether the command delivers to backends, too."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--batch-size",
            type=whole(1, 10_000),
            help="largest number of events in a batch (default: OUTBOX_BATCH_SIZE)",
        )
        parser.add_argument(
            "--interval",
            type=_interval,
            help="seconds between polls when idle (default: OUTBOX_POLL_INTERVAL)",
        )
        parser.add_argument(
            "--max-iterations",
            metavar="N",
            type=whole(0, HIGHEST),
            default=0,
            help="stop after N polls for each backend and consumer; 0 means no limit (default: 0)",
        )
        if self.delivers:
            _choose_backends(parser)
        _choose_consumers(parser)
        parser.add_argument(
            "--processes",
            type=whole(1, 1024),
            default=1,
            metavar="N",
            help="run N processes that share the partitions (default: 1)",
        )
        parser.add_argument(
            "--metrics-port",
            type=whole(1, 65_535),
            metavar="PORT",
            help="port for Prometheus metrics and health checks of all processes (default: none)",
        )
        parser.add_argument(
            "--health-port",
            type=whole(1, 65_535),
            metavar="PORT",
            help="port for the health checks /livez, /readyz and /healthz (default: none)",
        )
        parser.add_argument(
            "--listen",
            metavar="ADDRESS",
            help="address to bind the metrics and health ports to (default: all interfaces)",
        )
        parser.add_argument(
            "--health-file",
            type=Path,
            metavar="PATH",
            help="write the health to this file each second, for outbox_health --file "
            "(default: none)",
        )
        parser.add_argument("--database", help="alias of the database (default: by the router)")
        parser.add_argument(
            "--drain",
            action="store_true",
            help="exit when no message is waiting and all due events are delivered; exits with 1 "
            "if that fails, for example because a broker is unavailable",
        )

        parser.add_argument(
            "--wait",
            action="store_true",
            help="if tables or client libraries are missing, retry instead of exiting with 1",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker; raise CommandError, which exits with 1, if it fails."""
        to_backends, to_consumers = self._chosen(options)
        worker_options = WorkerOptions(
            database=_database(options["database"]),
            backends=to_backends,
            consumers=to_consumers,
            batch_size=options["batch_size"] or conf.BATCH_SIZE,
            interval=options["interval"] or conf.POLL_INTERVAL,
            max_iterations=options["max_iterations"] or None,
            drain=options["drain"],
        )
        _refuse_what_cannot_run(worker_options, wait=options["wait"])
        several = options["processes"] > 1 and not is_supervised()
        finite = options["drain"] or worker_options.max_iterations is not None
        worker: Worker | Supervisor
        if several:
            worker = Supervisor(sys.orig_argv, options["processes"], finite=finite)
        else:
            worker = Worker(worker_options, partial(_receiver, worker_options))
        with ExitStack() as stack:
            _watch(stack, worker, worker_options, options)
            refuse_other_schema(worker_options.database)
            waits_for = ""
            if not options["wait"] and not is_supervised():
                waits_for = refuse_missing_tables(worker_options.database)
            # A run that ends by itself is for cron, which mails all output.
            if options["verbosity"] and not finite and not is_supervised():
                # From the greeting on, Ctrl-C has to stop it as the greeting says.
                _on_signals(worker.stop, lambda: self._say(_farewell()))
                self._say(_greeting(worker_options, waits_for))
            else:
                _on_signals(worker.stop)
            ended_well = worker.run()
        if not ended_well:
            raise CommandError(f"The relay exited with an error: {worker.failure}.")

    def _chosen(self, options: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Return the aliases of backends and of consumers; naming some leaves out the others."""
        wanted, excluded = options.get("backend") or [], options.get("exclude_backend") or []
        heard, unheard = options["consumer"] or [], options["exclude_consumer"] or []
        to_backends: list[str] = []
        if self.delivers and (wanted or not heard):
            to_backends = _selection("backend", wanted, excluded, backends.aliases())
        to_consumers: list[str] = []
        if heard or not wanted:
            to_consumers = _selection("consumer", heard, unheard, consumers.aliases())
        if not (to_backends or to_consumers):
            left = "backend" if self.delivers else "consumer"
            raise CommandError(
                f"--exclude-{left} must leave at least one {left}."
                if excluded or unheard
                else "OUTBOX_CONSUMERS has no consumer."
            )
        return to_backends, to_consumers

    def _say(self, line: str) -> None:
        """Print a line; a closed output must not stop the relay."""
        with suppress(OSError, ValueError, RuntimeError):  # the last: a signal interrupted print
            self.stdout.write(line)
            self.stdout.flush()


def _choose_backends(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        action="append",
        metavar="ALIAS",
        help="deliver only to this backend; can be repeated (default: all backends)",
    )
    parser.add_argument(
        "--exclude-backend",
        action="append",
        metavar="ALIAS",
        help="do not deliver to this backend, for example because another worker does; can be "
        "repeated",
    )


def _choose_consumers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--consumer",
        action="append",
        metavar="ALIAS",
        help="receive only for this consumer; can be repeated (default: all consumers)",
    )
    parser.add_argument(
        "--exclude-consumer",
        action="append",
        metavar="ALIAS",
        help="do not receive for this consumer, for example because another worker does; can be "
        "repeated",
    )


def _greeting(options: WorkerOptions, waits_for: str) -> str:
    if waits_for:
        return f"Waiting for database {options.database!r}: {waits_for}. Press Ctrl-C to stop."
    doing = []
    if options.backends:
        named = (f"{alias} ({backends[alias].get_name()})" for alias in options.backends)
        doing.append(f"Delivering from database {options.database!r} to {', '.join(named)}.")
    if options.consumers:
        doing.append(f"Receiving {', '.join(options.consumers)}.")
    return f"{' '.join(doing)} Press Ctrl-C to stop."


def _farewell() -> str:
    return f"Stopping; waiting up to {conf.SHUTDOWN_TIMEOUT:g} s for running batches."


def _on_signals(stop: Callable[[], None], say: Callable[[], None] | None = None) -> None:
    """Stop at SIGTERM or SIGINT; call `say` at the first signal."""
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
    """Start the requested metrics and health checks; raise CommandError if one cannot start."""
    if options["listen"] and not (options["metrics_port"] or options["health_port"]):
        raise CommandError("--listen needs --metrics-port or --health-port.")
    watch = Watch(
        database=relay.database,
        backends=relay.backends,
        consumers=relay.consumers,
        metrics_port=options["metrics_port"],
        health_port=options["health_port"],
        listen=options["listen"],
        health_file=options["health_file"],
    )
    try:
        stack.enter_context(watching(worker, watch))
    except ImportError as error:
        raise CommandError(
            "--metrics-port needs prometheus-client. Install it: pip install "
            "'django-broadcaster[prometheus]'"
        ) from error
    except OSError as error:
        raise CommandError(f"Could not start metrics or health checks: {error}") from error


def _database(alias: str | None) -> str:
    if alias is not None and alias not in settings.DATABASES:
        raise CommandError(
            f"--database {alias} is not configured; DATABASES has {_listed(settings.DATABASES)}."
        )
    chosen = alias or router.db_for_write(OutboxEvent)
    if not settings.DATABASES[chosen].get("AUTOCOMMIT", True):
        raise CommandError(
            f"DATABASES[{chosen!r}]['AUTOCOMMIT'] must be True for the relay, not False. Run the "
            "relay with a settings module that sets it to True."
        )
    return chosen


def _selection(
    kind: str, wanted: list[str], excluded: list[str], known: Sequence[str]
) -> list[str]:
    """Return the wanted aliases, by default all; raise CommandError if one is not configured."""
    setting = {"backend": "OUTBOX_PUBLISHERS", "consumer": "OUTBOX_CONSUMERS"}[kind]
    for option, aliases in ((f"--{kind}", wanted), (f"--exclude-{kind}", excluded)):
        for alias in aliases:
            if alias not in known:
                raise CommandError(
                    f"{option} {alias} is not configured; {setting} has "
                    f"{_listed(known) or f'no {kind}s'}."
                )
    return [alias for alias in dict.fromkeys(wanted or known) if alias not in excluded]


def _receiver(options: WorkerOptions, alias: str, outage: DatabaseOutage) -> ReceiverThread:
    """Return the receiver of a consumer."""
    return ReceiverThread(
        options.database,
        alias,
        limit=options.batch_size,
        outage=outage,
        drain=options.drain,
        max_iterations=options.max_iterations,
    )


def _refuse_what_cannot_run(options: WorkerOptions, *, wait: bool) -> None:
    """Raise CommandError if a backend or consumer cannot run here, or lacks its client library."""
    try:
        made: list[MessageBackend | Consumer] = [
            *map(backends.create, options.backends),
            *map(consumers.create, options.consumers),
        ]
        for alias in options.consumers:
            consumers.delivers_to(alias)
        for each in made:
            refuse_greenlets(each)
            library = getattr(each, "client_library", None)
            if library and not wait:
                _refuse_missing(library)
    except BackendConfigurationError as error:
        raise CommandError(str(error)) from error


def _refuse_missing(library: tuple[str, str]) -> None:
    """Raise MissingClient if a client library is not installed."""
    try:
        found = find_spec(library[0])
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise MissingClient(*library)


def _listed(aliases: Iterable[str]) -> str:
    return ", ".join(map(repr, aliases))


def _interval(text: str) -> float:
    value = seconds(text)
    if not 0.001 <= value <= 3600:
        raise ArgumentTypeError(f"must be a number of seconds from 0.001 to 3600, not {text}")
    return value
