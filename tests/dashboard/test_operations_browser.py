"""Operations in a real browser: requested, followed and stopped, by keyboard, phone and in dark.

Each page that a test leaves behind has broken no rule of a strict Content-Security-Policy, and no
script of it has failed (`tests/support/browser.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.admin.models import LogEntry
from playwright.sync_api import Page, expect

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxOperation
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import chunks
from tests.relay.conftest import drain
from tests.support.events import insert
from tests.support.operations import request, step, work_off
from tests.support.registered import only_handlers

from .scenes import write
from .test_browser import DESK, PHONE, ROOT, polled, tab_to, violations

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

LIST = f"{ROOT}outboxoperation/"
ADD = f"{LIST}add/"
ERROR = "Rejected: schema order/v3 refuses the field 'total'"


@pytest.fixture
def dead_letters(committing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead letters of two keys, of which a step moves ten."""
    monkeypatch.setattr(chunks, "CHUNK", 10)
    insert(*(
        write(each, status=S.FAILED, partition_key=f"customer-{each % 2}", last_error=ERROR)
        for each in range(24)
    ))  # fmt: skip


def dead() -> int:
    """Return how many dead letters there are."""
    return OutboxEvent.objects.filter(status=S.FAILED).count()


def test_a_replay_from_the_form_to_its_end(desk: Page, site: str, dead_letters: None) -> None:
    """The form says what is missing, the confirmation shows the events, the bar fills up alone."""
    desk.goto(site + ADD)
    desk.get_by_role("button", name="Preview").click()
    expect(desk.get_by_role("alert")).to_have_text("Please correct the errors below.")
    desk.get_by_label("Replay").check()
    desk.get_by_label("Event type").fill("order.*")
    desk.get_by_label("Error").fill("order/v3")
    desk.get_by_role("button", name="Preview").click()
    expect(desk.get_by_role("heading", name="Replay 24 events?")).to_be_visible()
    expect(desk.locator("#content table tbody tr")).to_have_count(10)
    assert not OutboxOperation.objects.exists()
    desk.get_by_role("button", name="Replay, in the background").click()

    bar, percent = desk.get_by_role("progressbar"), desk.locator("[data-percent]")
    expect(percent).to_have_text("0 %")
    expect(desk.locator("[data-note]")).to_contain_text("No relay is running.")
    desk.evaluate("window.isTheSame = true")
    with DeliveryLoop("default", "default") as loop:
        step(loop.rounds.operations)
        expect(percent).to_have_text("41 %")
        expect(desk.locator("[data-state]")).to_have_text("running")
        expect(desk.locator("[data-note]")).to_be_hidden()
        expect(desk.locator("[data-summary]")).to_have_text("10 of 24 events")
    work_off("default")
    expect(percent).to_have_text("100 %")
    expect(desk.locator("[data-state]")).to_have_text("done")
    expect(desk.locator("[data-announce]")).to_have_text("done, 100 %, 24 of 24 events")
    expect(desk.get_by_role("button", name="Stop")).to_be_hidden()
    assert bar.evaluate("bar => bar.value") == 1
    assert desk.evaluate("window.isTheSame") is True
    assert dead() == 0


@pytest.fixture
def sent(settings: Settings) -> Iterator[list[str]]:
    """What a handler of the local backend `default` was given."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}
    }
    found: list[str] = []

    def send(event: CloudEvent) -> None:
        found.append(event.id)

    with only_handlers({"shop.mail.send_confirmation": send, "shop.stock.reserve": print}):
        yield found


def test_a_replay_runs_the_handlers_that_are_ticked(
    desk: Page, site: str, committing: None, sent: list[str], tmp_path: Path
) -> None:
    """The confirmation names the handlers; the result says what came of the events."""
    for _ in range(3):
        publisher.publish_event("order.placed", "/shop", {})
    with DeliveryLoop("default", "default") as loop:
        drain(loop)
        for ticked, skipped in ((False, True), (True, False)):
            desk.goto(site + ADD)
            desk.get_by_label("Replay").check()
            desk.get_by_label("All eligible events").check()
            desk.get_by_role("button", name="Preview").click()
            expect(desk.get_by_text("will NOT run again")).to_be_visible()
            desk.get_by_label("shop.mail.send_confirmation").set_checked(ticked)
            picture(desk, tmp_path, "replay-confirmation")
            desk.get_by_role("button", name="Replay, in the background").click()
            expect(desk.locator("[data-outcome]")).to_be_hidden()
            work_off("default")
            outcome = desk.locator("[data-outcome]")
            expect(outcome).to_contain_text("3 queued for delivery: 0 delivered, 0 dead, 3 waiting")
            expect(desk.locator("[data-state]")).to_have_text("done")
            drain(loop)
            expect(outcome).to_contain_text(
                "3 queued for delivery: 3 delivered, 0 dead", timeout=20_000
            )
            text = "3 skipped by the inbox"
            if skipped:
                expect(outcome).to_contain_text(text)
            else:
                expect(outcome).not_to_contain_text(text)
            assert len(sent) == 3 * (1 + ticked)
            picture(desk, tmp_path, "replay-result")
    desk.get_by_role("link", name="Show the events of this operation").click()
    expect(desk.locator("#result_list tbody tr")).to_have_count(3)


def picture(page: Page, folder: Path, name: str) -> None:
    """Take a picture, where somebody wants to look at it."""
    page.screenshot(path=Path(os.environ.get("BROADCASTER_PICTURES") or folder) / f"{name}.png")


def test_a_purge_is_stopped_half_way(desk: Page, site: str, dead_letters: None) -> None:
    """The button stops it where it is, and says who did."""
    operation = request("purge", "default", by="Grace")
    desk.goto(f"{site}{LIST}{operation.pk}/change/")
    with DeliveryLoop("default", "default") as loop:
        step(loop.rounds.operations)
        desk.get_by_role("button", name="Stop").click()
        expect(desk.locator(".messagelist")).to_contain_text("the changes made so far remain.")
        step(loop.rounds.operations)
    expect(desk.locator("[data-state]")).to_have_text("stopped")
    expect(desk.locator("#content")).to_contain_text("by Grace")
    expect(desk.locator(".broadcaster-log")).to_contain_text("ada: Stopped at 10 events.")
    assert dead() == 14
    assert LogEntry.objects.get(object_id=str(operation.pk)).user.get_username() == "ada"


def test_a_failure_is_shown_without_a_reload(desk: Page, site: str, dead_letters: None) -> None:
    """When an operation has failed, its page shows the error."""
    operation = request("purge", "default")
    desk.goto(f"{site}{LIST}{operation.pk}/change/")
    OutboxOperation.objects.update(
        state="failed", error="OperationalError: no space left on device"
    )
    expect(desk.locator(".broadcaster-text")).to_have_text(
        "OperationalError: no space left on device"
    )


def test_a_page_that_is_not_up_to_date_says_so(desk: Page, site: str, dead_letters: None) -> None:
    """While the server does not respond, the page says so; it continues by itself."""
    operation = request("replay", "default")
    desk.goto(f"{site}{LIST}{operation.pk}/change/")
    desk.route("**/progress/", lambda route: route.fulfill(status=200, body="nonsense"))
    expect(desk.locator("[data-lost]")).to_be_visible()
    desk.unroute("**/progress/")
    expect(desk.locator("[data-lost]")).to_be_hidden()
    work_off("default")
    expect(desk.locator("[data-state]")).to_have_text("done")


def test_the_list_of_events_leads_to_the_form(desk: Page, site: str, dead_letters: None) -> None:
    """The action needs no selected event, and its filter is in the form."""
    desk.goto(f"{site}{ROOT}outboxevent/?status__exact=failed&backend=default")
    desk.get_by_label("Action:").select_option(label="All events of this filter, in the background")
    desk.get_by_role("button", name="Run").or_(desk.get_by_role("button", name="Go")).click()
    expect(desk.get_by_label("Status")).to_have_value("failed")
    expect(desk.get_by_label("Backend")).to_have_value("default")


def test_it_can_be_done_with_the_keyboard(desk: Page, site: str, dead_letters: None) -> None:
    """From the index to a running operation and its stop, without a mouse."""
    desk.goto(f"{site}{LIST}")
    tab_to(desk, "Add operation")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("heading", name="New operation")).to_be_visible()
    tab_to(desk, "Retry Dead events, and those that wait for a retry, are retried now.")
    desk.keyboard.press("ArrowDown")
    expect(desk.get_by_label("Replay")).to_be_checked()
    tab_to(desk, "Partition key:")
    desk.keyboard.type("customer-1")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("heading", name="Replay 12 events?")).to_be_visible()
    tab_to(desk, "Replay, in the background")
    desk.keyboard.press("Enter")
    expect(desk.locator("[data-state]")).to_have_text("waiting")
    tab_to(desk, "Stop")
    polled(desk, "progress/")  # which must not take the focus away
    desk.keyboard.press("Enter")
    expect(desk.locator("[data-state]")).to_have_text("stopped")


@pytest.mark.parametrize(
    ("mode", "size"), [("light", DESK), ("dark", PHONE)], ids=["light, at a desk", "dark, a phone"]
)
def test_pages_are_accessible(
    examined: Page, site: str, dead_letters: None, sent: list[str], mode: Any, size: Any
) -> None:
    """axe-core finds nothing wrong with any page, and none is wider than the screen."""
    examined.emulate_media(color_scheme=mode)
    examined.set_viewport_size(size)
    found = {}

    def look(name: str) -> None:
        examined.wait_for_load_state("load")
        found[name] = violations(examined)
        width = examined.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"{name} is {width} pixels wide"

    examined.goto(f"{site}{ADD}?lost=q%3Dneedle")
    look("form")
    examined.get_by_role("button", name="Preview").click()
    expect(examined.get_by_text("Please correct")).to_be_visible()
    look("form with errors")
    examined.get_by_label("All eligible events").check()
    examined.get_by_label("Replay").check()
    examined.get_by_role("button", name="Preview").click()
    expect(examined.get_by_text("will NOT run again")).to_be_visible()
    look("confirmation of a replay")
    examined.get_by_role("button", name="Edit").click()
    examined.get_by_label("Purge").check()
    examined.get_by_role("button", name="Preview").click()
    expect(examined.get_by_role("heading", name="Purge 24 events?")).to_be_visible()
    look("confirmation")
    examined.get_by_role("button", name="Purge, in the background").click()
    expect(examined.locator("[data-state]")).to_have_text("waiting")
    look("waiting")
    step(DeliveryLoop("default", "default").rounds.operations)
    expect(examined.locator("[data-state]")).to_have_text("running")
    look("running")
    OutboxOperation.objects.update(state="failed", error=ERROR)
    expect(examined.locator("[data-state]")).to_have_text("failed")
    expect(examined.locator(".broadcaster-text")).to_be_visible()
    look("failed")
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
