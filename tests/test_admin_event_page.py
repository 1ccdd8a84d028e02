"""The page of an event in the admin: the moves that it offers, and its links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from django_broadcaster.dashboard.event_page import config, payload
from django_broadcaster.inbox_notes import note_identity
from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.publishers import publisher
from django_broadcaster.states import OutboxEventStatus as S
from tests.support.events import insert
from tests.support.registered import only_handlers
from tests.support.staff import permit

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.django_db

LOCAL = {"BACKEND": "django_broadcaster.backends.LocalBackend"}


def make(status: str = S.FAILED, **values: Any) -> OutboxEvent:
    """Write an event to the outbox."""
    columns = {
        "event_id": "e-1",
        "source": "/shop",
        "event_type": "order.placed",
        "publisher_backend": "default",
        "partition": 0,
    }
    event = OutboxEvent(**{**columns, "status": status, **values})
    insert(event)
    return event


def page_url(event: OutboxEvent) -> str:
    """The address of an event's page."""
    return reverse("admin:django_broadcaster_outboxevent_change", args=[event.pk])


def move_url(event: OutboxEvent, kind: str) -> str:
    """The address of a button's confirmation."""
    return reverse("admin:django_broadcaster_outboxevent_move", args=[event.pk, kind])


def offered(client: Client, event: OutboxEvent) -> list[str]:
    """The kinds of moves that the page of an event has buttons for."""
    page = client.get(page_url(event)).content.decode()
    return [kind for kind in ("retry", "cancel", "replay") if move_url(event, kind) in page]


@pytest.mark.parametrize(
    ("show", "column"),
    [(payload, "data"), (config, "publisher_config")],
)
def test_page_shows_a_lone_surrogate_as_its_escape_sequence(
    show: Callable[[OutboxEvent], str], column: str
) -> None:
    """A row that was written without the publish call may have one, and UTF-8 can't encode it."""
    columns = {"event_id": "e-1", "source": "/shop", "event_type": "order.placed"}
    event = OutboxEvent(**columns, **{column: {"note": "\ud800"}})
    assert b"\\ud800" in show(event).encode()


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (S.PENDING, ["cancel"]),
        (S.SCHEDULED, ["cancel"]),
        (S.RETRY, ["retry", "cancel"]),
        (S.BLOCKED, ["cancel"]),
        (S.FAILED, ["retry", "cancel"]),
        (S.PUBLISHED, ["replay"]),
        (S.CANCELLED, ["replay"]),
    ],
)
def test_page_offers_the_moves_that_a_status_allows(
    admin_client: Client, status: str, kinds: list[str]
) -> None:
    """A button for each legal move, and no other."""
    assert offered(admin_client, make(status)) == kinds


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("retry", S.FAILED, S.SCHEDULED),
        ("cancel", S.FAILED, S.CANCELLED),
        ("replay", S.PUBLISHED, S.SCHEDULED),
    ],
)
def test_move_asks_first_and_is_logged(
    admin_client: Client, admin_user: User, kind: str, before: str, after: str
) -> None:
    """A GET changes nothing; a POST moves this event alone, and writes who did it."""
    event, other = make(before, last_error="Rejected: <b>no</b>"), make(before, event_id="e-2")

    confirmation = admin_client.get(move_url(event, kind))
    event.refresh_from_db()
    assert event.status == before
    assert "Rejected: &lt;b&gt;no" in confirmation.content.decode()

    answer = admin_client.post(move_url(event, kind), follow=True)
    assert answer.redirect_chain == [(page_url(event), 302)]
    event.refresh_from_db()
    other.refresh_from_db()
    assert (event.status, other.status) == (after, before)
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (admin_user, str(event.pk))


@pytest.mark.parametrize("ticked", [True, False])
def test_replay_of_one_event_offers_to_run_its_handlers_again(
    admin_client: Client, settings: Settings, ticked: bool
) -> None:
    """The confirmation says which would not run; the inbox forgets those that are ticked."""
    settings.OUTBOX_PUBLISHERS = {"default": LOCAL}
    event = make(S.PUBLISHED)
    with only_handlers({"shop.mail.send": print}):
        InboxEvent.objects.create(
            identity=note_identity("shop.mail.send", event.source, event.event_id),
            handler="shop.mail.send",
            source=event.source,
            event_id=event.event_id,
        )
        confirmation = admin_client.get(move_url(event, "replay")).content.decode()
        assert "will NOT run again" in confirmation
        assert 'value="shop.mail.send"' in confirmation

        data = {"forget_inbox": ["shop.mail.send"]} if ticked else {}
        answer = admin_client.post(move_url(event, "replay"), data, follow=True)

    said = " ".join(map(str, answer.context["messages"]))
    assert ("runs no handler" in said) is not ticked
    assert InboxEvent.objects.exists() is not ticked
    assert ("shop.mail.send" in LogEntry.objects.get().change_message) is ticked


@pytest.mark.parametrize("method", ["get", "post"])
def test_move_that_the_status_forbids_changes_nothing(admin_client: Client, method: str) -> None:
    """As when a relay delivered the event meanwhile: the user is told its status."""
    event = make(S.PUBLISHED)
    answer = getattr(admin_client, method)(move_url(event, "cancel"), follow=True)
    event.refresh_from_db()
    assert event.status == S.PUBLISHED
    assert "delivered" in " ".join(map(str, answer.context["messages"]))


@pytest.mark.parametrize(
    ("permission", "kinds"),
    [
        (None, []),
        ("cancel_outboxevent", ["cancel"]),
        ("replay_outboxevent", ["retry"]),
    ],
)
def test_moves_have_the_permissions_of_the_actions(
    client: Client, staff: User, permission: str | None, kinds: list[str]
) -> None:
    """Without one there is no button, and its address refuses."""
    event = make()
    permit(staff, "view_outboxevent", *filter(None, [permission]))
    assert offered(client, event) == kinds
    for kind in {"retry", "cancel"} - set(kinds):
        assert client.post(move_url(event, kind)).status_code == 403
    event.refresh_from_db()
    assert event.status == S.FAILED


def test_move_needs_the_token_of_its_form(admin_user: User) -> None:
    """A page elsewhere can't move an event."""
    event = make()
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(move_url(event, "cancel")).status_code == 403


def test_unknown_event_or_move_is_not_found(admin_client: Client) -> None:
    """Neither is an error of the server."""
    event = make()
    assert admin_client.get(move_url(event, "purge")).status_code == 404
    event.pk += 1000
    assert admin_client.get(move_url(event, "retry")).status_code == 404


@pytest.mark.parametrize("event_id", [None, "order-7"])
def test_copies_of_an_event_are_linked(
    admin_client: Client, settings: Settings, event_id: str | None
) -> None:
    """Each copy is a link with its backend and status; other events are none."""
    settings.OUTBOX_PUBLISHERS = dict.fromkeys(("default", "analytics", "billing"), LOCAL)
    settings.OUTBOX_ROUTES = {"order.*": ["default", "analytics", "billing"]}
    publisher.publish_event("order.placed", "/shop", {}, event_id=event_id)
    publisher.publish_event("order.placed", "/shop", {})
    first = OutboxEvent.objects.filter(publisher_backend="default").order_by("id")[0]
    copies = OutboxEvent.objects.filter(event_id=first.event_id)
    billing = copies.get(publisher_backend="billing")
    OutboxEvent.objects.filter(pk=billing.pk).update(status=S.FAILED)

    page = admin_client.get(page_url(first)).content.decode()

    analytics = copies.get(publisher_backend="analytics")
    assert (
        f'Also sent to: <a href="{page_url(analytics)}">analytics (pending)</a>, '
        f'<a href="{page_url(billing)}">billing (dead)</a></li>'
    ) in page


def test_blocked_event_leads_to_its_blocker_and_key(admin_client: Client) -> None:
    """The event in retry that a blocked one waits for, and the events of its key."""
    head = make(S.RETRY, partition_key="a&b", event_id="e-0")
    make(S.RETRY, partition_key="other", event_id="e-9")
    event = make(S.BLOCKED, partition_key="a&b")
    page = admin_client.get(page_url(event)).content.decode()
    assert f'Waits for: <a href="{page_url(head)}">event {head.pk}, next attempt at' in page
    assert "?backend=default&amp;partition_key=a%26b" in page


def test_event_leads_to_its_endpoint(admin_client: Client) -> None:
    """The digest in the error finds the endpoint's row."""
    endpoint = OutboxWebhookEndpoint.objects.create(
        identity="3fa91c2e" + "0" * 56,
        backend="default",
        url="https://hooks.example/key",
        disabled_at=timezone.now(),
    )
    error = "Rejected: webhook to https://hooks.example (endpoint {}): answered 410 Gone"
    page = admin_client.get(page_url(make(last_error=error.format("3fa91c2e")))).content.decode()
    url = reverse("admin:django_broadcaster_outboxwebhookendpoint_change", args=[endpoint.pk])
    assert f'<a href="{url}">3fa91c2e (disabled)</a>' in page
    page = admin_client.get(page_url(make(last_error=error.format("00000000")))).content.decode()
    assert "00000000, not failing now" in page


def test_list_has_the_error(admin_client: Client) -> None:
    """The first line of an error without its class, at most 80 characters, and the age."""
    make(last_error=f"Rejected: no account {'x' * 100}\nDetails")
    url = reverse("admin:django_broadcaster_outboxevent_changelist")
    page = admin_client.get(url).content.decode()
    assert f"no account {'x' * 69}<" in page
    assert "Details" not in page
    assert "s ago</time>" in page
