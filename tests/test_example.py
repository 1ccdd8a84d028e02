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
import redis

from tests.support.redis_server import free_port, missing, shared_url
from tools import services

EXAMPLE = Path(__file__).resolve().parent.parent / "example"
SECONDS = 30.0


def environment(db: str, folder: Path, service: str = "shop") -> dict[str, str]:
    """Return the environment of a service on a database of its own."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": f"{service}_site.settings", "SHOP_DB": db}
    variable = f"{service.upper()}_DATABASE"
    if db == "sqlite":
        return {**env, variable: str(folder / f"{service}.sqlite3")}
    address = services.address(db)
    if not address:
        missing("a PostgreSQL server, at the address in BROADCASTER_POSTGRES_URL")
    name = (
        f"{service}_{token_hex(4)}"  # the test runner makes `test_` and this name, and removes it
    )
    return {**env, "BROADCASTER_POSTGRES_URL": address, variable: name}


@pytest.mark.parametrize("service", ["shop", "billing"])
@pytest.mark.parametrize(
    ("db", "command"),
    [
        ("sqlite", "test"),
        ("postgres", "test"),
        ("sqlite", "check"),
        ("sqlite", "makemigrations --check --dry-run"),
    ],
)
def test_own_checks_of_a_service(db: str, command: str, service: str, tmp_path: Path) -> None:
    """Its tests, system checks and migrations are in order, warnings being errors."""
    words = [*command.split(), service] if command == "test" else command.split()
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE / "manage.py"), *words],
        env=environment(db, tmp_path, service),
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


@pytest.mark.parametrize("service", ["shop", "billing"])
@pytest.mark.parametrize("broker", ["redis", "rabbitmq", "nats", "kafka"])
def test_settings_of_every_broker(broker: str, service: str, tmp_path: Path) -> None:
    """The system checks find nothing in the options of any broker."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE / "manage.py"), "check"],
        env={**environment("sqlite", tmp_path, service), "SHOP_BROKER": broker},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert "no issues" in run.stdout


def test_serve_two_services(tmp_path: Path) -> None:
    """With a broker, `--serve` brings up billing as well: an order comes back with its invoice."""
    url = shared_url()
    port, name = free_port(), token_hex(4)
    streams = {"SHOP_STREAM": f"shop-{name}", "BILLING_STREAM": f"billing-{name}"}
    command = [sys.executable, str(EXAMPLE / "demo.py"), "--serve", "--port", str(port)]
    served = subprocess.Popen(
        [*command, "--broker", "redis"],
        env={
            **environment("sqlite", tmp_path),
            "BILLING_DATABASE": str(tmp_path / "billing.sqlite3"),
            "BROADCASTER_REDIS_URL": url,
            **streams,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        order = until(lambda: ask(port, "/api/orders/", {"product": 1, "quantity": 2}))
        path = f"/api/orders/{order['id']}/"
        until(lambda: ask(port, path)["invoices"])
    finally:
        served.send_signal(signal.SIGINT)
        output, _ = served.communicate(timeout=SECONDS)
        print(output)  # pytest shows it if nothing came back
        with redis.Redis.from_url(url) as client:
            client.delete(*streams.values())
    assert served.returncode == 0, output
    assert f"http://127.0.0.1:{port + 1}/admin/" in output


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
