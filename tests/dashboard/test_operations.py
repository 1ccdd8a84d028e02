"""The pages of operations: who may see and do what, what the form refuses, and what is logged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.timezone import make_aware

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxOperation, OutboxPartition
from django_broadcaster.relay.loop import DeliveryLoop
from tests.relay.conftest import drain
from tests.support.events import insert
from tests.support.operations import request, work_off
from tests.support.registered import only_handlers
from tests.support.staff import permit

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.django_db

ADD = "admin:django_broadcaster_outboxoperation_add"
LIST = "admin:django_broadcaster_outboxoperation_changelist"
EVENTS = "admin:django_broadcaster_outboxevent_changelist"
PERMISSIONS = {
    "retry": "replay_outboxevent",
    "replay": "replay_outboxevent",
    "cancel": "cancel_outboxevent",
    "purge": "purge_outboxevent",
}
HOSTILE = "<script>alert(1)</script>"


def make(number: int, status: str = "failed", **values: Any) -> OutboxEvent:
    """Write an event to the outbox."""
    columns: dict[str, Any] = {
        "event_id": f"event-{number}",
        "source": "/shop",
        "event_type": "order.placed",
        "publisher_backend": "default",
        "partition": 0,
        "status": status,
        "data": {"number": number},
    }
    event = OutboxEvent(**{**columns, **values})
    insert(event)
    return event


def url(name: str, operation: OutboxOperation) -> str:
    """Return the address of a page of an operation."""
    return reverse(f"admin:django_broadcaster_outboxoperation_{name}", args=[operation.pk])


def pages(operation: OutboxOperation) -> list[str]:
    """Return the addresses of all pages."""
    names = ("change", "progress", "stop", "history")
    return [reverse(LIST), reverse(ADD), *(url(name, operation) for name in names)]


# Permissions


def test_a_stranger_is_sent_to_the_login(client: Client) -> None:
    """Who is not logged in sees nothing, and stops nothing."""
    operation = request("cancel", "default")
    for address in pages(operation):
        for answer in (client.get(address), client.post(address, {"kind": "purge"})):
            assert answer.status_code == 302
            assert "/login/" in answer["Location"]
    operation.refresh_from_db()
    assert operation.state == "waiting"


def test_staff_without_permission_is_refused(client: Client, staff: User) -> None:
    """A member of the staff who may do nothing with events sees and does nothing."""
    make(1)
    operation = request("cancel", "default")
    for address in pages(operation):
        assert client.get(address).status_code == 403
        data = {"kind": "purge", "everything": "on", "confirm": "1"}
        # The progress is no page for a form, whoever sends one.
        refused = 405 if address == url("progress", operation) else 403
        assert client.post(address, data).status_code == refused
    operation.refresh_from_db()
    assert operation.state == "waiting"
    assert OutboxOperation.objects.count() == 1


def test_who_may_view_operations_may_do_no_more(client: Client, staff: User) -> None:
    """The permission to view shows the list and each operation, without a button."""
    permit(staff, "view_outboxoperation", "view_outboxevent")
    operation = request("cancel", "default")
    assert client.get(reverse(LIST)).status_code == 200
    page = client.get(url("change", operation))
    assert page.status_code == 200
    assert b'value="Stop"' not in page.content
    assert client.get(url("progress", operation)).status_code == 200
    assert client.get(reverse(ADD)).status_code == 403
    assert client.post(url("stop", operation)).status_code == 403
    operation.refresh_from_db()
    assert operation.state == "waiting"


@pytest.mark.parametrize("kind", PERMISSIONS)
@pytest.mark.parametrize("held", sorted(set(PERMISSIONS.values())))
def test_each_kind_has_its_permission(client: Client, staff: User, kind: str, held: str) -> None:
    """A user requests and stops what the permission is for, and nothing else."""
    permit(staff, "view_outboxevent", held)
    make(1, status="failed")
    may = PERMISSIONS[kind] == held
    other = request(kind, "default", by="Ada")

    form = {"kind": kind, "everything": "on", "confirm": "yes"}
    answer = client.post(reverse(ADD), form)
    assert answer.status_code == (302 if may else 200)
    assert OutboxOperation.objects.filter(requested_by="staff").exists() is may

    assert client.post(url("stop", other)).status_code == (302 if may else 403)
    other.refresh_from_db()
    assert (other.state == "stopped") is may


def test_who_may_not_view_events_may_request_nothing(client: Client, staff: User) -> None:
    """The confirmation shows events, so the permission to view them is needed too."""
    permit(staff, *PERMISSIONS.values())
    assert client.get(reverse(ADD)).status_code == 403


def test_nothing_is_edited_or_deleted(admin_client: Client) -> None:
    """Not even a superuser edits or deletes an operation."""
    operation = request("cancel", "default")
    before = OutboxOperation.objects.values().get()
    admin_client.post(url("change", operation), {"state": "done"})
    assert admin_client.post(url("delete", operation), {"post": "yes"}).status_code == 403
    assert OutboxOperation.objects.values().get() == before


def test_a_request_needs_the_token(admin_user: User) -> None:
    """A form of another site can't have anything done."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    operation = request("cancel", "default")
    form = {"kind": "purge", "everything": "on", "confirm": "yes"}
    assert client.post(reverse(ADD), form).status_code == 403
    assert client.post(url("stop", operation)).status_code == 403
    assert OutboxOperation.objects.get().state == "waiting"


# The form and its confirmation


def test_nothing_is_requested_before_it_is_confirmed(admin_client: Client) -> None:
    """The form leads to a page that says what, how many, and which events come first."""
    events = [make(number, partition_key="acme") for number in range(12)]
    make(99, status="pending")
    page = admin_client.post(reverse(ADD), {"kind": "replay", "event_type": "order.*"})
    assert not OutboxOperation.objects.exists()
    assert page.context["counted"] == "12 events"
    assert [event.pk for event in page.context["sample"]] == [event.pk for event in events[:10]]
    text = page.content.decode()
    assert "type order.*" in text
    assert "First events" in text
    assert "No relay is running. The operation will start once one runs." in text


def test_what_is_confirmed_is_requested_and_logged(admin_client: Client, admin_user: User) -> None:
    """The confirmation has the whole form, and leads to the page of the operation."""
    make(1, partition_key=" acme", last_error="418: I am a teapot")
    since, until = "2026-01-01T10:00:00", "2099-01-01T10:00:00"
    form = {
        "kind": "purge",
        "backend": "default",
        "status": "failed",
        "event_type": "order.*",
        "key": " acme",
        "source": "/shop",
        "since": since,
        "until": until,
        "error": "teapot",
    }
    page = admin_client.post(reverse(ADD), form)
    hidden = page.context["form"].data
    answer = admin_client.post(reverse(ADD), {**hidden.dict(), "confirm": "yes"})
    operation = OutboxOperation.objects.get()
    assert answer["Location"] == url("change", operation)
    assert operation.selection == {
        "backend": "default",
        "status": "failed",
        "event_type": "order.*",
        "key": " acme",
        "source": "/shop",
        "error": "teapot",
        "since": "2026-01-01T10:00:00-06:00",
        "until": "2099-01-01T10:00:00-06:00",
    }
    assert (operation.requested_by, operation.user_pk) == ("admin", str(admin_user.pk))
    work_off("default")
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("done", 1)
    entries = LogEntry.objects.filter(object_id=str(operation.pk)).order_by("pk")
    assert [(entry.user, entry.get_change_message()) for entry in entries] == [
        (admin_user, "Requested for 1 events."),
        (admin_user, "Ended: done, 1 events."),
    ]


@pytest.fixture
def handlers(settings: Settings) -> Iterator[list[str]]:
    """Two handlers of a local backend, beside a broker; the value has the events' subjects."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
        "broker": {"BACKEND": "django_broadcaster.backends.LocMemBackend"},
    }
    ran: list[str] = []

    def send(event: CloudEvent) -> None:
        ran.append(event.id)

    with only_handlers({"shop.send": send, "shop.count": lambda event: None}):
        yield ran


WILL_NOT = "Handlers that already processed these events will NOT run again."


@pytest.mark.parametrize(
    ("form", "offered"),
    [
        ({"kind": "replay", "everything": "on"}, True),
        ({"kind": "replay", "backend": "default"}, True),
        ({"kind": "replay", "event_type": "order.*"}, True),
        ({"kind": "replay", "event_type": "order.placed"}, True),
        ({"kind": "replay", "event_type": "order.paid"}, False),
        ({"kind": "replay", "backend": "broker"}, False),
        ({"kind": "retry", "everything": "on"}, False),
        ({"kind": "cancel", "everything": "on"}, False),
        ({"kind": "purge", "everything": "on"}, False),
    ],
)
def test_confirmation_of_a_replay_names_the_handlers(
    admin_client: Client, handlers: list[str], form: dict[str, str], offered: bool
) -> None:
    """Where handlers run, it says which will not run again, and has a tick box for each."""
    make(1)
    page = admin_client.post(reverse(ADD), form).content.decode()
    assert (WILL_NOT in page) is offered
    for name in ("shop.send", "shop.count"):
        assert (f'type="checkbox" name="forget_inbox" value="{name}"' in page) is offered
    assert "checked" not in page


@pytest.mark.parametrize("ticked", [[], ["shop.send"]], ids=["none", "one"])
def test_ticked_handlers_run_again(
    admin_client: Client, handlers: list[str], ticked: list[str]
) -> None:
    """The result says how many events were delivered, and how many the inbox skipped."""
    make(1)
    make(2)
    with DeliveryLoop("default", "default") as loop:
        OutboxEvent.objects.all().replay()
        drain(loop)
        assert sorted(handlers) == ["event-1", "event-2"]
        form = {"kind": "replay", "everything": "on", "forget_inbox": ticked, "confirm": "yes"}
        admin_client.post(reverse(ADD), form)
        work_off("default")
        operation = OutboxOperation.objects.get()
        progress = admin_client.get(url("progress", operation)).json()
        assert progress["outcome"].startswith(
            "2 queued for delivery: 0 delivered, 0 dead, 2 waiting"
        )
        assert progress["is_delivering"]
        drain(loop)
    progress = admin_client.get(url("progress", operation)).json()
    assert not progress["is_delivering"]
    skipped = ", 2 skipped by the inbox, because all their handlers already processed them"
    assert progress["outcome"] == (
        f"2 queued for delivery: 2 delivered, 0 dead{'' if ticked else skipped}."
    )
    assert sorted(handlers) == sorted(["event-1", "event-2"] * (1 + len(ticked)))
    page = admin_client.get(url("change", operation)).content.decode()
    assert ("Handlers that run again" in page) is bool(ticked)
    logged = LogEntry.objects.order_by("pk").first()
    assert logged is not None
    assert ("Handlers to run again: shop.send." in logged.get_change_message()) is bool(ticked)


def test_result_of_an_operation_links_its_events(admin_client: Client, handlers: list[str]) -> None:
    """The list has the events that it queued, and no others."""
    make(1, partition_key="acme")
    make(2, partition_key="other")
    operation = request("retry", "default", key="acme")
    work_off("default")
    page = admin_client.get(url("change", operation))
    assert "Show the events of this operation" in page.content.decode()
    events = admin_client.get(page.context["events"])
    assert events.status_code == 200
    assert [event.event_id for event in events.context["cl"].result_list] == ["event-1"]


def test_unknown_handler_is_refused(admin_client: Client, handlers: list[str]) -> None:
    """A handler that does not run for the events is not forgotten."""
    make(1)
    form = {"kind": "replay", "backend": "broker", "forget_inbox": "shop.send", "confirm": "yes"}
    admin_client.post(reverse(ADD), form)
    assert OutboxOperation.objects.get().forget_inbox == []
    wrong = {**form, "backend": "default", "forget_inbox": "shop.sent"}
    assert "forget_inbox" in admin_client.post(reverse(ADD), wrong).context["form"].errors


def test_the_form_can_be_changed_from_the_confirmation(admin_client: Client) -> None:
    """Back at the form, everything is as it was."""
    form = {"kind": "cancel", "key": "acme"}
    page = admin_client.post(reverse(ADD), {**form, "change": "yes"})
    assert page.templates[0].name == "admin/django_broadcaster/operations/form.html"
    assert page.context["form"]["key"].value() == "acme"
    assert not page.context["form"].errors


def test_nothing_to_do_is_not_confirmed(admin_client: Client) -> None:
    """A selection without events has no button to have it done."""
    page = admin_client.post(reverse(ADD), {"kind": "cancel", "key": "nobody"})
    assert page.context["counted"] == "0 events"
    assert b'name="confirm"' not in page.content


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"kind": "cancel"}, "__all__", "Add a filter, or tick"),
        ({"kind": "paint", "key": "a"}, "kind", "Select a valid choice. paint is not one"),
        ({"key": "a"}, "kind", "This field is required"),
        (
            {"kind": "cancel", "key": "a", "everything": "on"},
            *("everything", "Clear this box, or clear the filters below"),
        ),
        (
            {"kind": "purge", "status": "pending"},
            *("status", "Can't purge events with this status. Choose one of: delivered, dead"),
        ),
        ({"kind": "cancel", "backend": "nope"}, "backend", "nope is not one of the available"),
        ({"kind": "cancel", "event_type": "o*.x"}, "event_type", "at the end only"),
        ({"kind": "cancel", "since": "soon"}, "since", "Enter a valid date/time."),
        (
            {"kind": "cancel", "since": "2026-01-02T00:00", "until": "2026-01-01T00:00"},
            *("until", "“Created before” must be later than “Created since”."),
        ),
        (
            {"kind": "cancel", "until": "9999-12-31T23:59:59"},
            "until",
            "out of the range of the database",
        ),
        ({"kind": "cancel", "key": "a\0"}, "key", "Null characters are not allowed"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    admin_client: Client, form: dict[str, str], field: str, words: str
) -> None:
    """A form that is not clear leads nowhere, even if it is said to be confirmed."""
    page = admin_client.post(reverse(ADD), {**form, "confirm": "yes"})
    assert words in " ".join(page.context["form"].errors[field])
    assert list(page.context["form"].errors) == [field]
    assert not OutboxOperation.objects.exists()


def test_a_backend_that_is_not_configured_any_more_can_be_chosen(admin_client: Client) -> None:
    """Its events are still there, and somebody has to get rid of them."""
    OutboxPartition.objects.create(backend="retired", number=0)
    make(1, publisher_backend="retired", status="pending")
    page = admin_client.post(reverse(ADD), {"kind": "cancel", "backend": "retired"})
    assert page.context["counted"] == "1 event"


def test_hostile_values_are_escaped(admin_client: Client) -> None:
    """Markup in an event or a condition is text, on every page."""
    make(1, event_type=HOSTILE, partition_key=HOSTILE, last_error=HOSTILE)
    form = {"kind": "replay", "key": HOSTILE}
    confirmation = admin_client.post(reverse(ADD), form)
    admin_client.post(reverse(ADD), {**form, "confirm": "yes"})
    operation = OutboxOperation.objects.get()
    OutboxOperation.objects.update(
        error=HOSTILE, requested_by=HOSTILE, stopped_by=HOSTILE, state="failed"
    )
    pages = [
        confirmation,
        *(admin_client.get(page) for page in (url("change", operation), reverse(LIST))),
        admin_client.get(reverse(ADD), {"key": HOSTILE, "lost": HOSTILE}),
    ]
    for page in pages:
        assert HOSTILE not in page.content.decode()
        assert "&lt;script&gt;alert(1)" in page.content.decode()


# From the list of events


def test_the_filter_of_the_list_is_carried_into_the_form(admin_client: Client) -> None:
    """The action on the list needs no selected event, and leads to the form with its filter."""
    since = (timezone.now() - timedelta(days=7)).replace(microsecond=0)
    filters = {"status__exact": "failed", "backend": "default", "created_at__gte": str(since)}
    address = f"{reverse(EVENTS)}?{urlencode({**filters, 'p': '2'})}"
    answer = admin_client.post(address, {"action": "in_background"})
    assert answer.status_code == 302
    form = admin_client.get(answer["Location"]).context["form"]
    assert form["status"].value() == "failed"
    assert form["backend"].value() == "default"
    assert make_aware(form["since"].value()) == since
    assert form["kind"].value() == "retry"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "x"])
def test_an_address_of_the_form_may_say_anything(admin_client: Client, moment: str) -> None:
    """A moment that can't be shown is left out."""
    page = admin_client.get(reverse(ADD), {"since": moment, "until": "2026-01-01T10:00:00Z"})
    assert page.status_code == 200
    assert page.context["form"]["since"].value() is None
    assert page.context["form"]["until"].value() is not None


def test_the_ends_of_the_calendar_without_time_zones(
    admin_client: Client, settings: Settings
) -> None:
    """With USE_TZ off a form's moment is naive, and may be too early for any zone."""
    settings.USE_TZ = False
    form = {"kind": "cancel", "since": "0001-01-01T00:00:00"}
    assert admin_client.post(reverse(ADD), form).status_code == 200


def test_the_links_of_the_dashboard_are_carried_into_the_form(admin_client: Client) -> None:
    """From the events behind a key, or with the same error, to what is to be done with them."""
    for filters, conditions in (
        ({"backend": "default", "partition_key": "a&b "}, {"key": "a&b "}),
        (
            {"status__exact": "failed", "last_error__startswith": "Rejected: no "},
            {"status": "failed", "error": "Rejected: no "},
        ),
    ):
        address = f"{reverse(EVENTS)}?{urlencode(filters)}"
        answer = admin_client.post(address, {"action": "in_background"})
        page = admin_client.get(answer["Location"])
        form = page.context["form"]
        assert {name: form[name].value() for name in conditions} == conditions
        is_wider = "more events than the list shows" in page.content.decode()
        assert is_wider is ("error" in conditions)  # it may stand anywhere in it


def test_what_can_not_be_carried_over_is_said(admin_client: Client) -> None:
    """A search is no condition of an operation: that must not go unnoticed."""
    answer = admin_client.post(f"{reverse(EVENTS)}?q=needle", {"action": "in_background"})
    page = admin_client.get(answer["Location"])
    assert "q=needle" in page.content.decode()
    assert "more events than the list shows" in page.content.decode()


def test_the_action_needs_a_permission(client: Client, staff: User) -> None:
    """Who may only look is not offered it, and does not get through."""
    permit(staff, "view_outboxevent")
    make(1)
    assert "in_background" not in client.get(reverse(EVENTS)).content.decode()
    assert client.post(reverse(EVENTS), {"action": "in_background"}).status_code != 302
    permit(staff, "purge_outboxevent")
    client.force_login(User.objects.get(pk=staff.pk))
    assert "in_background" in client.get(reverse(EVENTS)).content.decode()


# An operation's page


def test_the_page_says_how_far_it_is(admin_client: Client) -> None:
    """The state, the figures, who asked for it; and why nothing goes on."""
    make(1)
    operation = request("replay", "default", by="Ada")
    text = admin_client.get(url("change", operation)).content.decode()
    assert "Replay: all events" in text
    assert "0 of 1 event" in text
    assert "No relay is running. The operation continues once one runs." in text
    assert 'value="0.0"' in text
    assert "Ada" in text
    work_off("default")
    text = admin_client.get(url("change", operation)).content.decode()
    assert "1 of 1 event" in text
    assert 'value="1.0"' in text
    assert "No relay is running" not in text


def test_progress_is_json_that_nobody_keeps(admin_client: Client) -> None:
    """What the page shows is what it asks for."""
    make(1)
    operation = request("replay", "default")
    behind = request("purge", "default", status="published")
    with DeliveryLoop("default", "default"):
        answer = admin_client.get(url("progress", operation))
        note = admin_client.get(url("progress", behind)).json()["note"]
    assert "no-store" in answer["Cache-Control"]
    found = answer.json()
    assert (found["is_active"], found["value"], found["state"]) == (True, 0, "waiting")
    assert (found["summary"], found["note"]) == ("0 of 1 event", "")
    assert note == "Waiting for 1 earlier operation."


def test_a_step_that_failed_is_shown(admin_client: Client) -> None:
    """While it is tried again, and when it is given up, the error stands there."""
    operation = request("replay", "default")
    OutboxOperation.objects.update(
        state="running", failures=2, error="OperationalError: no space left"
    )
    with DeliveryLoop("default", "default"):
        note = admin_client.get(url("progress", operation)).json()["note"]
    assert note == ("The last step failed 2 times; retrying: OperationalError: no space left")
    OutboxOperation.objects.update(state="failed", failures=5)
    assert "no space left" in admin_client.get(url("change", operation)).content.decode()


def test_a_stop_is_logged(admin_client: Client, admin_user: User) -> None:
    """Who stopped it stands with it, and in the log; a second stop changes nothing."""
    make(1, status="pending")
    operation = request("cancel", "default")
    for said in (
        "Operation stopped; the changes made so far remain.",
        "The operation had already ended.",
    ):
        page = admin_client.post(url("stop", operation), follow=True)
        assert [str(message) for message in page.context["messages"]] == [said]
    operation.refresh_from_db()
    assert (operation.state, operation.stopped_by) == ("stopped", "admin")
    entry = LogEntry.objects.get()
    assert (entry.user, entry.get_change_message()) == (admin_user, "Stopped at 0 events.")
    assert admin_client.get(url("stop", operation)).status_code == 302


def test_an_event_leads_to_the_operation_that_moved_it(admin_client: Client) -> None:
    """The page of an event names the last one, and links to it."""
    event = make(1)
    address = reverse("admin:django_broadcaster_outboxevent_change", args=[event.pk])
    operation = request("replay", "default")
    link = f'<a href="{url("change", operation)}">operation {operation.pk}</a>'
    assert link not in admin_client.get(address).content.decode()
    work_off("default")
    assert link in admin_client.get(address).content.decode()


@pytest.mark.parametrize("pk", ["0", "999999", "x", "9" * 30])
def test_an_operation_that_is_gone_is_not_found(admin_client: Client, pk: str) -> None:
    """An address of one that was purged, or never was, is answered as such."""
    assert admin_client.get(f"{reverse(LIST)}{pk}/change/").status_code == 404
    assert admin_client.get(f"{reverse(LIST)}{pk}/progress/").status_code == 404


def test_the_end_of_a_users_operation_survives_the_user(admin_user: User) -> None:
    """An operation whose user is gone ends as any other, without an entry in the log."""
    make(1)
    operations = OutboxOperation.objects.all()
    request("replay", "default")
    operations.update(user_pk="123456")
    work_off("default")
    assert operations.get().state == "done"
    assert not LogEntry.objects.exists()


def test_number_of_queries_does_not_grow(admin_client: Client) -> None:
    """A list of 50 operations takes as many queries as one of 5, and so does a confirmation."""
    counts = []
    for numbers in (range(5), range(5, 50)):
        for number in numbers:
            make(number)
            request("replay", "default")
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(reverse(LIST))
            admin_client.post(reverse(ADD), {"kind": "replay", "everything": "on"})
        counts.append(len(queries))
    assert counts[0] == counts[1]
