"""Database servers of a test's own, which it may stop, kill, freeze and fill up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from tests.support.disks import processes_of
from tests.support.documented import FAR_DATABASE, shown
from tests.support.redis_server import missing
from tools import launch
from tools.servers import SERVICES, Service


@contextmanager
def own_instance(service: Service) -> Iterator[launch.Instance]:
    """Give an instance that has not been prepared, and remove it behind the block."""
    instance = launch.Instance(service, _program(service))
    try:
        yield instance
    finally:
        thaw(instance)
        instance.remove()


def _program(service: Service) -> Path:
    try:
        return launch.system_program(service)
    except launch.CannotStart as error:
        return launch.pypi_program(service) or missing(f"the program {service.program}: {error}")


def freeze(instance: launch.Instance) -> None:
    """Let a server hang: connections stay, and nothing is answered."""
    for pid in processes_of(instance):
        os.kill(pid, signal.SIGSTOP)


def thaw(instance: launch.Instance) -> None:
    """Let it go on."""
    for pid in processes_of(instance):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class OwnDatabase:
    """A database server with the tables of the outbox, as the alias `own` of Django."""

    alias = "own"

    def __init__(self, instance: launch.Instance) -> None:
        self.instance = instance
        self.is_postgres = instance.service.name == "postgres"
        self.place = {
            "ENGINE": f"django.db.backends.{'postgresql' if self.is_postgres else 'mysql'}",
            "HOST": "127.0.0.1",
            "PORT": instance.port,
            "USER": "postgres" if self.is_postgres else "root",
            "NAME": "outbox",
            "OPTIONS": shown(FAR_DATABASE) if self.is_postgres else {},
        }

    def create(self) -> None:
        """Make the database and its tables."""
        first = "postgres" if self.is_postgres else "mysql"
        with as_alias(self.alias, {**self.place, "NAME": first}):
            self.execute("CREATE DATABASE outbox")
        with as_alias(self.alias, self.place):
            call_command("migrate", "django_broadcaster", database=self.alias, verbosity=0)

    def execute(self, sql: str) -> list[Any]:
        """Run a statement on a connection of its own; return the rows, if there are any."""
        with closing(connections[self.alias].copy()) as other, other.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def listen_to_all(self) -> None:
        """Trust clients of every network at whose addresses it listens, not only this machine's."""
        ((file,),) = self.execute("SHOW hba_file")
        self.execute(f"COPY (SELECT 'host all all all trust') TO '{file}'")
        self.execute("SELECT pg_reload_conf()")

    def restart(self, how: signal.Signals | None = None) -> None:
        """End it, by that signal, and start it again."""
        self.instance.stop(how)
        connections[self.alias].close()  # the test's own
        self.instance.start()

    def crash(self) -> None:
        """Kill a process of PostgreSQL's; it ends all others, recovers, and starts again itself."""
        sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        ((pid,),) = self.execute(sql)
        connections[self.alias].close()
        os.kill(pid, signal.SIGKILL)
        launch.wait_until_ready(self.instance.service, self.instance.url)

    def revive(self) -> None:
        """Start it if it has ended, and wait until it answers."""
        assert self.instance.process is not None
        if self.instance.process.poll() is not None:
            self.instance.start()
        launch.wait_until_ready(self.instance.service, self.instance.url)


@contextmanager
def as_alias(alias: str, place: dict[str, Any]) -> Iterator[str]:
    """Let Django know a database by that alias for the time of the block; yield the alias."""
    before = connections.settings.get(alias)
    if before is not None:
        _forget(alias)
    defaults = {**connections.settings["default"], "DISABLE_SERVER_SIDE_CURSORS": False}
    connections.settings[alias] = {**defaults, "OPTIONS": {}, "PASSWORD": "", **place}
    try:
        yield alias
    finally:
        _forget(alias)
        if before is None:
            del connections.settings[alias]
        else:
            connections.settings[alias] = before


def _forget(alias: str) -> None:
    """Close this thread's connection; the next one has the settings of that time."""
    connections[alias].close()
    del connections[alias]


def service_like(name: str, prepare: str = "", serve: str = "") -> Service:
    """Return that kind of server, with more words on its command lines."""
    known = SERVICES[name]
    return replace(known, serve=f"{known.serve} {serve}", prepare=f"{known.prepare} {prepare}")


@contextmanager
def running(
    instance: launch.Instance, env: Mapping[str, str] | None = None
) -> Iterator[OwnDatabase]:
    """Prepare and start an instance, with more in its environment, and give it with its tables."""
    instance.prepare()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        instance.start()
    server = OwnDatabase(instance)
    server.create()
    with as_alias(server.alias, server.place):
        yield server
