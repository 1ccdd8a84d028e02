"""The dashboard's pages and JSON: who may see them, what they say, and the two switches."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_broadcaster.dashboard import event_page, stuck
from django_broadcaster.dashboard import state as state_module
from django_broadcaster.dashboard.state import ranges
from django_broadcaster.models import (
    OutboxAttempt,
    OutboxBackendState,
    OutboxEvent,
    OutboxOperation,
    OutboxRelay,
    OutboxSample,
)
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import MOVES, minute_of
from tests.support.events import insert
from tests.support.staff import permit

from . import scenes

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("two_backends")]

SCRIPT = "<script>alert(1)</script>"
PAGES = {
    "changelist": [],
    "catalogue": [],
    "state": [],
    "history": [],
    "change": ["default"],
    "stuck": ["default"],
}
SWITCHES = {"pause": ["default"], "resume": ["default"]}


def url(name: str, *arguments: str) -> str:
    """Return the address of one of the dashboard's views."""
    return reverse(f"admin:django_broadcaster_outboxdashboard_{name}", args=arguments)


def ask(client: Client, name: str, *arguments: str, **query: str) -> Any:
    """Return what one of the JSON views says."""
    response = client.get(url(name, *arguments), query)
    assert response.status_code == 200
    return json.loads(response.content)


# Who may see it


@pytest.mark.parametrize("name", {**PAGES, **SWITCHES})
def test_stranger_is_sent_to_the_login(client: Client, name: str) -> None:
    """Who is not logged in is redirected from every view."""
    response = client.get(url(name, *{**PAGES, **SWITCHES}[name]))
    assert response.status_code == 302
    assert "login" in response["Location"]


@pytest.mark.parametrize("name", {**PAGES, **SWITCHES})
def test_a_user_who_is_no_staff_is_sent_to_the_login(client: Client, name: str) -> None:
    """A permission without a place in the staff opens nothing."""
    user = User.objects.create_user("customer")
    permit(user, "view_outboxevent", "pause_backend")
    client.force_login(user)
    assert client.get(url(name, *{**PAGES, **SWITCHES}[name])).status_code == 302


@pytest.mark.parametrize("name", {**PAGES, **SWITCHES})
def test_staff_without_permission_sees_nothing(client: Client, staff: User, name: str) -> None:
    """Who may not view outbox events is refused by every view, whatever else he may do."""
    permit(staff, "pause_backend", "view_outboxrelay")
    assert client.get(url(name, *{**PAGES, **SWITCHES}[name])).status_code == 403


@pytest.mark.parametrize("name", PAGES)
def test_view_permission_is_enough_to_look(client: Client, staff: User, name: str) -> None:
    """Who may view outbox events sees the pages and their figures."""
    permit(staff, "view_outboxevent")
    assert client.get(url(name, *PAGES[name])).status_code == 200


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("method", ["get", "post"])
def test_view_permission_is_not_enough_for_a_switch(
    client: Client, staff: User, name: str, method: str
) -> None:
    """Who may only look can neither ask for a switch nor throw it, and is offered none."""
    permit(staff, "view_outboxevent", "change_outboxevent")
    OutboxBackendState.objects.create(
        backend="default", paused_at=timezone.now() if name == "resume" else None
    )
    before = OutboxBackendState.objects.values().get()
    assert getattr(client, method)(url(name, "default")).status_code == 403
    assert OutboxBackendState.objects.values().get() == before
    assert not LogEntry.objects.exists()
    assert url(name, "default") not in client.get(url("changelist")).content.decode()


def test_the_entry_is_there_for_those_who_may_look(client: Client, staff: User) -> None:
    """The index and the list of events lead to the dashboard; without permission none does."""
    index, events = (
        reverse("admin:index"),
        reverse("admin:django_broadcaster_outboxevent_changelist"),
    )
    permit(staff, "view_outboxrelay")
    assert url("changelist") not in client.get(index).content.decode()
    permit(staff, "view_outboxevent")
    assert url("changelist") in client.get(index).content.decode()
    assert url("changelist") in client.get(events).content.decode()


def test_unknown_backend_is_not_found(admin_client: Client) -> None:
    """An alias that the setting lacks has no page, no figures and no switch."""
    for name in ("change", "stuck", "pause", "resume"):
        assert admin_client.get(url(name, "nobody")).status_code == 404
    assert admin_client.post(url("pause", "nobody")).status_code == 404
    for name in ("state", "history"):
        assert admin_client.get(url(name), {"backend": "nobody"}).status_code == 404
    assert not OutboxBackendState.objects.exists()


@pytest.mark.parametrize("alias", ["eu/orders", "a b", "50%", "_5F", "größer", 'x"><script>'])
def test_any_alias_has_a_page(admin_client: Client, settings: Settings, alias: str) -> None:
    """An alias with characters that mean something in a URL or in HTML is still one's own."""
    settings.OUTBOX_PUBLISHERS = {alias: {"BACKEND": "django_broadcaster.backends.DummyBackend"}}
    overview = admin_client.get(url("changelist")).content.decode()
    assert '"><script>' not in overview
    for name in ("change", "stuck", "pause"):
        assert admin_client.get(url(name, quote(alias))).status_code == 200
    assert [each["alias"] for each in ask(admin_client, "state")["backends"]] == [alias]
    admin_client.post(url("pause", quote(alias)))
    assert OutboxBackendState.objects.get().backend == alias


# What it says


def test_state_of_a_busy_shop(admin_client: Client) -> None:
    """The figures are those of the tables, for each backend."""
    scenes.busy_shop()
    found = ask(admin_client, "state")
    invoices, default = found["backends"]  # the worst first
    assert default["counts"] == {
        "pending": [38, "exact"],
        "retry": [2, "exact"],
        "blocked": [34, "exact"],
        "scheduled": [5, "exact"],
        "failed": [36, "exact"],
    }
    assert default["backlog"] == [74, "exact"]
    assert (default["status"]["text"], default["needs_attention"]) == ("some failing", True)
    assert (default["relays"], default["partitions"]) == (2, {"owned": 64, "all": 64})
    assert default["per_second"] > 0
    assert default["latency"] > 0
    assert (invoices["status"]["text"], invoices["status"]["level"]) == (
        *("broker unavailable", "red"),
    )
    assert invoices["status"]["reason"].endswith("connection refused")
    now = timezone.now().timestamp()
    assert now - invoices["oldest_waiting"] == pytest.approx(260, abs=20)
    assert now - default["oldest_waiting"] == pytest.approx(340, abs=20), "an event in retry waits"
    assert [(relay["backend"], relay["partitions"]["ranges"]) for relay in found["relays"]] == [
        ("default", "0–31"),  # noqa: RUF001  # a range
        ("default", "32–63"),  # noqa: RUF001
        ("invoices", "0–63"),  # noqa: RUF001
    ]


def test_the_worst_that_is_known_of_a_backend_is_its_status(admin_client: Client) -> None:
    """Paused before anything, then no relay, then a broker that is away, an event that keeps
    failing, and free partitions."""

    def status() -> str:
        (found,) = ask(admin_client, "state", backend="invoices")["backends"]
        return str(found["status"]["text"])

    assert status() == "no relay"
    scenes.busy_shop()
    assert status() == "broker unavailable"
    relay = OutboxRelay.objects.get(backend="invoices")
    OutboxRelay.objects.filter(pk=relay.pk).update(circuit_open_since=None)
    assert status() == "late"
    OutboxEvent.objects.filter(publisher_backend="invoices").update(scheduled_at=timezone.now())
    assert status() == "delivering"
    relay.partitions.filter(number=5).update(relay=None)
    assert status() == "partitions without a relay"
    stuck = scenes.write(900, publisher_backend="invoices", status=S.RETRY)
    stuck.created_at = timezone.now() - timedelta(hours=2)
    stuck.save()
    assert status() == "late"
    OutboxSample.objects.filter(backend="invoices").update(published=0, retried=1)
    assert status() == "failing"
    OutboxRelay.objects.filter(pk=relay.pk).update(
        heartbeat_at=timezone.now() - timedelta(minutes=5)
    )
    (silent,) = ask(admin_client, "state", backend="invoices")["relays"]
    assert silent["stale"]
    assert status() == "no relay"
    OutboxBackendState.objects.create(backend="invoices", paused_at=timezone.now(), paused_by="Ada")
    assert status() == "paused"


def test_a_backend_that_was_taken_out_is_shown_while_it_has_events(admin_client: Client) -> None:
    """Its card says so, its page can be opened, and the list can be filtered by it."""
    insert(scenes.write(1, publisher_backend="audit"))
    found, *_ = ask(admin_client, "state")["backends"]
    assert (found["alias"], found["status"]["text"]) == ("audit", "not configured")
    assert 'data-card="audit"' in admin_client.get(url("changelist")).content.decode()
    assert admin_client.get(url("change", "audit")).status_code == 200
    events = admin_client.get(reverse("admin:django_broadcaster_outboxevent_changelist"))
    assert "backend=audit" in events.content.decode()
    OutboxEvent.objects.update(status=S.CANCELLED)
    assert admin_client.get(url("change", "audit")).status_code == 404


def test_a_dead_relay_is_no_news_of_the_broker(admin_client: Client) -> None:
    """It was killed while its broker was away; the relay that goes on has found it back."""
    scenes.busy_shop()
    dead = OutboxRelay.objects.get(backend="invoices")
    now = timezone.now()
    OutboxRelay.objects.filter(pk=dead.pk).update(heartbeat_at=now - timedelta(minutes=5))
    living = OutboxRelay.objects.create(
        name="web-3:77", backend="invoices", started_at=now, heartbeat_at=now
    )
    dead.partitions.update(relay=living)
    state = ask(admin_client, "state", backend="invoices")
    (found,) = state["backends"]
    assert found["status"]["text"] == "late"
    assert [relay["circuit"] is None for relay in state["relays"] if relay["stale"]] == [False]


def test_state_costs_as_many_statements_whatever_there_is(admin_client: Client) -> None:
    """A poll is a fixed number of statements: rows and relays add none."""
    counts = []
    for fill in (lambda: None, scenes.busy_shop):
        fill()
        with CaptureQueriesContext(connection) as queries:
            ask(admin_client, "state")
        counts.append(len([q for q in queries if "django_broadcaster" in q["sql"]]))
    # The backends that have events, the last minutes, the endpoints, one for each backend, relays
    # and partitions.
    assert counts == [7, 7]


def test_what_has_not_changed_is_not_sent_again(admin_client: Client) -> None:
    """A poll with the tag of the last answer is told so, and the time, until there is news."""
    first = admin_client.get(url("state"))
    again = admin_client.get(url("state"), headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert float(again["X-Broadcaster-Now"]) >= float(first["X-Broadcaster-Now"])
    scenes.write(1).save()
    news = admin_client.get(url("state"), headers={"If-None-Match": first["ETag"]})
    assert news.status_code == 200


def test_a_count_over_the_bound_says_how_far_it_is_known(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bound a count is the planner's estimate, or at least so many."""
    monkeypatch.setattr(state_module, "BOUND", 10)
    scenes.busy_shop()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE django_broadcaster_outboxevent")
    _, default = ask(admin_client, "state")["backends"]
    number, kind = default["counts"]["pending"]
    assert number >= 10
    assert kind in ("estimate", "at least")
    assert default["counts"]["scheduled"] == [5, "exact"]
    assert default["backlog"][1] in ("estimate", "at least")
    if connection.vendor == "postgresql":
        assert kind == "estimate"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0–2, 5, 7–8")],  # noqa: RUF001  # ranges
)
def test_ranges(numbers: list[int], text: str) -> None:
    """Partitions are written as ranges."""
    assert ranges(numbers) == text


# Over time


def test_history_is_per_second_and_in_seconds(admin_client: Client) -> None:
    """A minute's counts are rates, its latency a mean, and where nothing is known is a gap."""
    last = minute_of(timezone.now()) - 1
    OutboxSample.objects.create(
        backend="default",
        minute=last,
        published=120,
        retried=6,
        failed=3,
        timed=4,
        medians=100,
        p99=70,
        backlog=9,
        oldest_age=1500,
        circuit_open=True,
    )
    found = ask(admin_client, "history", backend="default", hours="1")
    place = found["times"].index(60 * last)
    series = {name: values[place] for name, values in found["series"]["default"].items()}
    assert series == {
        "published": 2.0,
        "retried": 0.1,
        "failed": 0.05,
        "p50": 0.025,
        "p99": 0.07,
        "backlog": 9,
        "oldest_age": 1.5,
        "circuit_open": 1,
        "paused": 0,
    }
    assert {len(values) for values in found["series"]["default"].values()} == {len(found["times"])}
    assert found["series"]["default"]["published"][place - 1] is None


@pytest.mark.parametrize(("hours", "points"), [("1", 61), ("6", 181), ("24", 289), ("168", 337)])
def test_history_has_few_points_however_long(admin_client: Client, hours: str, points: int) -> None:
    """Minutes are put together where there are many; it is one statement, whatever the range."""
    now = minute_of(timezone.now())
    OutboxSample.objects.bulk_create(
        OutboxSample(backend="default", minute=now - back, published=60, timed=1, medians=10)
        for back in range(1, int(hours) * 60)
    )
    with CaptureQueriesContext(connection) as queries:
        found = ask(admin_client, "history", hours=hours)
    # The backends that have events, and their minutes.
    assert len([q for q in queries if "django_broadcaster" in q["sql"]]) == 2
    assert abs(len(found["times"]) - points) <= 1
    rates = [rate for rate in found["series"]["default"]["published"] if rate is not None]
    assert len(rates) >= points - 3
    assert set(rates[1:-1]) == {1.0}
    assert set(filter(None, found["series"]["invoices"]["published"])) == set()


@pytest.mark.parametrize("hours", ["2", "-1", "x", "1e9", "", "9" * 5000])
def test_history_knows_its_ranges_only(admin_client: Client, hours: str) -> None:
    """Another number of hours is refused, and the answer names those that there are."""
    response = admin_client.get(url("history"), {"hours": hours})
    assert response.status_code == 400
    assert b"hours: must be one of 1, 6, 24, 168" in response.content


# What is stuck


def test_stuck_events_of_a_busy_shop(admin_client: Client) -> None:
    """Blocked keys have their first event, and dead letters are grouped by their errors."""
    scenes.busy_shop()
    found = ask(admin_client, "stuck", "default")
    assert [(each["key"], each["behind"], each["more"]) for each in found["keys"]] == [
        ("customer-17", 31, False),
        ("customer-4711", 3, False),
    ]
    head = OutboxEvent.objects.get(status=S.RETRY, partition_key="customer-17")
    assert (found["keys"][0]["head"], found["keys"][0]["retries"]) == (head.pk, 2)
    assert [(each["count"], each["error"], each["prefix"]) for each in found["errors"]] == [
        (23, "Rejected: there is no account #", "Rejected: there is no account "),
        (
            9,
            "Rejected: schema order/v# refuses the field 'total' of event #",
            "Rejected: schema order/v",
        ),
        (4, *["RuntimeError: handler shop.mail.send: recipient has no address"] * 2),
    ]
    assert found["blocked"] == {
        "keys": 2,
        "events": 34,
        "is_all": True,
        "reason": "customer service answered 503 after # s",
        "with_reason": 2,
        "compared": 2,
    }
    invoices = ask(admin_client, "stuck", "invoices")
    assert (invoices["keys"], invoices["errors"]) == ([], [])


def test_the_links_of_what_is_stuck_lead_to_it(admin_client: Client) -> None:
    """The list of events understands the filters of a group of errors and of a key."""
    scenes.busy_shop()
    events = reverse("admin:django_broadcaster_outboxevent_changelist")
    query = {"status__exact": "failed", "backend": "default"}
    prefix = "Rejected: there is no account "
    page = admin_client.get(events, {**query, "last_error__startswith": prefix})
    assert page.context["cl"].result_count == 23
    page = admin_client.get(events, {"backend": "default", "partition_key": "customer-17"})
    assert page.context["cl"].result_count == 32


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        ("answered 503 Service Unavailable", "answered 503 Service Unavailable"),
        ("no account 4711", "no account #"),
        ("timeout after 5.25 s", "timeout after # s"),
        ("row 0197fa7e-0000-7000-8000-0123456789ab is odd", "row # is odd"),
        ("object at 0x7f10aa", "object at #"),
        ("digest deadbeef00112233", "digest #"),
        ("10.0.0.1:5672: refused", "#:#: refused"),
        ("accessed facade", "accessed facade"),
        ("no account 471", "no account #"),
        (
            "HTTP 404, status=409, error: 410, code 411",
            "HTTP 404, status=409, error: 410, code 411",
        ),
        ("HTTP/1.1 502 of HTTP/2 503", "HTTP/1.1 502 of HTTP/2 503"),
        ("error 5031, code 1.5", "error #, code #"),
        (
            "to http://10.0.0.1:8808 (endpoint 3fa91c2e): answered 500 Oh\nTook 0.12 s.",
            "to http://10.0.0.1:8808 (endpoint 3fa91c2e): answered 500 Oh",
        ),
        (
            "Rejected: handler shop.pay: KeyError at shop/pay.py:12: 'a' 4711",
            "Rejected: handler shop.pay: KeyError at shop/pay.py:12",
        ),
        (
            "TransientError: handler a: E at a.py:1: no; handler b: F at b.py:22: b.py:33: no",
            "TransientError: handler a: E at a.py:1; handler b: F at b.py:22",
        ),
        ("", ""),
    ],
)
def test_errors_are_alike_but_for_what_varies(error: str, pattern: str) -> None:
    """Numbers and ids are left out of the comparison; words, codes and endpoints are not.

    Failures of handlers are alike by class, handler and place, whatever their texts say.
    """
    assert stuck.fingerprint(error) == pattern


def test_an_error_of_many_orders_is_one_group(admin_client: Client) -> None:
    """A thousand numbers of orders are one error; two status codes are two."""
    now = timezone.now().replace(microsecond=0)
    failure = "TransientError: handler shop.ship: KeyError at shop/ship.py:7"
    orders = [
        scenes.write(
            number,
            status=S.FAILED,
            last_error=f"{failure}: order {number}",
            ended_at=now - timedelta(seconds=number),
        )
        for number in range(1000)
    ]
    webhook = "Rejected: webhook to https://x.example (endpoint 3fa91c2e): answered"
    answered = [
        scenes.write(
            n, status=S.FAILED, last_error=f"{webhook} {code}\nTook 0.{n} s. Response: {n}"
        )
        for code, count in ((500, 3), (502, 2))
        for n in range(count)
    ]
    insert(*orders, *answered)

    found = ask(admin_client, "stuck", "default")

    assert [(each["count"], each["error"], each["is_whole"]) for each in found["errors"]] == [
        (1000, failure, True),
        (3, f"{webhook} 500", True),
        (2, f"{webhook} 502", True),
    ]
    ages = [now.timestamp() - found["errors"][0][name] for name in ("first_seen", "last_seen")]
    assert ages == [999, 0]
    assert found["more_errors"] == {"errors": 0, "events": 0}


def test_errors_that_are_not_shown_are_counted(admin_client: Client) -> None:
    """The table is cut, and says by how much."""
    names = [f"error of {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(stuck.GROUPS + 3)]
    insert(*(scenes.write(1, status=S.FAILED, last_error=name) for name in [*names, names[-1]]))
    found = ask(admin_client, "stuck", "default")
    assert len(found["errors"]) == stuck.GROUPS
    assert found["more_errors"] == {"errors": 3, "events": 3}


# Pause and resume


def test_pause_and_resume_ask_first_and_are_logged(client: Client, staff: User) -> None:
    """A look at the question changes nothing; an answer does, says so, and is in the history."""
    permit(staff, "view_outboxevent", "pause_backend")
    assert "Pause default" in client.get(url("pause", "default")).content.decode()
    assert not OutboxBackendState.objects.exists()

    page = client.post(url("pause", "default"), {"reason": "broker\0 moves"}, follow=True)
    state = OutboxBackendState.objects.get()
    assert (state.backend, state.paused_by) == ("default", "staff: broker moves")
    assert "default paused" in str(next(iter(page.context["messages"])))
    assert "Paused: broker moves" in page.content.decode()

    client.get(url("resume", "default"))
    assert OutboxBackendState.objects.get().paused_at is not None
    client.post(url("resume", "default"))
    assert OutboxBackendState.objects.get().paused_at is None
    entries = LogEntry.objects.order_by("pk").values_list("user", "object_id", "change_message")
    assert list(entries) == [
        (staff.pk, "default", "Paused: broker moves"),
        (staff.pk, "default", "Resumed."),
    ]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_is_thrown_already_is_not_logged(admin_client: Client, name: str) -> None:
    """What has no effect says so, and leaves no entry."""
    if name == "pause":
        OutboxBackendState.objects.create(
            backend="default", paused_at=timezone.now(), paused_by="Bob"
        )
    page = admin_client.post(url(name, "default"), follow=True)
    [message] = page.context["messages"]
    assert message.level_tag == "warning"
    assert not LogEntry.objects.exists()
    assert not OutboxBackendState.objects.exclude(paused_by="Bob").exists()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_needs_the_token_of_its_form(admin_user: User, name: str) -> None:
    """A form of another site can't throw it."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(url(name, "default")).status_code == 403
    assert not OutboxBackendState.objects.exists()


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_only_read(admin_client: Client, name: str) -> None:
    """No view but the switches takes a POST."""
    assert admin_client.post(url(name, *PAGES[name])).status_code == 405


def test_a_hostile_reason_is_escaped(admin_client: Client) -> None:
    """What an operator typed is text on the page."""
    page = admin_client.post(url("pause", "default"), {"reason": SCRIPT}, follow=True)
    assert SCRIPT not in page.content.decode()
    assert "&lt;script&gt;" in page.content.decode()


# The page of an event


def event_page_of(client: Client, event: OutboxEvent) -> str:
    """Return the page of an event."""
    address = reverse("admin:django_broadcaster_outboxevent_change", args=[event.pk])
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def test_an_event_tells_its_life(admin_client: Client, admin_user: User) -> None:
    """Publication, failed attempts, what an operator did, and the delivery, in order of time."""
    start = timezone.now() - timedelta(hours=1)
    event = scenes.write(1, status=S.FAILED, created_at=start, last_error="Rejected: no")
    event.ended_at = start + timedelta(minutes=3)
    event.save()
    for number in (1, 2):
        OutboxAttempt.objects.create(
            row=event.pk,
            number=number,
            attempted_at=start + timedelta(minutes=number),
            relay="web-1:17",
            error=f"TransientError: try {number} {SCRIPT}",
        )
    OutboxAttempt.objects.create(
        row=event.pk + 1, number=9, attempted_at=start, relay="x", error="other"
    )
    events = reverse("admin:django_broadcaster_outboxevent_changelist")
    admin_client.post(events, {"action": "retry", "_selected_action": [event.pk]})
    OutboxEvent.objects.filter(pk=event.pk).update(status=S.PUBLISHED, published_at=timezone.now())

    page = event_page_of(admin_client, event)

    steps = [
        *("Created", "Attempt 1 failed", "TransientError: try 1"),
        *(
            "Attempt 2 failed",
            "Given up after 2 attempts",
            "Replayed (was dead)",
            "Delivered: the broker acknowledged it",
        ),
    ]
    places = [page.index(step) for step in steps]
    assert places == sorted(places)
    assert "web-1:17" in page
    assert admin_user.get_username() in page
    assert SCRIPT not in page
    assert "Attempt 9" not in page


def test_an_event_tells_what_it_waits_for_and_who_changed_it(admin_client: Client) -> None:
    """A blocked event links to the one before it; an operation names its requester."""
    first = scenes.write(1, status=S.RETRY, partition_key="k")
    operation = OutboxOperation.objects.create(
        kind="retry",
        requested_by="deploy@web1",
        start=0,
        position=0,
        last=9,
        total=1,
        total_is_exact=True,
    )
    first.extensions = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    first.save()
    MOVES["retry"].run(  # type: ignore[misc]  # only a purge has none
        OutboxEvent.objects.filter(pk=first.pk), operation=operation.pk, by="deploy@web1"
    )
    second = scenes.write(2, status=S.BLOCKED, partition_key="k")
    second.save()

    page = event_page_of(admin_client, second)
    link = reverse("admin:django_broadcaster_outboxevent_change", args=[first.pk])
    assert f'<a href="{link}">Waits for event {first.pk} of the same key</a>' in page

    page = event_page_of(admin_client, first)
    address = reverse("admin:django_broadcaster_outboxoperation_change", args=[operation.pk])
    assert f'<a href="{address}">Retried now (was retry), operation {operation.pk}</a>' in page
    assert "deploy@web1" in page
    assert "traceparent 00-4bf92f35" in page


def test_an_event_shows_the_message_that_is_sent(admin_client: Client, settings: Settings) -> None:
    """Destination, headers and body are those of the backend, without what is secret."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.WebhookBackend",
            "OPTIONS": {
                "url": "https://hooks.example/T000/secret-path",
                "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
                "headers": {"Authorization": "Bearer hush"},
                "content_mode": "binary",
            },
        }
    }
    event = scenes.write(7, partition_key="customer-17")
    event.save()

    page = event_page_of(admin_client, event)

    for text in ("https://hooks.example", "ce-type", "order.placed", "ce-partitionkey"):
        assert text in page
    for secret in ("secret-path", "hush", "whsec", "MfKQ9r8"):
        assert secret not in page


def test_a_message_that_can_not_be_made_says_why(admin_client: Client, settings: Settings) -> None:
    """The page of an event stands, whatever its backend raises or however it is configured."""
    event = scenes.write(1, publisher_backend="gone")
    insert(event)
    assert "The event can&#x27;t be sent" in event_page_of(admin_client, event)


@pytest.mark.parametrize("body", [b"\xff\xfe" * 400, None, b"", "ä".encode()])
def test_a_body_of_any_bytes_is_readable(body: bytes | None) -> None:
    """Text is shown as text, other bytes by their number and the first of them."""
    shown = event_page._body(body)
    if body and b"\xff" in body:
        assert shown.startswith("800 bytes\n00000000  ff fe")
        assert len(shown) < 2000
    else:
        assert shown == ("(no body)" if body is None else body.decode())
