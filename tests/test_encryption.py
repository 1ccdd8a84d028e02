"""Payloads encrypted at rest: unreadable in the table, and delivered as they were published."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction
from django.db.models import JSONField, Value
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from django_broadcaster import encryption
from django_broadcaster.archives import read_archive
from django_broadcaster.backends import locmem
from django_broadcaster.backends.base import Message
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    CannotUnseal,
    MissingClient,
    PayloadTooLarge,
)
from django_broadcaster.models import OutboxArchivedEvent, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.relay.decryption import decrypted
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.relay.row_to_message import message_of
from django_broadcaster.store import RelayRows, as_stored
from tests.events.strategies import EVENTS
from tests.publishers.statements import statements
from tests.support.events import statuses
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

FIRST, SECOND, LOST = (Fernet.generate_key().decode() for _ in range(3))
SECRET = "the quick brown fox"
PAYLOADS: Sequence[Any] = (
    *({"card": SECRET}, SECRET, SECRET.encode(), b"", [], "", 0, JSON_NULL, {"a": None}),
)


@pytest.fixture
def keys(settings: Settings) -> Settings:
    """Encryption is on."""
    settings.OUTBOX_ENCRYPTION_KEYS = [FIRST]
    settings.OUTBOX_RETRY = {"initial": 0.01, "factor": 2.0, "jitter": 0.0}
    return settings


def publish(database: str, data: Any = None, **arguments: Any) -> OutboxEvent:
    """Publish one event."""
    data = {"card": SECRET} if data is None else data
    return publisher.publish_event("order.paid", "/shop", data, using=database, **arguments)


def raw(database: str) -> list[tuple[Any, ...]]:
    """What the columns of the data hold, in order."""
    with connections[database].cursor() as cursor:
        cursor.execute(
            "SELECT data, data_binary, sealed FROM django_broadcaster_outboxevent ORDER BY id"
        )
        return list(cursor.fetchall())


def pending(database: str) -> list[Message]:
    """What a relay would hand to a backend."""
    rows = RelayRows(database, "default", 0).fetch(range(64), 0, 1000).rows
    opened, shut = decrypted(rows)
    assert not shut
    return [message_of(row) for row in opened]


def deliver(database: str) -> None:
    """Take a turn of a relay in which everything is due."""
    with DeliveryLoop(database, "default") as loop:
        loop.turn(100)


# --- What stands where ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one", "many", "generator"])
def test_no_data_stand_in_the_table_or_in_a_statement(
    database: str, keys: Settings, kind: str
) -> None:
    """Whichever way an event is published, the database never sees its data."""
    event = {"event_type": "order.paid", "source": "/shop", "data": {"card": SECRET}}
    seen: list[Any] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, *rest: Any) -> Any:
        seen.append((sql, params))
        return execute(sql, params, *rest)

    with connections[database].execute_wrapper(note):
        if kind == "one":
            publish(database)
        else:
            given = [event] if kind == "many" else (event for _ in range(1))
            publisher.publish_events(given, using=database)
    assert SECRET not in str(seen)
    ((data, data_binary, sealed),) = raw(database)
    assert (data, data_binary) == (None, None)
    assert json.loads(Fernet(FIRST).decrypt(bytes(sealed))[1:]) == {"card": SECRET}


@pytest.mark.parametrize("data", PAYLOADS, ids=repr)
def test_data_come_back_as_they_were(database: str, keys: Settings, data: Any) -> None:
    """Every kind of data, read from the row: text, bytes, nothing, and JSON's null."""
    event = CloudEvent(event_type="order.paid", source="/shop", data=data)
    publisher.publish_cloud_event(event, using=database)
    found = OutboxEvent.objects.using(database).get()
    assert found.sealed is not None
    assert found.cloud_event == event


def refuse_inserts(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
    """Fail as a database does that is locked."""
    if sql.startswith("INSERT"):
        raise OperationalError("locked")
    return execute(sql, *rest)


@pytest.mark.parametrize("data", PAYLOADS, ids=repr)
def test_a_row_whose_insert_failed_can_be_saved_again(
    database: str, keys: Settings, data: Any
) -> None:
    """The instance keeps its data, encrypted, until an INSERT succeeds."""
    first = CloudEvent(event_type="order.paid", source="/shop", data=data)
    column = Value(None, JSONField()) if data is JSON_NULL else data
    column = {"data_binary": data} if isinstance(data, bytes) else {"data": column}
    row = OutboxEvent(event_type="order.paid", source="/shop", **column)
    with (
        connections[database].execute_wrapper(refuse_inserts),
        pytest.raises(OperationalError, match="locked"),
    ):
        row.save(using=database)
    row.save(using=database)
    found = OutboxEvent.objects.using(database).get()
    assert found.sealed is not None
    assert (found.data, found.data_binary) == (None, None)
    assert found.cloud_event.data == first.data


@pytest.mark.parametrize("seals", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("data", PAYLOADS, ids=repr)
def test_a_sealed_row_can_be_copied(
    database: str, keys: Settings, data: Any, seals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the data of the first row, encrypted if payloads are encrypted now."""
    event = CloudEvent(event_type="order.paid", source="/shop", data=data)
    publisher.publish_cloud_event(event, using=database)
    row = OutboxEvent.objects.using(database).get()
    row.pk, row.event_id, row._state.adding = None, "", True
    monkeypatch.setattr(encryption, "is_on", lambda: seals)
    row.save(using=database)
    copy = OutboxEvent.objects.using(database).order_by("-id")[0]
    assert (copy.sealed is not None) is seals
    assert copy.event_id not in ("", event.id)
    assert copy.cloud_event.data == event.data


def test_an_event_without_data_has_nothing_to_encrypt(database: str, keys: Settings) -> None:
    """It stays an event without data."""
    publisher.publish_cloud_event(CloudEvent(event_type="a", source="/s"), using=database)
    assert raw(database) == [(None, None, None)]
    assert not OutboxEvent.objects.using(database).get().cloud_event.has_data


def test_attributes_stay_readable(database: str, keys: Settings) -> None:
    """The type, the subject, the key and the extensions are what the outbox works by."""
    publish(database, subject="7", partition_key="order-7", extensions={"tenant": "acme"})
    found = OutboxEvent.objects.using(database).get(partition_key="order-7", subject="7")
    assert found.extensions == {"tenant": "acme"}


@given(event=EVENTS)
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_same_is_delivered_with_and_without_keys(database: str, event: CloudEvent) -> None:
    """A backend is handed the same bytes, whatever the event."""
    OutboxEvent.objects.using(database).all().delete()
    with transaction.atomic(using=database):
        publisher.publish_cloud_event(event, backend="default", using=database)
    (plain,) = pending(database)
    OutboxEvent.objects.using(database).all().delete()
    with override_settings(OUTBOX_ENCRYPTION_KEYS=[FIRST]):
        publisher.publish_cloud_event(event, backend="default", using=database)
        (opened,) = pending(database)
    assert opened.to_json() == plain.to_json()
    assert (opened.data_json, opened.data_binary) == (plain.data_json, plain.data_binary)


@pytest.mark.parametrize(
    "text",
    [
        '{"bb":1,"a":2,"é":3,"aa":4}',
        "[1e22,1.50,1e-7,-0.0,-0,0.0e5,12345678901234567890123]",
        '["\\u001f\\u007f\\u2028\\ud83d\\ude00\\"\\\\/\\b\\f\\n\\r\\t"]',
        '{"a":{"z":[],"y":{}},"b":[true,false,null,""]}',
        '"text"',
        "{}",
    ],
)
def test_json_is_encrypted_as_the_database_would_keep_it(database: str, text: str) -> None:
    """PostgreSQL's `jsonb` writes JSON in its own way, which is followed; others keep the text."""
    connection = connections[database]
    expected = text
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::jsonb::text", [text])
            (expected,) = cursor.fetchone()
    assert as_stored(text, connection) == expected


def test_an_identity_is_published_once(database: str, keys: Settings) -> None:
    """A second call finds the first row, although its encrypted data differ."""
    first, again = (publish(database, event_id="1") for _ in range(2))
    assert first.pk == again.pk
    assert again.cloud_event.data == {"card": SECRET}


def test_a_limit_is_about_what_is_delivered(database: str, keys: Settings) -> None:
    """Encrypted data take more room than the broker sees, which must refuse nothing."""
    keys.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.LocMemBackend",
            "OPTIONS": {"max_message_bytes": 1000},
        }
    }
    publish(database, "x" * 700)
    with pytest.raises(PayloadTooLarge):
        publish(database, "x" * 1001)


def test_publishing_says_no_more_to_the_database(database: str, settings: Settings) -> None:
    """The statements are as many with keys as without, and of the same tables."""
    settings.OUTBOX_NOTIFY = False
    publish(database)
    with statements() as plain:
        publish(database)
    settings.OUTBOX_ENCRYPTION_KEYS = [FIRST]
    with statements() as encrypted:
        publish(database)
    verbs_and_tables = [[sql.partition("(")[0] for sql in run] for run in (encrypted, plain)]
    assert verbs_and_tables[0] == verbs_and_tables[1]


# --- Delivery ------------------------------------------------------------------------------------


def test_a_relay_delivers_what_is_encrypted(database: str, keys: Settings) -> None:
    """Encrypted or not, by the first key or by another one: in order, decrypted, and once more."""
    locmem.clear()
    keys.OUTBOX_ENCRYPTION_KEYS = []
    publish(database, "plain", subject="1", partition_key="a")
    keys.OUTBOX_ENCRYPTION_KEYS = [SECOND]
    publish(database, "old", subject="2", partition_key="a")
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST, SECOND]
    publish(database, b"new", subject="3", partition_key="a")
    deliver(database)
    assert [message.event.data for message in locmem.outbox()] == ["plain", "old", b"new"]
    OutboxEvent.objects.using(database).filter(subject="3").replay()
    deliver(database)
    assert locmem.outbox()[-1].event.data == b"new"


def test_a_handler_gets_the_data(database: str, keys: Settings) -> None:
    """The local backend's handlers see the event as it was published."""
    keys.DATABASE_ROUTERS = [OneDatabase(database)]
    keys.OUTBOX_PUBLISHERS = {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}
    seen: list[Any] = []
    event_registry.register("*", name="handler")(lambda event: seen.append(event.data))
    try:
        publish(database)
        assert publisher.process_pending_events() == 1
    finally:
        event_registry.unregister("handler")
    assert seen == [{"card": SECRET}]


@pytest.mark.parametrize("left", [[], [SECOND]], ids=["no key", "another key"])
def test_an_event_without_its_key_waits(database: str, keys: Settings, left: list[str]) -> None:
    """It is neither sent empty nor given up, its key waits behind it, and all others go on."""
    locmem.clear()
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST]
    publish(database, subject="a1", partition_key="a", max_retries=0)
    keys.OUTBOX_ENCRYPTION_KEYS = left
    publish(database, subject="a2", partition_key="a", max_retries=0)
    publish(database, subject="b1", partition_key="b")
    deliver(database)
    assert [message.subject for message in locmem.outbox()] == ["b1"]
    assert statuses(database) == {"a1": "retry", "a2": "blocked", "b1": "published"}
    found = OutboxEvent.objects.using(database).get(subject="a1")
    assert found.retry_count == 0
    assert found.scheduled_at > timezone.now() + timedelta(seconds=20)
    assert "OUTBOX_ENCRYPTION_KEYS" in found.last_error
    keys.OUTBOX_ENCRYPTION_KEYS = [*left, FIRST]
    OutboxEvent.objects.using(database).all().hasten()
    for _ in range(3):
        deliver(database)
    assert [message.subject for message in locmem.outbox()] == ["b1", "a1", "a2"]


def test_a_damaged_payload_stops_nobody_else(database: str, keys: Settings) -> None:
    """What was tampered with can't be told from what lacks its key, and waits like it."""
    locmem.clear()
    publish(database, subject="a1")
    OutboxEvent.objects.using(database).update(sealed=b"gAAAA damaged")
    publish(database, subject="b1")
    deliver(database)
    assert [message.subject for message in locmem.outbox()] == ["b1"]
    with pytest.raises(CannotUnseal, match="OUTBOX_ENCRYPTION_KEYS"):
        _ = OutboxEvent.objects.using(database).get(subject="a1").cloud_event


@pytest.mark.parametrize("wrong", ["text", ["hunter2"]])
def test_a_wrong_key_refuses_to_publish(database: str, settings: Settings, wrong: Any) -> None:
    """Nothing is written in the clear because a key is wrong; the error does not repeat it."""
    settings.OUTBOX_ENCRYPTION_KEYS = wrong
    with statements() as run, pytest.raises(BackendConfigurationError) as caught:
        publish(database)
    assert not [sql for sql in run if "INSERT" in sql]
    assert "OUTBOX_ENCRYPTION_KEYS" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_library_is_named(keys: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `cryptography` the error says what to install."""
    encryption._one.cache_clear()
    encryption._multi.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cryptography.fernet", None)
    with pytest.raises(MissingClient, match=r"pip install 'django-broadcaster\[encryption\]'"):
        encryption.seal("1", None)


# --- Rotation ------------------------------------------------------------------------------------


def reencrypt(database: str, **options: Any) -> dict[str, Any]:
    """Run the command; return what it says."""
    output = StringIO()
    call_command("outbox_reencrypt", database=database, json=True, stdout=output, **options)
    found: dict[str, Any] = json.loads(output.getvalue())
    return found


def test_a_key_can_be_taken_out(database: str, keys: Settings) -> None:
    """After the command the old key is of no use any more, and a second run has nothing to do."""
    keys.OUTBOX_ENCRYPTION_KEYS = [SECOND]
    publisher.publish_events(
        [{"event_type": "a", "source": "/s", "data": number} for number in range(1100)],
        using=database,
    )
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST, SECOND]
    publish(database, "new")
    middle = OutboxEvent.objects.using(database).order_by("id")[600].pk
    assert reencrypt(database, start=middle) == {"changed": 500, "unreadable": []}
    assert reencrypt(database) == {"changed": 600, "unreadable": []}
    assert reencrypt(database) == {"changed": 0, "unreadable": []}
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST]
    rows = OutboxEvent.objects.using(database).order_by("id")
    assert [row.cloud_event.data for row in rows] == [*range(1100), "new"]


def test_what_no_key_decrypts_is_named(database: str, keys: Settings) -> None:
    """It stays as it is, all others are done, and the command ends with an error."""
    keys.OUTBOX_ENCRYPTION_KEYS = [LOST]
    lost = publish(database)
    keys.OUTBOX_ENCRYPTION_KEYS = [SECOND]
    publish(database, "old")
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST, SECOND]
    before = raw(database)
    with pytest.raises(CommandError, match=rf"Could not decrypt 1 payload \(event {lost.pk}\)"):
        reencrypt(database)
    after = raw(database)
    assert bytes(after[0][2]) == bytes(before[0][2])
    assert Fernet(FIRST).decrypt(bytes(after[1][2])) == b'j"old"'


def test_the_command_needs_a_key(database: str) -> None:
    """Without one there is nothing to encrypt with."""
    with pytest.raises(CommandError, match="OUTBOX_ENCRYPTION_KEYS must have"):
        reencrypt(database)


# --- Archives ------------------------------------------------------------------------------------


def purge(database: str) -> None:
    """Deliver all that is due, and purge it into the archive."""
    deliver(database)
    call_command("outbox_purge", all=True, ask=False, database=database, stdout=StringIO())
    assert not OutboxEvent.objects.using(database).exists()


def test_a_table_of_archived_events_stays_encrypted(database: str, keys: Settings) -> None:
    """It takes over what was encrypted, and a change of keys goes on in it."""
    keys.OUTBOX_ARCHIVE = {"BACKEND": "django_broadcaster.archives.TableArchive"}
    keys.OUTBOX_ENCRYPTION_KEYS = [SECOND]
    publish(database)
    purge(database)
    archived = OutboxArchivedEvent.objects.using(database).get()
    assert archived.data is None
    assert archived.cloud_event.data == {"card": SECRET}
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST, SECOND]
    assert reencrypt(database) == {"changed": 1, "unreadable": []}
    keys.OUTBOX_ENCRYPTION_KEYS = [FIRST]
    archived.refresh_from_db()
    assert archived.cloud_event.data == {"card": SECRET}


@pytest.mark.parametrize("data", [{"card": SECRET}, SECRET.encode()], ids=["JSON", "bytes"])
def test_a_file_of_archived_events_stays_encrypted(
    database: str, keys: Settings, tmp_path: Path, data: Any
) -> None:
    """A file has no more in the clear than the table had; who has the key reads it back."""
    keys.OUTBOX_ARCHIVE = {
        "BACKEND": "django_broadcaster.archives.FileArchive",
        "OPTIONS": {"directory": str(tmp_path)},
    }
    publish(database, data)
    purge(database)
    (file,) = tmp_path.iterdir()
    text = gzip.decompress(file.read_bytes())
    assert SECRET.encode() not in text
    assert b64encode(SECRET.encode()) not in text
    (found,) = read_archive(file)
    assert found.event.data == data
    keys.OUTBOX_ENCRYPTION_KEYS = []
    with pytest.raises(CannotUnseal):
        list(read_archive(file))
