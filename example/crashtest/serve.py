"""Run the services with their workers until Ctrl-C, for this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .opening import open_databases
from .places import create_destinations, create_postgres
from .worker import MANAGE, PATIENCE

NAME = PASSWORD = "admin"


def serve(services: list[str], db: str, broker: str, port: int) -> int:
    """Run a web server and a worker of each service until one ends or Ctrl-C; return a status.

    The shop listens on the port of 127.0.0.1, and billing on the next one.
    """
    os.environ["DJANGO_RUNSERVER_HIDE_WARNING"] = "true"
    streams = [os.environ.setdefault(f"{each.upper()}_STREAM", each) for each in services]
    if broker != "local":
        create_destinations(broker, streams)
    if db == "postgres":
        for each in services:
            create_postgres(os.environ.setdefault(f"{each.upper()}_DATABASE", each))
    with open_databases():
        _add_superusers()
    addresses = {each: f"127.0.0.1:{port + place}" for place, each in enumerate(services)}
    print(introduction(addresses), flush=True)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_running(each, *arguments))
            for each, address in addresses.items()
            for arguments in (["outbox_worker"], ["runserver", address, "--noreload"])
        ]
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
    print("All has stopped, because a worker or a web server ended; see above.")
    return 1


def introduction(addresses: dict[str, str]) -> str:
    """Return the addresses of the pages."""
    login = f"({NAME} / {PASSWORD})"
    lines = [
        f"  The shop              http://{addresses['shop']}/",
        f"  Its admin             http://{addresses['shop']}/admin/   {login}",
    ]
    if "billing" in addresses:
        lines.append(f"  The admin of billing  http://{addresses['billing']}/admin/   {login}")
        workers = "A worker of each service is running, too"
    else:
        workers = "A relay is running, too"
    return "\n" + "\n".join(lines) + f"\n\n{workers}. Ctrl-C stops all; the orders are kept.\n"


@contextmanager
def _running(service: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a management command of a service until the end of the block."""
    command = [sys.executable, str(MANAGE), *arguments, "--settings", f"{service}_site.settings"]
    # The session is separate, so that only the parent process receives Ctrl-C.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _add_superusers() -> None:
    from django.contrib.auth import get_user_model
    from django.db import connections

    for alias in connections:
        users = get_user_model()._default_manager.db_manager(alias)
        if not users.filter(username=NAME).exists():
            users.create_superuser(NAME, "admin@example.com", PASSWORD)
