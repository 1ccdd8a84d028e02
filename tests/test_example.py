"""The example shop, under its own settings and as it is served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.support.redis_server import free_port, missing
from tools import services

EXAMPLE = Path(__file__).resolve().parent.parent / "example"
SECONDS = 30.0


def environment(db: str, folder: Path) -> dict[str, str]:
    """Return the environment of a shop on a database of its own."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "shop_site.settings", "SHOP_DB": db}
    if db == "sqlite":
        return {**env, "SHOP_DATABASE": str(folder / "shop.sqlite3")}
    address = services.address(db)
    if not address:
        missing("a PostgreSQL server, at the address in BROADCASTER_POSTGRES_URL")
    name = f"shop_{token_hex(4)}"  # the test runner makes `test_` and this name, and removes it
    return {**env, "BROADCASTER_POSTGRES_URL": address, "SHOP_DATABASE": name}


@pytest.mark.parametrize(
    ("db", "command"),
    [
        ("sqlite", "test shop"),
        ("postgres", "test shop"),
        ("sqlite", "check"),
        ("sqlite", "makemigrations --check --dry-run"),
    ],
)
def test_the_shops_own_checks(db: str, command: str, tmp_path: Path) -> None:
    """The shop's tests, system checks and migrations are in order, warnings being errors."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE / "manage.py"), *command.split()],
        env=environment(db, tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_serve(tmp_path: Path) -> None:
    """`--serve` brings up the shop and a relay: an order that is placed is delivered."""
    port = free_port()
    shop = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "demo.py"), "--serve", "--port", str(port)],
        env=environment("sqlite", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        order = until(lambda: ask(port, "/api/orders/", {"product": 1, "quantity": 2}))
        assert order["total"] == "19.00"
        path = f"/api/orders/{order['id']}/"
        until(lambda: ask(port, path)["events"][0]["status"] == "published")
    finally:
        shop.send_signal(signal.SIGINT)
        output, _ = shop.communicate(timeout=SECONDS)
    assert shop.returncode == 0, output
    assert "admin / admin" in output
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/api/orders/")


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON that the shop answers with; a body is posted."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with closing(connection):
        method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, text, {"Content-Type": "application/json"})
        return json.load(connection.getresponse())


def until(attempt: Callable[[], Any]) -> Any:
    """Return the first true result, while refused connections count as none."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            if result := attempt():
                return result
        time.sleep(0.1)
    pytest.fail(f"not within {SECONDS:.0f} seconds")
