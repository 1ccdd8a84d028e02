"""Run the shop and a relay until Ctrl-C, for this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .opening import open_databases
from .places import create_postgres
from .worker import MANAGE, PATIENCE

NAME = PASSWORD = "admin"


def serve(db: str, broker: str, port: int) -> int:
    """Run the web server on 127.0.0.1 and a relay until one ends or Ctrl-C; return a status."""
    os.environ.update(SHOP_DB=db, SHOP_BROKER=broker, DJANGO_RUNSERVER_HIDE_WARNING="true")
    if db == "postgres":
        create_postgres(os.environ.setdefault("SHOP_DATABASE", "shop"))
    with open_databases():
        _add_superuser()
    address = f"127.0.0.1:{port}"
    print(
        f"\n  The shop    http://{address}/"
        f"\n  Its admin   http://{address}/admin/   ({NAME} / {PASSWORD})"
        "\n\nA relay is running, too. Ctrl-C stops both; the orders are kept.\n",
        flush=True,
    )
    with _running("outbox_worker") as relay, _running("runserver", address, "--noreload") as web:
        while relay.poll() is None and web.poll() is None:
            time.sleep(0.2)
    print("The shop has stopped, because the relay or the web server ended; see above.")
    return 1


@contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a management command until the end of the block."""
    # The session is separate, so that only the parent process receives Ctrl-C.
    process = subprocess.Popen([sys.executable, str(MANAGE), *arguments], start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _add_superuser() -> None:
    from django.contrib.auth import get_user_model

    users = get_user_model()._default_manager
    if not users.filter(username=NAME).exists():
        users.create_superuser(NAME, "admin@example.com", PASSWORD)
