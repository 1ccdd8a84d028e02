"""`outbox_debezium`: what it prints, and what it says of wrong settings."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections

from django_broadcaster.backends.handler import backends
from django_broadcaster.publishers import publisher
from tests.debezium.conftest import BACKEND, use
from tests.support.redis_server import free_port

if TYPE_CHECKING:
    from pytest_django import Settings


def run(*arguments: str, database: str = "own") -> str:
    """Return what the command prints."""
    printed = StringIO()
    call_command("outbox_debezium", *arguments, "--database", database, stdout=printed)
    return printed.getvalue()


@pytest.mark.usefixtures("postgres")
def test_the_configuration_follows_the_settings(settings: Settings) -> None:
    """The slot's name, the extensions and the database; --set adds and replaces."""
    use(settings, slot="shop", extensions=["tenant"])
    config = json.loads(run("default", "--set", "database.password=a=b", "--set", "tasks.max=1"))
    place = connections["own"].settings_dict
    assert config["database.hostname"] == "127.0.0.1"
    assert config["database.port"] == str(place["PORT"])
    assert config["database.password"] == "a=b"
    assert config["poll.interval.ms"] == "10"
    assert {config[key] for key in ("slot.name", "publication.name", "topic.prefix")} == {"shop"}
    assert (
        "ce_tenant:header:ce_tenant" in config["transforms.route.table.fields.additional.placement"]
    )


@pytest.mark.parametrize(
    ("publishers", "arguments", "problem"),
    [
        ({"default": "DummyBackend"}, [], r"OUTBOX_PUBLISHERS\['default'\]\['BACKEND'\] must be"),
        ({"a": "DebeziumBackend", "b": "DummyBackend"}, ["b"], r"OUTBOX_PUBLISHERS\['b'\]"),
        ({"a": "DebeziumBackend", "b": "DebeziumBackend"}, [], "one of these aliases: a, b"),
        ({"a": "DebeziumBackend"}, ["c"], "Backend 'c' is not configured"),
        ({"a": "DebeziumBackend"}, ["--remove"], "combined with --sql or --url"),
        ({"a": "DebeziumBackend"}, ["--url", "connect:8083"], "must begin with http://"),
        ({"a": "DebeziumBackend"}, ["--url", "http://host:port"], "http://host:port: nonnumeric"),
        ({"a": "DebeziumBackend"}, ["--url", "http://[host"], "Could not reach Kafka Connect"),
        ({"a": "DebeziumBackend"}, ["--set", "x"], "must be NAME=VALUE"),
        ({"a": "DebeziumBackend"}, ["--wait", "1"], "slot broadcaster_a does not exist"),
    ],
)
@pytest.mark.usefixtures("postgres")
def test_wrong_calls_name_the_setting(
    publishers: dict[str, str], arguments: list[str], problem: str, settings: Settings
) -> None:
    """And the fix."""
    package = "django_broadcaster.backends"
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": f"{package}.{name}"} for alias, name in publishers.items()
    }
    backends.reset()
    with pytest.raises(CommandError, match=problem):
        run(*arguments)


@pytest.mark.usefixtures("postgres")
def test_a_database_without_a_host_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka Connect is on another machine: a socket of this one is of no use to it."""
    use(settings)
    monkeypatch.setitem(connections["own"].settings_dict, "HOST", "/run/postgresql")
    with pytest.raises(
        CommandError, match=r"DATABASES\['own'\]\['HOST'\] must be a host"
    ) as raised:
        run()
    assert "--set database.hostname=HOST" in str(raised.value)
    assert json.loads(run("--set", "database.hostname=db"))["database.hostname"] == "db"


def test_other_databases_are_refused(database: str, settings: Settings) -> None:
    """The error names the database, unless it is PostgreSQL."""
    use(settings)
    if connections[database].vendor == "postgresql":
        assert "CREATE PUBLICATION" in run("--sql", database=database)
    else:
        with pytest.raises(CommandError, match=r"DebeziumBackend needs PostgreSQL"):
            run("--sql", database=database)


@pytest.mark.usefixtures("postgres")
def test_a_kafka_connect_that_is_away_is_reported(settings: Settings) -> None:
    """With its address."""
    use(settings)
    url = f"http://127.0.0.1:{free_port()}"
    for more in ([], ["--remove"]):
        with pytest.raises(CommandError, match=f"Could not reach Kafka Connect at {url}"):
            run("--url", url, *more)


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_a_check_reports_a_project_without_postgresql(
    vendor: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as one of the databases is PostgreSQL, the outbox may be there."""
    use(settings)
    for connection in connections.all():
        monkeypatch.setattr(connection, "vendor", "sqlite")
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    found = [each for each in run_checks() if each.id == "django_broadcaster.E053"]
    assert len(found) == (vendor == "sqlite")
    assert all("needs PostgreSQL" in each.msg for each in found)


@pytest.mark.parametrize("slot", ["one", "other"])
def test_a_check_reports_a_slot_of_two_backends(slot: str, settings: Settings) -> None:
    """The connector of one would send the events of both."""
    settings.OUTBOX_PUBLISHERS = {
        alias: {"BACKEND": BACKEND, "OPTIONS": {"slot": name}}
        for alias, name in (("default", "one"), ("b", slot))
    }
    backends.reset()
    found = [each for each in run_checks() if each.id == "django_broadcaster.E054"]
    assert len(found) == (slot == "one")
    assert all("OUTBOX_PUBLISHERS['b']['OPTIONS']['slot']" in str(each.hint) for each in found)


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize("scheme", ["http://", "ftp://", ""])
def test_a_login_in_the_address_is_refused_and_not_shown(scheme: str, settings: Settings) -> None:
    """The command does not send it, and a terminal or a log would keep it."""
    use(settings)
    with pytest.raises(CommandError, match="--url must not have a user or password") as raised:
        run("--url", f"{scheme}jane:wonderland/1@connect:8083")
    assert "wonderland" not in str(raised.value)


@pytest.mark.usefixtures("postgres")
def test_an_answer_that_is_not_http_is_reported(settings: Settings) -> None:
    """Without a traceback."""
    use(settings)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(b"no HTTP\r\n\r\n")

        pool.submit(answer)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"Could not reach Kafka Connect at {url}: no HTTP"):
            run("--url", url, "--set", "database.hostname=db")


@pytest.mark.usefixtures("debezium")
def test_waiting_for_kafka_has_a_limit() -> None:
    """Without a connector the position never moves; the exit status says so."""
    publisher.publish_event("order.placed", "/shop", using="own")
    with pytest.raises(CommandError, match=r"not confirmed all events within 0\.1 s") as raised:
        run("--wait", "0.1")
    assert raised.value.returncode == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"slot": "Shop"}, "'slot'.*must be 1 to 63 lowercase letters"),
        ({"slot": "s" * 64}, "'slot'.*must be 1 to 63 lowercase letters"),
        ({"max_wal_bytes": 0}, "'max_wal_bytes'"),
        ({"extensions": ["No"]}, "'extensions'.*which is not"),
        ({"extensions": "tenant"}, "'extensions'.*a list of strings"),
        ({"topic": "/"}, "'topic'.*may have letters"),
        ({"content_mode": "batch"}, "'content_mode'"),
    ],
)
def test_wrong_options_are_errors_of_the_system_checks(
    options: dict[str, Any], problem: str, settings: Settings
) -> None:
    """Each names the option and the rule."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}
    backends.reset()
    (error,) = [each for each in run_checks(tags=["django_broadcaster"]) if each.is_serious()]
    assert error.id == "django_broadcaster.E006"
    assert re.search(problem, error.msg)


def test_encryption_is_an_error_of_the_system_checks(settings: Settings) -> None:
    """Kafka Connect can't decrypt payloads."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    use(settings)
    messages = [each.msg for each in run_checks(tags=["django_broadcaster"]) if each.is_serious()]
    assert any("OUTBOX_ENCRYPTION_KEYS" in message for message in messages)


def test_the_slot_has_the_name_of_the_alias(settings: Settings) -> None:
    """As far as a slot may have it."""
    settings.OUTBOX_PUBLISHERS = {"Shop-events": {"BACKEND": BACKEND}}
    backends.reset()
    assert backends.slots() == {"Shop-events": ("broadcaster_shop_events", 2**30)}
