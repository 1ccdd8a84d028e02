"""The admin: what one sees, what one may do, and that nothing can be edited."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urljoin

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_broadcaster.admin import base, outbox
from django_broadcaster.models import (
    InboxEvent,
    OutboxEvent,
    OutboxOperation,
    OutboxPartition,
    OutboxRelay,
    OutboxWebhookEndpoint,
)
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus
from tests.support.events import insert
from tests.support.staff import permit

pytestmark = pytest.mark.django_db

S = OutboxEventStatus
SCRIPT = "<script>alert(1)</script>"
LIST = "admin:django_broadcaster_{}_changelist"
DETAIL = "admin:django_broadcaster_{}_change"
MODELS = ["outboxevent", "outboxrelay", "inboxevent", "outboxwebhookendpoint"]


def make_event(number: int = 1, **values: Any) -> OutboxEvent:
    """Write an event to the outbox."""
    columns: dict[str, Any] = {
        "event_id": f"event-{number}",
        "source": "/shop",
        "event_type": "order.placed",
        "publisher_backend": "default",
        "partition": 0,
        "data": {"number": number},
        "data_content_type": "application/json",
    }
    event = OutboxEvent(**{**columns, **values})
    insert(event)
    return event


def make_relay(number: int = 1, age: timedelta = timedelta(0)) -> OutboxRelay:
    """Write a relay that owns two partitions, whose last heartbeat is so long ago."""
    now = timezone.now()
    relay = OutboxRelay.objects.create(
        name=f"host-{number}",
        backend="default",
        started_at=now,
        heartbeat_at=now - age,
        in_flight_from=10,
        in_flight_to=19,
    )
    for bucket in (2 * number, 2 * number + 1):
        OutboxPartition.objects.create(backend="default", number=bucket, relay=relay)
    return relay


def make_inbox_event(number: int = 1) -> InboxEvent:
    """Write an event that a handler has had."""
    return InboxEvent.objects.create(
        identity=f"{number:064}", handler="shop.send_mail", source="/shop", event_id=f"e-{number}"
    )


def make_endpoint(number: int = 1, **values: Any) -> OutboxWebhookEndpoint:
    """Write a webhook endpoint that fails."""
    columns = {
        "identity": f"{number:064}",
        "backend": "hooks",
        "url": f"https://hooks.example/{number}",
        "last_error": "answered 500 Internal Server Error",
    }
    return OutboxWebhookEndpoint.objects.create(**{**columns, **values})


MAKE = {
    "outboxevent": make_event,
    "outboxrelay": make_relay,
    "inboxevent": make_inbox_event,
    "outboxwebhookendpoint": make_endpoint,
}


def listed(client: Client, **query: str) -> set[str]:
    """Return the event ids that the list shows for a search or a filter."""
    response = client.get(reverse(LIST.format("outboxevent")), query)
    assert response.status_code == 200
    return {event.event_id for event in response.context["cl"].result_list}


def act(client: Client, action: str, *events: OutboxEvent, **more: str) -> str:
    """Run an action on events and return what the admin then says."""
    form = {"action": action, "_selected_action": [event.pk for event in events], **more}
    response = client.post(reverse(LIST.format("outboxevent")), form, follow=True)
    assert response.status_code == 200
    return " ".join(str(message) for message in response.context["messages"])


def status_of(event: OutboxEvent) -> str:
    """Return the status that the database has."""
    return OutboxEvent.objects.get(pk=event.pk).status


def detail(client: Client, event: OutboxEvent) -> str:
    """Return the page of an event."""
    response = client.get(reverse(DETAIL.format("outboxevent"), args=[event.pk]))
    assert response.status_code == 200
    return response.content.decode()


# Pages and permissions


@pytest.mark.parametrize("model", MODELS)
def test_superuser_sees_list_and_detail(admin_client: Client, model: str) -> None:
    """Every page answers a superuser, empty and with rows."""
    url = reverse(LIST.format(model))
    assert admin_client.get(url).status_code == 200
    row: Any = MAKE[model]()

    assert admin_client.get(url).status_code == 200
    assert admin_client.get(reverse(DETAIL.format(model), args=[row.pk])).status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_staff_without_permission_sees_nothing(client: Client, staff: User, model: str) -> None:
    """A member of the staff who may not view the model is refused."""
    row: Any = MAKE[model]()

    assert client.get(reverse(LIST.format(model))).status_code == 403
    assert client.get(reverse(DETAIL.format(model), args=[row.pk])).status_code == 403


@pytest.mark.parametrize("model", MODELS)
def test_view_permission_is_enough_to_look(client: Client, staff: User, model: str) -> None:
    """The view permission opens the list and the detail page."""
    permit(staff, f"view_{model}")
    row: Any = MAKE[model]()

    assert client.get(reverse(LIST.format(model))).status_code == 200
    assert client.get(reverse(DETAIL.format(model), args=[row.pk])).status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_stranger_is_sent_to_the_login(client: Client, model: str) -> None:
    """Who is not logged in is redirected."""
    response = client.get(reverse(LIST.format(model)))

    assert response.status_code == 302
    assert "login" in response["Location"]


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_added_changed_or_deleted(admin_client: Client, model: str) -> None:
    """Not even a superuser adds, edits or deletes a row."""
    row: Any = MAKE[model]()
    before = type(row).objects.values().get()

    for name, args in [("add", []), ("change", [row.pk]), ("delete", [row.pk])]:
        url = reverse(f"admin:django_broadcaster_{model}_{name}", args=args)
        assert admin_client.post(url, {"post": "yes", "status": "failed"}).status_code == 403
    admin_client.post(
        reverse(LIST.format(model)),
        {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"},
    )

    assert type(row).objects.values().get() == before


# The list


@pytest.mark.parametrize("field", ["event_id", "event_type", "subject", "partition_key", "source"])
def test_search_finds_by(admin_client: Client, field: str) -> None:
    """The search looks into what identifies an event."""
    make_event(1)
    make_event(2, **{field: "needle"})

    assert listed(admin_client, q="needle") == {"needle" if field == "event_id" else "event-2"}


def test_filters(admin_client: Client) -> None:
    """Status, backend and dates narrow the list down."""
    make_event(1, status=S.FAILED)
    make_event(2, publisher_backend="orders")
    make_event(3, created_at=timezone.now() - timedelta(days=40))
    make_event(4, scheduled_at=timezone.now() + timedelta(days=400), status=S.SCHEDULED)
    recent = str(timezone.now() - timedelta(days=7))

    assert listed(admin_client, status__exact="failed") == {"event-1"}
    assert listed(admin_client, backend="orders") == {"event-2"}
    assert listed(admin_client, created_at__gte=recent) == {"event-1", "event-2", "event-4"}
    assert listed(admin_client, scheduled_at__gte=recent) >= {"event-4"}


def test_backend_choices_come_from_the_setting(admin_client: Client) -> None:
    """The filter by backend offers the configured aliases, without a look at the rows."""
    entry = {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    with override_settings(OUTBOX_PUBLISHERS={"default": entry, "invoices": entry}):
        page = admin_client.get(reverse(LIST.format("outboxevent"))).content.decode()

    assert "?backend=invoices" in page


def test_newest_first(admin_client: Client) -> None:
    """The list begins with the newest event."""
    for number in range(3):
        make_event(number)

    rows = admin_client.get(reverse(LIST.format("outboxevent"))).context["cl"].result_list

    assert [event.event_id for event in rows] == ["event-2", "event-1", "event-0"]


@pytest.mark.parametrize("model", MODELS)
def test_number_of_queries_does_not_grow(admin_client: Client, model: str) -> None:
    """A list of 50 rows takes as many queries as one of 5."""
    counts = []
    for numbers in (range(5), range(5, 50)):
        for number in numbers:
            MAKE[model](number)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            admin_client.get(reverse(LIST.format(model)))
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_list_leaves_payloads_in_the_database(admin_client: Client) -> None:
    """The list reads no payload: 100 rows of it may be megabytes."""
    make_event()
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(reverse(LIST.format("outboxevent")))

    assert not [query for query in queries if "data_binary" in query["sql"]]


def test_large_table_is_not_counted(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a filter the size of a large table is PostgreSQL's estimate; with one it counts."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL's estimate is used")
    monkeypatch.setattr(base, "EXACT_COUNT", 3)
    OutboxEvent.objects.bulk_create(
        OutboxEvent(event_id=str(n), source="/", event_type="a", partition=0) for n in range(200)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_broadcaster_outboxevent")
    sizes = {}
    for name, query in (("all", {}), ("filtered", {"status__exact": "pending"})):
        with CaptureQueriesContext(connection) as queries:
            page = admin_client.get(reverse(LIST.format("outboxevent")), query)
        counted = any("COUNT(" in query["sql"] for query in queries)
        sizes[name] = (page.context["cl"].result_count, counted)

    assert sizes == {"all": (200, False), "filtered": (200, True)}


def test_a_filtered_list_says_that_there_is_more_than_it_has(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that millions match is counted no further than anybody would turn the pages."""
    monkeypatch.setattr(base.BoundedPaginator, "most", 3)
    for _ in range(4):
        make_event()
    newest = make_event(status="failed")
    address = reverse(LIST.format("outboxevent"))
    with CaptureQueriesContext(connection) as queries:
        page = admin_client.get(address, {"status__exact": "pending"})
    assert "More than 3 rows match" in page.content.decode()
    assert page.context["cl"].result_count == 3
    (count,) = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert "LIMIT 4" in count
    page = admin_client.get(address, {"status__exact": "failed"})
    assert "More than" not in page.content.decode()
    assert [event.pk for event in page.context["cl"].result_list] == [newest.pk]


@pytest.mark.parametrize("alias", ["nobody", "\0"])
def test_a_filter_that_is_none_shows_nothing(admin_client: Client, alias: str) -> None:
    """An address may name a backend that there is not."""
    make_event()
    page = admin_client.get(reverse(LIST.format("outboxevent")), {"backend": alias})
    assert page.context["cl"].result_count == 0


# The detail page


def test_payload_is_readable(admin_client: Client) -> None:
    """The event stands there as indented JSON, in the form of the CloudEvents specification."""
    event = make_event(data={"name": "Žofie", "lines": [1]}, partition_key="order-7")

    page = detail(admin_client, event)

    assert "&quot;data&quot;: {\n    &quot;name&quot;: &quot;Žofie&quot;," in page
    assert "&quot;partitionkey&quot;: &quot;order-7&quot;" in page


def test_hostile_values_are_escaped(admin_client: Client) -> None:
    """Markup in an event is text, in the list and on its page."""
    event = make_event(
        event_id=SCRIPT,
        event_type=SCRIPT,
        subject=SCRIPT,
        partition_key=SCRIPT,
        last_error=SCRIPT,
        publisher_backend=SCRIPT,
        publisher_config={"key": SCRIPT},
        data={SCRIPT: SCRIPT},
    )

    for page in (
        detail(admin_client, event),
        admin_client.get(reverse(LIST.format("outboxevent"))).content.decode(),
    ):
        assert SCRIPT not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_invalid_row_is_shown(admin_client: Client) -> None:
    """A row that is no valid event says what is wrong, instead of failing."""
    event = make_event(source=f"not a URI {SCRIPT}")

    page = detail(admin_client, event)

    assert "This row is not a valid event: source:" in page
    assert SCRIPT not in page


def test_binary_data_is_shown_by_size_and_head(admin_client: Client) -> None:
    """Bytes are shown as their number and a dump of the first ones, not as base64."""
    data = b"\x89PNG<b>" + bytes(1000)
    event = make_event(data=None, data_binary=data, data_content_type="image/png")

    page = detail(admin_client, event)

    assert "1007 bytes\n00000000  89 50 4e 47 3c 62 3e 00" in page
    assert "|.PNG&lt;b&gt;." in page
    payload, _, message = page.partition("Message to send")
    assert "data_base64" not in payload
    assert "&quot;data_base64&quot;:&quot;iVBORzxiPg" in message  # what the backend sends
    assert page.count("00 00 00 00 00 00 00 00 00") < 20


def test_long_payload_is_cut_off(admin_client: Client) -> None:
    """A payload of a megabyte does not make a page of a megabyte."""
    event = make_event(data={"text": "x" * 1_000_000})

    page = detail(admin_client, event)

    assert len(page) < 200_000
    assert "more characters" in page


def test_event_without_data(admin_client: Client) -> None:
    """An event that carries no data is shown without."""
    event = make_event(data=None, data_content_type="")

    assert "&quot;data&quot;" not in detail(admin_client, event)


# Actions


def test_retry_moves_what_may_be_moved(admin_client: Client) -> None:
    """Dead letters are scheduled again, waiting ones are due now, others are skipped: nothing
    that was delivered is sent again, and nothing that was cancelled comes back."""
    later = timezone.now() + timedelta(hours=1)
    dead = make_event(1, status=S.FAILED, retry_count=3)
    waiting = make_event(2, status=S.RETRY, scheduled_at=later, retry_count=2)
    states = (S.PUBLISHED, S.PUBLISHED, S.CANCELLED, S.PENDING, S.BLOCKED)
    others = [make_event(3 + n, status=status) for n, status in enumerate(states)]

    said = act(admin_client, "retry", dead, waiting, *others)

    assert said == (
        "2 of 7 events will be retried now. "
        "Skipped because of their status: 2 delivered, 1 cancelled, 1 pending, 1 blocked."
    )
    assert status_of(dead) == S.SCHEDULED
    assert [status_of(event) for event in others] == list(states)
    waiting.refresh_from_db()
    assert (waiting.status, waiting.retry_count) == (S.RETRY, 2)
    assert waiting.scheduled_at <= timezone.now()


def test_cancel_moves_what_may_be_moved(admin_client: Client) -> None:
    """What is undelivered or given up is cancelled; what is delivered stays delivered."""
    open_states = (S.PENDING, S.SCHEDULED, S.RETRY, S.BLOCKED, S.FAILED)
    events = [make_event(n, status=status) for n, status in enumerate(open_states)]
    delivered = make_event(9, status=S.PUBLISHED, published_at=timezone.now())

    said = act(admin_client, "cancel", *events, delivered)

    assert said == "5 of 6 events were cancelled. Skipped because of their status: 1 delivered."
    assert {status_of(event) for event in events} == {S.CANCELLED}
    assert status_of(delivered) == S.PUBLISHED


def test_action_that_changes_nothing_warns(admin_client: Client) -> None:
    """Where no event may be moved, the message is a warning."""
    event = make_event()
    form = {"action": "retry", "_selected_action": [event.pk]}

    page = admin_client.post(reverse(LIST.format("outboxevent")), form, follow=True)

    [message] = page.context["messages"]
    assert message.level_tag == "warning"
    assert str(message).startswith("0 of 1 events will be retried now.")


def test_action_takes_all_that_the_filter_finds(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Select all" takes every page of the filtered list, in several small transactions."""
    monkeypatch.setattr(outbox, "CHUNK", 50)
    for number in range(120):
        make_event(number, status=S.FAILED)
    other = make_event(121, status=S.PUBLISHED)
    url = reverse(LIST.format("outboxevent")) + "?status__exact=failed"
    form = {"action": "retry", "_selected_action": [1], "select_across": "1", "index": "0"}

    page = admin_client.post(url, form, follow=True)

    assert [str(message) for message in page.context["messages"]] == [
        "120 of 120 events will be retried now."
    ]
    assert OutboxEvent.objects.filter(status=S.SCHEDULED).count() == 120
    assert status_of(other) == S.PUBLISHED


def test_action_on_too_many_is_left_to_an_operation(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits in a browser for millions of events: none is changed, and the way is told."""
    monkeypatch.setattr(outbox, "MOST", 2)
    events = [make_event(number) for number in range(3)]
    more = {"select_across": "1", "index": "0"}
    said = act(admin_client, "cancel", *events[:1], **more)
    assert "more than 2 are selected" in said
    assert "in the background" in said
    assert {status_of(event) for event in events} == {"pending"}

    assert "2 of 2 events were cancelled" in act(admin_client, "cancel", *events[:2])


def test_actions_are_written_to_the_history(admin_client: Client, admin_user: User) -> None:
    """Each event that an action changed has an entry: who, what, and the state before."""
    failed, pending = make_event(1, status=S.FAILED), make_event(2)

    act(admin_client, "retry", failed, pending)
    act(admin_client, "cancel", failed)

    entries = LogEntry.objects.order_by("pk").values_list("object_id", "user", "change_message")
    assert list(entries) == [
        (str(failed.pk), admin_user.pk, "Retry now (was dead)."),
        (str(failed.pk), admin_user.pk, "Cancelled (was scheduled)."),
    ]


@pytest.mark.parametrize(
    ("permission", "allowed", "refused"),
    [
        ("replay_outboxevent", "retry", "cancel"),
        ("cancel_outboxevent", "cancel", "retry"),
    ],
)
def test_actions_have_permissions_of_their_own(
    client: Client, staff: User, permission: str, allowed: str, refused: str
) -> None:
    """Who may do one of the actions is offered that one alone, and can't post the other."""
    permit(staff, "view_outboxevent", permission)
    event = make_event(status=S.FAILED)

    page = client.get(reverse(LIST.format("outboxevent"))).content.decode()
    assert f'value="{allowed}"' in page
    assert f'value="{refused}"' not in page
    act(client, refused, event)
    assert status_of(event) == S.FAILED
    act(client, allowed, event)
    assert status_of(event) != S.FAILED


def test_view_permission_is_not_enough_to_act(client: Client, staff: User) -> None:
    """Who may only look is offered no action, and can post none."""
    permit(staff, "view_outboxevent", "change_outboxevent", "delete_outboxevent")
    event = make_event(status=S.FAILED)

    for action in ("retry", "cancel"):
        act(client, action, event)

    assert status_of(event) == S.FAILED
    assert not LogEntry.objects.exists()


# Relays and the inbox


def test_relay_shows_partitions_and_heartbeat(admin_client: Client) -> None:
    """The list says how many partitions each relay owns, and which one has gone silent."""
    make_relay(1)
    make_relay(2, age=timedelta(minutes=2))

    page = admin_client.get(reverse(LIST.format("outboxrelay"))).content.decode()

    assert page.count('<td class="field-partition_count">2</td>') == 2
    assert page.count("broadcaster-label-alive") == 1
    assert page.count("broadcaster-label-stale") == 1
    assert "2 min ago" in page
    assert "10–19" in page  # noqa: RUF001  # a range


def test_inbox_is_searched(admin_client: Client) -> None:
    """An event is found in the inbox by its id."""
    make_inbox_event(1)
    make_inbox_event(2)

    page = admin_client.get(reverse(LIST.format("inboxevent")), {"q": "e-2"})

    assert [event.event_id for event in page.context["cl"].result_list] == ["e-2"]


# Webhook endpoints in trouble


def enable(client: Client, *endpoints: OutboxWebhookEndpoint, action: str = "enable") -> str:
    """Run an action on endpoints and return what the admin then says."""
    form = {"action": action, "_selected_action": [each.pk for each in endpoints]}
    response = client.post(reverse(LIST.format("outboxwebhookendpoint")), form, follow=True)
    assert response.status_code == 200
    return " ".join(str(message) for message in response.context["messages"])


def test_endpoint_shows_what_is_wrong_with_it(admin_client: Client) -> None:
    """The list tells which are disabled, since when each fails, and why; and filters by it."""
    make_endpoint(1, disabled_at=timezone.now(), last_error=f"answered 410 {SCRIPT}")
    make_endpoint(2)
    url = reverse(LIST.format("outboxwebhookendpoint"))

    page = admin_client.get(url).content.decode()
    only_disabled = admin_client.get(url, {"state": "disabled"}).content.decode()
    only_failing = admin_client.get(url, {"state": "failing"}).content.decode()

    for text in ("https://hooks.example/1", ">disabled<", ">failing<", "answered 410"):
        assert text in page
    assert SCRIPT not in page
    assert "hooks.example/1" in only_disabled
    assert "hooks.example/2" not in only_disabled
    assert "hooks.example/2" in only_failing
    assert "hooks.example/1" not in only_failing


def test_endpoint_shows_its_digest_and_response(admin_client: Client) -> None:
    """An error in the outbox leads to its endpoint by the digest, and the page has the response."""
    error = f'answered 500 Internal Server Error\nTook 0.12 s. Response: "{SCRIPT}"'
    found = make_endpoint(1, identity="ab12cd34" + "0" * 56, last_error=error)
    make_endpoint(2)

    listed = admin_client.get(reverse(LIST.format("outboxwebhookendpoint")), {"q": "ab12cd34"})
    page = admin_client.get(reverse(DETAIL.format("outboxwebhookendpoint"), args=[found.pk]))

    assert list(listed.context["cl"].result_list) == [found]
    assert "Took 0.12 s. Response:" in page.content.decode()
    assert SCRIPT not in page.content.decode()


def test_endpoints_are_enabled_with_a_permission(client: Client, staff: User) -> None:
    """Who has it forgets the trouble of those that are selected, and that is logged."""
    first, second = make_endpoint(1, disabled_at=timezone.now()), make_endpoint(2)
    permit(staff, "view_outboxwebhookendpoint")
    enable(client, first)
    assert OutboxWebhookEndpoint.objects.count() == 2

    permit(staff, "enable_webhookendpoint")
    said = enable(client, first)

    assert "Enabled again: 1." in said
    assert list(OutboxWebhookEndpoint.objects.all()) == [second]
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (staff, str(first.pk))
    assert entry.object_repr == "https://hooks.example/*** of hooks"  # the path may be a key


def test_endpoint_is_enabled_and_its_dead_letters_are_retried(client: Client, staff: User) -> None:
    """Those of no other endpoint, in the background, and only with both permissions."""
    endpoint = make_endpoint(1, disabled_at=timezone.now())
    other = make_endpoint(2, identity="2" * 64)
    mine, _others = (
        make_event(
            status="failed",
            publisher_backend="hooks",
            last_error=f"Rejected: webhook to https://hooks.example (endpoint {each.name}): gone",
        )
        for each in (endpoint, other)
    )
    permit(staff, "view_outboxwebhookendpoint", "view_outboxevent", "enable_webhookendpoint")
    enable(client, endpoint, action="enable_and_retry")
    assert OutboxWebhookEndpoint.objects.count() == 2

    permit(staff, "replay_outboxevent")
    said = enable(client, endpoint, action="enable_and_retry")

    assert "Enabled again: 1. Dead letters that will be retried: 1." in said
    assert list(OutboxWebhookEndpoint.objects.all()) == [other]
    operation = OutboxOperation.objects.get()
    assert (operation.kind, operation.requested_by) == ("retry", "staff")
    selection = EventSelection.from_json(operation.selection)
    assert list(OutboxEvent.objects.filter(*selection.conditions())) == [mine]


def test_buttons_of_an_endpoint_enable_it(client: Client, staff: User) -> None:
    """Its page has a button for each action that is allowed, which asks and shows what it does."""
    endpoint = make_endpoint(1, disabled_at=timezone.now())
    error = f"Rejected: webhook to https://hooks.example (endpoint {endpoint.name}): gone"
    make_event(status="failed", publisher_backend="hooks", last_error=error)
    page = reverse(DETAIL.format("outboxwebhookendpoint"), args=[endpoint.pk])
    url = reverse("admin:django_broadcaster_outboxwebhookendpoint_enable", args=[endpoint.pk, "x"])
    both = url.replace("/x/", "/enable_and_retry/")
    permit(staff, "view_outboxwebhookendpoint", "view_outboxevent", "enable_webhookendpoint")
    assert [text for _, text in client.get(page).context["buttons"]] == ["Enable again"]
    assert client.post(both).status_code == 403
    assert client.get(url).status_code == 404

    permit(staff, "replay_outboxevent")
    (_again, (address, _text)) = client.get(page).context["buttons"]
    asked = client.get(urljoin(page, address)).content.decode()
    assert "An operation in the background retries its dead letters: 1 event." in asked
    assert OutboxWebhookEndpoint.objects.exists()

    assert client.post(both).url == reverse(LIST.format("outboxwebhookendpoint"))  # type: ignore[attr-defined]
    assert not OutboxWebhookEndpoint.objects.exists()
    assert OutboxOperation.objects.get().requested_by == "staff"
    assert client.post(both).status_code == 404
