"""Databases whose character set is not all of Unicode: nothing is changed, and nothing stalls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.db import connections, transaction

from django_broadcaster.endpoints import Endpoints
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent, Rejected, TransientError
from django_broadcaster.inbox import process
from django_broadcaster.models import (
    InboxEvent,
    OutboxAttempt,
    OutboxBackendState,
    OutboxEvent,
    OutboxPartition,
    OutboxRelay,
    OutboxWebhookEndpoint,
)
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import Handler
from django_broadcaster.relay.loop import DeliveryLoop
from tests.publishers.statements import statements
from tests.relay.conftest import drain, turn
from tests.support.backends import forget_scripts, script
from tests.support.databases import SERVERS
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.workers import place_of

if TYPE_CHECKING:
    from pytest_django import Settings

ALIAS = "narrow"
BEYOND = "12 → 13 😀"
CHARSETS = [
    ("postgresql", "LATIN1", "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"),
    ("mysql", "latin1", "CHARACTER SET latin1"),
    ("mysql", "utf8mb3", "CHARACTER SET utf8mb3"),
]


@pytest.fixture(scope="module", params=CHARSETS, ids=[charset for _, charset, _ in CHARSETS])
def narrow_database(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[tuple[str, str]]:
    """A database with that character set; gives its vendor and the set's name."""
    vendor, charset, words = request.param
    servers = [alias for alias in SERVERS if connections[alias].vendor == vendor]
    if not servers:
        pytest.skip(f"{vendor} is not among the databases of this run")
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        place = place_of(servers[0])
        name = f"{place['NAME']}_{charset.lower()}"
        with connections[servers[0]].cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name} {words}")
        try:
            with as_alias(ALIAS, {**place, "NAME": name}):
                call_command("migrate", "django_broadcaster", database=ALIAS, verbosity=0)
                yield vendor, charset
        finally:
            with connections[servers[0]].cursor() as cursor:
                cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def narrow(
    narrow_database: tuple[str, str], committing: None, settings: Settings
) -> Iterator[tuple[str, str]]:
    """That database, empty, as the one of everything that names none."""
    models: tuple[Any, ...] = (
        OutboxEvent,
        OutboxPartition,
        OutboxRelay,
        OutboxAttempt,
        InboxEvent,
        OutboxBackendState,
    )
    for model in (*models, OutboxWebhookEndpoint):
        model._base_manager.using(ALIAS).all()._raw_delete(ALIAS)
    settings.DATABASE_ROUTERS = [OneDatabase(ALIAS)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": "tests.support.backends.ScriptedBackend"}}
    forget_scripts()
    yield narrow_database
    forget_scripts()


def publish(**arguments: Any) -> OutboxEvent:
    """Publish an event."""
    return publisher.publish_event(**{"event_type": "order.placed", "source": "/s", **arguments})


@pytest.mark.parametrize("error", [TransientError(BEYOND), Rejected(BEYOND)])
def test_an_error_that_the_database_cannot_hold_keeps_nobody_waiting(
    narrow: tuple[str, str], error: Exception
) -> None:
    """The event is settled, its error is kept with escapes, and the others are delivered."""
    publish(subject="bad", max_retries=0)
    publish(subject="good")
    script().fail("bad", error)
    with DeliveryLoop(ALIAS, "default") as loop:
        drain(loop)
    assert script().arrived == ["good"]
    row = OutboxEvent.objects.get(subject="bad")
    assert row.status == "failed"
    for kept in (row.last_error, OutboxAttempt.objects.get(row=row.pk).error):
        assert "12" in kept
        assert r"\U0001f600" in kept


def test_a_retry_and_an_open_circuit_keep_such_an_error(narrow: tuple[str, str]) -> None:
    """What a broker answers as it is away or refuses an attempt is written down with escapes."""
    publish(subject="bad", max_retries=3)
    script().fail("bad", TransientError(BEYOND))
    script().on_open = lambda: (_ for _ in ()).throw(OSError(BEYOND))
    with DeliveryLoop(ALIAS, "default") as loop:
        turn(loop)
        turn(loop)  # which writes down what the one before met
        assert r"\U0001f600" in OutboxRelay.objects.get().circuit_error
        script().on_open = None
        loop.circuit.succeeded()
        loop.turn(10)
    row = OutboxEvent.objects.get()
    assert row.status == "retry"
    assert r"\U0001f600" in row.last_error


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("field", ["event_id", "event_type", "subject", "partition_key", "data"])
def test_an_event_is_stored_as_it_is_or_refused(
    narrow: tuple[str, str], field: str, unique: bool
) -> None:
    """A character that the column lacks is refused by name, and the transaction goes on."""
    vendor, _ = narrow
    own = {"event_id": "1"} if unique and field != "event_id" else {}
    arguments: dict[str, Any] = {**own, field: f"order-{BEYOND}"}
    holds = vendor == "mysql" and field in ("data", "partition_key")  # utf8mb4 in any case
    with transaction.atomic(using=ALIAS):
        if holds:
            publish(**arguments)
        else:
            with pytest.raises(InvalidEvent, match="W006") as refused:
                publish(**arguments)
            assert refused.value.field == field
        publish(subject="Zoë", event_id="another")
    stored = list(OutboxEvent.objects.order_by("id").values_list(field, flat=True))
    assert stored[:-1] == [arguments[field]] * holds
    assert OutboxEvent.objects.latest("id").subject == "Zoë"


def test_two_ids_never_become_one(narrow: tuple[str, str]) -> None:
    """Publishing many refuses what the database would change, and writes nothing of the call."""
    events = [
        CloudEvent(event_type="a.b", source="/s", id=f"order-{name}") for name in ("日本", "中国")
    ]
    if narrow[1] == "utf8mb3":
        assert publisher.publish_events(events) == 2
        assert {row.event_id for row in OutboxEvent.objects.all()} == {each.id for each in events}
        return
    with pytest.raises(InvalidEvent) as refused:
        publisher.publish_events(events)
    assert refused.value.field == "event_id"
    assert refused.value.index == 0
    assert not OutboxEvent.objects.exists()


def test_a_consumer_takes_events_that_the_database_cannot_hold(narrow: tuple[str, str]) -> None:
    """An event of somebody else's with any id is handled once, and so is one that differs by it."""
    handled: list[str] = []
    handler = Handler("tests.note", lambda event: handled.append(event.id), ("*",))
    for name in ("😀", "😁", "😀"):
        process(CloudEvent(event_type="a.b", source="/s", id=name), handler, using=ALIAS)
    assert handled == ["😀", "😁"]


def test_an_endpoint_in_trouble_is_found_by_any_url(narrow: tuple[str, str]) -> None:
    """An URL and an error that the database can't hold are noted, and the endpoint is disabled."""
    endpoints, url = Endpoints("default"), "https://example.com/😀"
    endpoints.look([url])
    endpoints.failed(url, BEYOND, 60.0)
    endpoints.disable(url, BEYOND)
    endpoints.look([url])
    row = endpoints.disabled(url)
    assert row is not None
    assert r"\U0001f600" in row.last_error


def test_the_check_names_the_fix(narrow: tuple[str, str]) -> None:
    """The SQL of the hint leaves a database that holds everything, and collations as they were."""
    vendor, charset = narrow
    messages = character_set_messages()
    assert messages
    assert all(charset in each.msg for each in messages)
    if vendor == "postgresql":
        assert "ENCODING 'UTF8'" in (messages[0].hint or "")
        return
    with connections[ALIAS].cursor() as cursor:
        for message in messages:
            cursor.execute((message.hint or "").removeprefix("Run this SQL: "))
        cursor.execute(
            "SELECT collation_name FROM information_schema.columns WHERE column_name = "
            "'partition_key' AND table_name LIKE '%%outboxevent' AND table_schema = DATABASE()"
        )
        assert cursor.fetchall() == (("utf8mb4_nopad_bin",),)
    assert character_set_messages() == []
    # What the columns were is not remembered for longer than that, here for no time at all.
    _forget()
    assert publish(subject=BEYOND, event_id=BEYOND).pk
    assert OutboxEvent.objects.get().subject == BEYOND


def character_set_messages(alias: str = ALIAS) -> list[CheckMessage]:
    """Return what the check says about the database."""
    found = run_checks(tags=["database"], databases=[alias])
    return [each for each in found if each.id == "django_broadcaster.W006"]


def _forget() -> None:
    from django_broadcaster.store import charsets

    charsets._asked.clear()


@pytest.mark.parametrize("charset", ["latin1", "utf8mb3"])
def test_a_client_with_fewer_characters_changes_nothing(
    committing: None, settings: Settings, charset: str
) -> None:
    """A connection of MariaDB that is not utf8mb4 is named by the check, and refuses by name."""
    for alias in SERVERS:
        if connections[alias].vendor == "mysql":
            place = place_of(alias)
            break
    else:
        pytest.skip("MariaDB is not among the databases of this run")
    with as_alias("client", {**place, "OPTIONS": {"charset": charset}}):
        settings.DATABASE_ROUTERS = [OneDatabase("client")]
        (message,) = character_set_messages("client")
        assert "['OPTIONS']['charset'] to 'utf8mb4'" in (message.hint or "")
        for field in ("event_id", "data", "partition_key"):
            with pytest.raises(InvalidEvent) as refused:
                publish(**{"event_id": "1", field: BEYOND})
            assert refused.value.field == field
        assert not OutboxEvent.objects.exists()


def test_a_database_that_holds_everything_is_asked_once(database: str) -> None:
    """Publishing text of any language takes one statement, once the database is known."""
    publish(subject=BEYOND, using=database)
    with statements() as said:
        publish(subject=BEYOND, event_id=BEYOND, using=database)
    assert len([sql for sql in said if "NOTIFY" not in sql.upper()]) == 1
