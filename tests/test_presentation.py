"""What people see of an event: what OUTBOX_REDACTOR leaves of it, or a note and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from django_broadcaster.backends import locmem
from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.presentation import presented
from django_broadcaster.publishers import publisher
from tests.support.events import insert
from tests.support.routing import OneDatabase

if TYPE_CHECKING:
    from pytest_django import Settings

SECRET = "4242-4242-4242"
MINE = "tests.test_presentation."


def without_card(event: CloudEvent) -> CloudEvent:
    """Leave the card's number out."""
    return event.replace(data={**event.data, "card": "(hidden)"})


def fails(event: CloudEvent) -> CloudEvent:
    """Fail, and tell what it failed on."""
    raise KeyError(f"no such thing in {event.data}")


def wrong(event: CloudEvent) -> Any:
    """Return something else than an event."""
    return event.data


def looks(event: OutboxEvent, client: Client) -> list[str]:
    """The admin's page of an event, and what the command prints of it, in both ways."""
    seen = [client.get(f"/admin/django_broadcaster/outboxevent/{event.pk}/change/").text]
    for as_json in (False, True):
        output = StringIO()
        call_command("outbox_inspect", event.pk, payload=True, json=as_json, stdout=output)
        seen.append(output.getvalue())
    return seen


def half_a_sign(event: CloudEvent) -> CloudEvent:
    """Cut a text in the middle of a sign."""
    return event.replace(data={"card": f"{SECRET}\ud83d"})


def no_json(event: CloudEvent) -> CloudEvent:
    """Put something there that JSON does not know."""
    return event.replace(data={"card": {SECRET}})


@pytest.fixture
def client(committing: None, settings: Settings) -> Iterator[Client]:
    """A client that is logged in as a superuser."""
    settings.DATABASE_ROUTERS = [OneDatabase("default")]
    user = get_user_model().objects.create_superuser("presentation", password="x")
    client = Client()
    client.force_login(user)
    yield client
    user.delete()


@pytest.fixture
def event(client: Client) -> OutboxEvent:
    """An event with something to hide."""
    return publisher.publish_event("order.paid", "/shop", {"card": SECRET, "order": 7})


def test_without_a_redactor_all_is_shown(event: OutboxEvent, client: Client) -> None:
    """The tests here can fail."""
    assert all(SECRET in seen for seen in looks(event, client))


def test_a_redactor_decides_what_is_shown(
    event: OutboxEvent, client: Client, settings: Settings
) -> None:
    """The admin and the command show what it returns; what is delivered stays whole."""
    settings.OUTBOX_REDACTOR = f"{MINE}without_card"
    locmem.clear()
    for seen in looks(event, client):
        assert SECRET not in seen
        assert "(hidden)" in seen
    publisher.process_pending_events()
    assert locmem.outbox()[0].event.data == {"card": SECRET, "order": 7}


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (f"{MINE}fails", "OUTBOX_REDACTOR failed with KeyError"),
        ("no.such.redactor", "OUTBOX_REDACTOR failed with ModuleNotFoundError"),
        (f"{MINE}wrong", "OUTBOX_REDACTOR must return a CloudEvent, not dict"),
        (f"{MINE}half_a_sign", "OUTBOX_REDACTOR failed with"),
        (f"{MINE}no_json", "OUTBOX_REDACTOR failed with"),
    ],
)
def test_a_redactor_that_fails_shows_nothing(
    event: OutboxEvent, client: Client, settings: Settings, name: str, note: str
) -> None:
    """There is a note of what is wrong with it, and never the payload."""
    settings.OUTBOX_REDACTOR = name
    for seen in looks(event, client):
        assert SECRET not in seen
        assert note in seen


@pytest.mark.parametrize(
    "question",
    [
        {"data__card__startswith": SECRET[:4]},
        {"data__contains": SECRET},
        {"extensions__contains": SECRET},
        {"publisher_config__has_key": "url"},
    ],
)
def test_no_question_about_a_payload_is_answered(
    event: OutboxEvent, client: Client, question: dict[str, str]
) -> None:
    """Which events the list shows would tell what the redactor hides, a character at a time."""
    page = "/admin/django_broadcaster/outboxevent/"
    assert (
        client.get(page, {"last_error__contains": "", "subject__contains": ""}).status_code == 200
    )
    assert client.get(page, question).status_code == 400


def test_an_encrypted_payload_is_shown_by_who_has_the_key(
    client: Client, settings: Settings
) -> None:
    """Decrypted, redacted too; without the key there is a note that names the setting."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key()]
    event = publisher.publish_event("order.paid", "/shop", {"card": SECRET})
    assert all(SECRET in seen for seen in looks(event, client))
    settings.OUTBOX_REDACTOR = f"{MINE}without_card"
    assert all("(hidden)" in seen for seen in looks(event, client))
    settings.OUTBOX_ENCRYPTION_KEYS = []
    for seen in looks(event, client):
        assert SECRET not in seen
        assert "OUTBOX_ENCRYPTION_KEYS is empty" in seen


def test_bytes_are_shown_redacted(event: OutboxEvent, client: Client, settings: Settings) -> None:
    """The dump of binary data is one of what the redactor returns."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key()]
    binary = publisher.publish_event("order.paid", "/shop", SECRET.encode())
    page = f"/admin/django_broadcaster/outboxevent/{binary.pk}/change/"
    assert "14 bytes" in client.get(page).text
    settings.OUTBOX_REDACTOR = f"{MINE}fails"
    assert "14 bytes" not in client.get(page).text


def test_an_invalid_row_is_not_quoted_past_the_redactor(
    event: OutboxEvent, settings: Settings
) -> None:
    """A row that was tampered with is told by the field at fault."""
    event.source = f"no uri: {SECRET}"
    assert SECRET in str(presented(event))
    settings.OUTBOX_REDACTOR = f"{MINE}without_card"
    assert presented(event) == "This row is not a valid event: source"


def test_a_login_of_an_endpoint_is_not_shown(client: Client) -> None:
    """The admin names an endpoint by its URL, without user and password."""
    endpoint = OutboxWebhookEndpoint.objects.create(
        identity="1", backend="hooks", url=f"https://shop:{SECRET}@example.com/hook"
    )
    for page in ("", f"{endpoint.pk}/change/"):
        text = client.get(f"/admin/django_broadcaster/outboxwebhookendpoint/{page}").text
        assert "https://***@example.com/hook" in text
        assert SECRET not in text


def test_the_key_in_an_endpoint_of_an_event_is_not_shown(client: Client) -> None:
    """The path and the query of a webhook's URL are a key, often: its page has the host alone."""
    row = OutboxEvent(
        event_id="1",
        source="/s",
        event_type="a",
        partition=1,
        publisher_backend="default",
        publisher_config={"url": f"https://hooks.example.com/{SECRET}?token={SECRET}", "n": 1},
    )
    insert(row)
    text = client.get(f"/admin/django_broadcaster/outboxevent/{row.pk}/change/").text
    assert "https://hooks.example.com/***" in text
    assert SECRET not in text
