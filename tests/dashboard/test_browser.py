"""The dashboard in a real browser: what it shows, every action, by keyboard, on a phone, in dark.

Each page that a test leaves behind has broken no rule of a strict Content-Security-Policy, and no
script of it has failed (`tests/support/browser.py`).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from django_broadcaster.models import (
    OutboxBackendState,
    OutboxEvent,
    OutboxRelay,
    OutboxSample,
    OutboxWebhookEndpoint,
)
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import minute_of
from tests.support.browser import opened
from tests.support.waiting import wait_until
from tests.typed_events import classes  # noqa: F401  # declares the events of the catalogue

from . import scenes
from .conftest import logged_in

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

ROOT = "/admin/django_broadcaster/"
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "preload": False,
}
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
AMBER, GREY = "rgb(148, 84, 10)", "rgb(92, 99, 106)"


def addresses() -> dict[str, str]:
    """Return every page of the dashboard by its name."""
    head = OutboxEvent.objects.get(status=S.RETRY, partition_key="customer-17")
    return {
        "overview": f"{ROOT}outboxdashboard/",
        "backend": f"{ROOT}outboxdashboard/default/change/",
        "catalogue": f"{ROOT}outboxdashboard/catalogue/",
        "pause": f"{ROOT}outboxdashboard/default/pause/",
        "resume": f"{ROOT}outboxdashboard/default/resume/",
        "event": f"{ROOT}outboxevent/{head.pk}/change/",
        "retry": f"{ROOT}outboxevent/{head.pk}/retry/",
    }


def visit(desk: Page, site: str, address: str) -> None:
    """Open a page, and wait until what is live on it is there."""
    response = desk.goto(site + address)
    assert response is not None
    assert response.status == 200
    if desk.locator("[data-broadcaster]").count():
        expect(desk.locator("[data-freshness]")).to_have_text("Live")
        expect(desk.locator("[data-plot] canvas")).to_have_count(4)


def arrive(desk: Page, end: str) -> None:
    """Wait until a page whose address ends so is painted: Chromium takes no click before that."""
    expect(desk).to_have_url(re.compile(f"{re.escape(end)}$"))
    desk.wait_for_load_state()
    frames = "() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))"
    desk.evaluate(frames)


def figure(desk: Page, alias: str, name: str) -> Any:
    """Return the place of a figure on a backend's card."""
    return desk.locator(f'[data-card="{alias}"] [data-field="{name}"]')


def violations(desk: Page) -> list[str]:
    """Return what axe-core finds wrong with the part of the page that is ours."""
    # The rest is Django's own; its header has links that are too small for a finger.
    found = Axe().run(desk, context="#content", options=RULES)
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


def test_it_shows_what_is_there_and_stays_live(desk: Page, site: str) -> None:
    """Figures, circuit and relays are those of the tables, and follow them without a reload."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    expect(figure(desk, "default", "status")).to_have_text("some failing")
    expect(figure(desk, "default", "backlog")).to_have_text("74")
    expect(figure(desk, "invoices", "backlog")).to_have_text("1,234")
    expect(figure(desk, "invoices", "reason")).to_contain_text("connection refused")
    rows = desk.locator('[data-table="relays"] tbody tr')
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("32 (32–63)")  # noqa: RUF001  # a range
    desk.evaluate("window.isTheSame = true")

    OutboxEvent.objects.filter(publisher_backend="invoices").delete()
    OutboxRelay.objects.filter(backend="invoices").update(circuit_open_since=None, circuit_error="")
    OutboxRelay.objects.filter(name="web-2:3877").delete()

    expect(figure(desk, "invoices", "status")).to_have_text("up to date")
    expect(figure(desk, "invoices", "backlog")).to_have_text("0")
    expect(figure(desk, "invoices", "reason")).to_be_hidden()
    expect(rows).to_have_count(2)
    expect(desk.locator("[data-announce]")).to_contain_text("invoices: up to date")
    assert desk.evaluate("window.isTheSame") is True


def test_the_worst_backend_is_seen_first(desk: Page, site: str) -> None:
    """Cards are in the order of their states, and the strip and the tab count what needs attention.

    The order follows the state, a card that has the focus keeps it, and the endpoints that are
    disabled are one click away.
    """
    scenes.busy_shop()
    OutboxSample.objects.filter(backend="default").update(failed=0)
    visit(desk, site, addresses()["overview"])
    cards, strip = desk.locator("[data-card] h3"), desk.locator("[data-attention]")
    expect(cards).to_have_text(["invoices", "default"])
    expect(strip).to_have_text("1 of 2 backends needs attention: invoices (broker unavailable)")
    expect(desk).to_have_title(re.compile(r"^\(1!\) Dashboard"))
    expect(figure(desk, "default", "status")).to_have_text("delivering")
    expect(figure(desk, "default", "endpoints")).to_be_hidden()
    expect(desk.locator('[data-plot="rate"] [data-summary]')).to_contain_text("failed attempts")
    link = desk.get_by_role("link", name="Pause default")
    link.focus()

    OutboxRelay.objects.filter(backend="invoices").update(circuit_open_since=None)
    OutboxEvent.objects.filter(publisher_backend="invoices").delete()
    now = minute_of(timezone.now())
    OutboxSample.objects.filter(backend="default", minute__gte=now - 9).update(
        published=0, retried=7, failed=1
    )
    OutboxWebhookEndpoint.objects.create(backend="default", disabled_at=timezone.now())

    expect(cards).to_have_text(["default", "invoices"])
    expect(link).to_be_focused()
    expect(strip).to_have_text("1 of 2 backends needs attention: default (failing)")
    expect(figure(desk, "default", "reason")).to_contain_text("attempts in the last 5 min failed")
    expect(figure(desk, "invoices", "status")).to_have_text("up to date")
    figure(desk, "default", "endpoints").click()
    expect(desk.locator("#result_list tbody tr")).to_have_count(1)


def test_a_healthy_outbox_needs_no_attention(desk: Page, site: str) -> None:
    """There is no strip, and the tab's title has no number."""
    scenes.busy_shop()
    OutboxRelay.objects.filter(backend="invoices").update(circuit_open_since=None)
    OutboxEvent.objects.filter(publisher_backend="invoices").delete()
    OutboxSample.objects.update(failed=0)
    visit(desk, site, addresses()["overview"])
    expect(figure(desk, "invoices", "status")).to_have_text("up to date")
    expect(desk.locator("[data-attention]")).to_be_hidden()
    expect(desk).to_have_title(re.compile("^Dashboard"))


def test_the_plots_follow_the_range_and_the_theme(desk: Page, site: str) -> None:
    """A range is a button; a change of the theme redraws the plots in its colours."""
    scenes.busy_shop()
    desk.emulate_media(color_scheme="light")
    visit(desk, site, addresses()["backend"])
    summary = desk.locator('[data-plot="rate"] [data-summary]')
    expect(summary).to_contain_text("delivered")
    with desk.expect_request(re.compile(r"history/\?.*hours=24")):
        desk.get_by_role("button", name="24 h").click()
    expect(desk.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    canvas = desk.locator('[data-plot="backlog"] canvas')
    light = canvas.evaluate("canvas => canvas.toDataURL()")
    desk.emulate_media(color_scheme="dark")
    wait_until(lambda: canvas.evaluate("c => c.toDataURL()") != light, 10, "the dark plot")


def test_there_is_one_time_zone(
    browser: Browser, site: str, operator: User, settings: Settings
) -> None:
    """Moments are in Django's zone, which is named, whatever the zone of the browser is."""
    settings.TIME_ZONE = zone = "Asia/Kolkata"
    scenes.busy_shop()
    with opened(browser, timezone_id="America/New_York") as new:
        desk = logged_in(new, site, operator)
        visit(desk, site, addresses()["overview"])
        expect(desk.get_by_role("heading", name="Over time")).to_have_text(f"Over time ({zone})")
        expect(desk.locator("[data-as-of]")).to_contain_text(zone)
        hover(desk, 0.5)
        times = desk.locator("[data-at]")
        expect(times).to_have_text([re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:00 Asia/Kolkata$")] * 4)
        shown = datetime.fromisoformat(times.first.inner_text().removesuffix(f" {zone}"))
        age = timezone.now() - shown.replace(tzinfo=ZoneInfo(zone))
        assert timedelta(minutes=15) < age < timedelta(minutes=45)
        desk.goto(f"{site}{ROOT}outboxrelay/")
        expect(desk.locator("#result_list .field-started").first).to_contain_text(zone)
        desk.goto(f"{site}{ROOT}outboxoperation/add/")
        expect(desk.get_by_label(f"Created since ({zone})")).to_be_visible()


def test_times_are_shown_in_the_zone_of_the_browser_on_request(
    browser: Browser, site: str, operator: User, settings: Settings
) -> None:
    """A button switches between the two zones, the page names the one in use, and remembers it."""
    settings.TIME_ZONE = "Asia/Kolkata"
    scenes.busy_shop()
    with opened(browser, timezone_id="America/New_York") as new:
        desk = logged_in(new, site, operator)
        visit(desk, site, addresses()["overview"])
        desk.get_by_role("button", name="Show times in America/New_York").click()
        title = desk.get_by_role("heading", name="Over time")
        expect(title).to_have_text("Over time (America/New_York)")
        expect(desk.locator("[data-as-of]")).to_contain_text("America/New_York")
        hover(desk, 0.5)
        expect(desk.locator("[data-at]").first).to_contain_text("America/New_York")
        visit(desk, site, addresses()["overview"])
        expect(title).to_have_text("Over time (America/New_York)")
        desk.get_by_role("button", name="Show times in Asia/Kolkata").click()
        expect(title).to_have_text("Over time (Asia/Kolkata)")


def test_one_zone_needs_no_switch(desk: Page, site: str, settings: Settings) -> None:
    """There is no button if the browser and the server agree."""
    settings.TIME_ZONE = "UTC"
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    expect(desk.locator("[data-switch-zone]")).to_be_hidden()


def test_a_line_is_hidden_by_its_key(desk: Page, site: str) -> None:
    """One backend that is far above the others can be taken out of the plot; the key says so."""
    scenes.busy_shop()
    desk.emulate_media(color_scheme="light")
    visit(desk, site, addresses()["backend"])
    plot = desk.locator('[data-plot="backlog"]')
    wait_until(lambda: plot.evaluate(PAINTED, 0.9) > 0, 10, "the line")
    key = plot.get_by_role("button", name=re.compile("backlog"))
    expect(key).to_have_attribute("aria-pressed", "true")
    key.click()
    expect(key).to_have_attribute("aria-pressed", "false")
    wait_until(lambda: plot.evaluate(PAINTED, 0.9) == 0, 10, "the line to go")
    key.press("Enter")
    wait_until(lambda: plot.evaluate(PAINTED, 0.9) > 0, 10, "the line to come back")


def test_a_pause_is_shaded(desk: Page, site: str) -> None:
    """The time in which an operator had paused the backend can be told from an outage."""
    scenes.busy_shop()
    visit(desk, site, addresses()["backend"])
    canvas = desk.locator('[data-plot="backlog"] canvas')
    plain = canvas.evaluate("c => c.toDataURL()")
    OutboxSample.objects.filter(backend="default").update(paused=True)
    visit(desk, site, addresses()["backend"])
    wait_until(lambda: canvas.evaluate("c => c.toDataURL()") != plain, 10, "the shade")


def test_the_cursor_tells_the_values_of_its_time(desk: Page, site: str) -> None:
    """A gap in a line has no value; without the cursor the latest values are shown."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    latency = desk.locator('[data-plot="latency"] [data-summary]')
    expect(latency).to_contain_text(re.compile(r"invoices [\d.]+ ms, max"))
    hover(desk, 0.99)
    expect(latency).to_contain_text("invoices no data, max")
    hover(desk, 0.5)
    expect(latency).to_contain_text(re.compile(r"invoices [\d.]+ ms, max"))
    desk.mouse.move(0, 0)
    expect(desk.locator("[data-at]").first).to_have_text("")


def test_the_key_of_a_line_has_its_dashes(desk: Page, site: str) -> None:
    """Lines can be told apart without their colours, in the key as in the plot."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    keys = desk.locator('[data-plot="rate"] .broadcaster-key')
    expect(keys).to_have_count(3)  # default, invoices, and the failed attempts
    images = [each.evaluate("key => getComputedStyle(key).backgroundImage") for each in keys.all()]
    assert images[::2] == ["none", "none"]
    assert "repeating-linear-gradient" in images[1]


def test_a_point_without_neighbours_is_drawn(desk: Page, site: str) -> None:
    """A minute between two gaps is seen, though no line goes through it."""
    scenes.busy_shop()
    middle = minute_of(timezone.now()) - 30
    around = [middle + each for each in range(-6, 7) if each]
    OutboxSample.objects.filter(minute__in=around).delete()
    desk.emulate_media(color_scheme="light")
    visit(desk, site, addresses()["backend"])
    plot = desk.locator('[data-plot="backlog"]')
    wait_until(lambda: plot.evaluate(PAINTED, 0.9) > 0, 10, "the line")
    assert plot.evaluate(PAINTED, 0.5) > 0
    assert plot.evaluate(PAINTED, 0.43) == 0  # the gap


# Return how many pixels near a share of the width have the colour of the first line.
PAINTED = """(plot, share) => {
    const canvas = plot.querySelector("canvas");
    const all = canvas.getBoundingClientRect();
    const over = plot.querySelector(".u-over").getBoundingClientRect();
    const copy = document.createElement("canvas");
    Object.assign(copy, { width: 20, height: over.height });
    const drawn = copy.getContext("2d", { willReadFrequently: true });
    const left = over.left - all.left + over.width * share - 10;
    drawn.drawImage(canvas, -left, all.top - over.top);
    const { data } = drawn.getImageData(0, 0, copy.width, copy.height);
    const blue = [11, 99, 165];
    const isBlue = (place) => blue.every((value, index) => data[place + index] === value);
    return [...data.keys()].filter((place) => place % 4 === 0 && isBlue(place)).length;
}"""


def hover(desk: Page, share: float) -> None:
    """Put the cursor at a share of the width of the first plot."""
    plot = desk.locator('[data-plot="rate"] .u-over')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    desk.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)


def test_a_backend_page_leads_to_what_is_stuck(desk: Page, site: str) -> None:
    """Keys and dead letters are listed, and each leads to its events."""
    scenes.busy_shop()
    visit(desk, site, addresses()["backend"])
    keys = desk.locator('[data-table="keys"] tbody tr')
    expect(keys).to_have_count(2)
    expect(keys.first).to_contain_text("customer-17")
    expect(keys.first).to_contain_text("31")
    expect(desk.locator("[data-blocked]")).to_have_text(
        "2 keys wait, 34 events behind them; 2 of the keys because of: "
        "customer service answered 503 after # s"
    )
    errors = desk.locator('[data-table="errors"] tbody tr')
    expect(errors).to_have_count(3)
    expect(errors.first).to_contain_text("there is no account #")
    errors.first.get_by_role("link", name="23", exact=True).click()
    expect(desk.locator("#result_list tbody tr")).to_have_count(23)
    desk.go_back()
    errors.first.get_by_role("link", name="Retry all 23").click()
    expect(desk.locator("[name=error]")).to_have_value("Rejected: there is no account ")
    expect(desk.get_by_role("radio", name="retry")).to_be_checked()
    expect(desk.get_by_role("alert")).to_contain_text("error=Rejected: there is no account #")
    desk.go_back()
    keys.first.get_by_role("link", name="order.placed").click()
    expect(desk.locator(".broadcaster-life")).to_contain_text("Attempt 2 failed")


def test_an_event_is_retried_where_it_is_seen(desk: Page, site: str) -> None:
    """From the list, which is readable on a phone, to the event, its button and the answer."""
    scenes.busy_shop()
    desk.set_viewport_size(PHONE)
    visit(desk, site, f"{ROOT}outboxevent/?status__exact=failed")
    row = desk.locator("#result_list tbody tr", has_text="there is no account").first
    box = row.locator(".field-error_start").bounding_box()
    assert box is not None
    assert box["width"] > 150
    row.get_by_role("link").first.click()
    desk.get_by_role("link", name="Retry now…").click()
    desk.get_by_role("button", name="Retry now").click()
    expect(desk.locator(".messagelist")).to_contain_text("1 of 1 events will be retried now.")
    expect(desk.locator(".field-status_label")).to_contain_text("scheduled")


def test_it_says_so_when_it_is_not_live(desk: Page, site: str) -> None:
    """A server that fails, and a session that has ended, are told; it recovers by itself."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    freshness = desk.locator("[data-freshness]")
    desk.route(
        "**/outboxdashboard/state/**", lambda route: route.fulfill(status=200, body="nonsense")
    )
    expect(freshness).to_have_text("Not live: the response is not valid")
    desk.unroute("**/outboxdashboard/state/**")
    expect(freshness).to_have_text("Live", timeout=20_000)
    desk.route("**/outboxdashboard/history/**", lambda route: route.fulfill(status=200, body="x"))
    expect(freshness).to_contain_text("Not live", timeout=20_000)
    for _ in range(2):  # that the state comes does not make it live
        with desk.expect_response("**/outboxdashboard/state/**"):
            pass
    expect(freshness).to_contain_text("Not live")
    desk.unroute("**/outboxdashboard/history/**")
    expect(freshness).to_have_text("Live", timeout=60_000)
    desk.context.clear_cookies()
    expect(freshness).to_have_text("Not live: your session has ended; reload the page")


@pytest.mark.parametrize("failure", ["the server fails", "the network is gone", "it hangs"])
def test_a_dead_page_says_that_its_figures_are_old(
    browser: Browser, site: str, operator: User, failure: str
) -> None:
    """Ages stop at the last answer; after 10 s a red bar names it, and no state has its colour."""
    scenes.busy_shop()
    answers = {
        "the server fails": lambda route: route.fulfill(status=500, body="broken"),
        "the network is gone": lambda route: route.abort(),
        "it hangs": lambda route: None,
    }
    with opened(browser, allowed="Failed to load resource") as new:
        desk = logged_in(new, site, operator)
        desk.clock.install()
        visit(desk, site, addresses()["backend"])
        as_of, bar = desk.locator("[data-as-of]"), desk.locator("[data-dead]")
        pill, oldest = figure(desk, "default", "status"), figure(desk, "default", "oldest")
        expect(pill).to_have_css("background-color", AMBER)
        expect(bar).to_be_hidden()
        desk.route(f"**{ROOT}outboxdashboard/**", answers[failure])
        desk.clock.run_for(12_000)
        expect(bar).to_have_text(re.compile(r"^No answer since \S+ \(1\d s\)\. Figures are old\.$"))
        last, age = as_of.inner_text(), oldest.inner_text()
        desk.clock.run_for(10_000)
        time = last.removeprefix("(as of ").split()[0]
        expect(bar).to_have_text(re.compile(rf"^No answer since {time} \(2\d s\)\."))
        expect(oldest).to_have_text(age)
        expect(as_of).to_have_text(last)
        expect(desk).to_have_title(re.compile(r"^\(\?\) Backend"))
        expect(desk.locator("[data-cards]")).to_have_css("opacity", "0.5")
        expect(pill).to_have_css("background-color", GREY)
        expect(desk.locator("[data-announce]")).to_contain_text("Figures are old.")

        desk.unroute(f"**{ROOT}outboxdashboard/**")
        desk.evaluate("window.dispatchEvent(new Event('online'))")
        expect(bar).to_be_hidden()
        expect(desk).to_have_title(re.compile(r"^\(1!\) Backend"))
        expect(as_of).not_to_have_text(last)
        expect(pill).to_have_css("background-color", AMBER)


def test_updates_can_be_paused(desk: Page, site: str) -> None:
    """While updates are paused, the page changes nothing and sends no request."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    pause = desk.get_by_role("button", name="Pause updates")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    OutboxEvent.objects.filter(publisher_backend="invoices").delete()
    asked: list[str] = []
    desk.on("request", lambda request: asked.append(request.url))
    desk.wait_for_timeout(2500)  # longer than between two polls
    assert asked == []
    expect(figure(desk, "invoices", "backlog")).to_have_text("1,234")
    pause.click()
    expect(figure(desk, "invoices", "backlog")).to_have_text("0")


def test_pause_and_resume(desk: Page, site: str) -> None:
    """Each asks for confirmation; going back changes nothing; both are in the history."""
    scenes.busy_shop()
    visit(desk, site, addresses()["overview"])
    desk.get_by_role("link", name="Pause default").click()
    arrive(desk, "/pause/")
    desk.get_by_role("link", name="Cancel").click()
    arrive(desk, "/change/")
    assert not OutboxBackendState.objects.filter(paused_at__isnull=False).exists()
    desk.get_by_role("link", name="Pause default").click()
    desk.get_by_label("Reason").fill("the broker moves")
    desk.get_by_role("button", name="Pause default").click()
    expect(desk.locator(".messagelist")).to_contain_text("Backend default paused")
    expect(figure(desk, "default", "status")).to_have_text("paused")
    expect(figure(desk, "default", "reason")).to_contain_text("by ada: the broker moves")
    assert OutboxBackendState.objects.get().paused_at is not None
    desk.get_by_role("link", name="Resume default").click()
    arrive(desk, "/resume/")
    desk.get_by_role("button", name="Resume default").click()
    expect(figure(desk, "default", "status")).to_have_text("some failing")
    expect(desk.locator(".broadcaster-log li")).to_have_count(2)
    assert OutboxBackendState.objects.get().paused_at is None
    assert LogEntry.objects.filter(object_id="default").count() == 2


def test_everything_can_be_done_with_the_keyboard(desk: Page, site: str) -> None:
    """From the index to a paused backend, and to the range of the plots, without a mouse."""
    scenes.busy_shop()
    desk.goto(f"{site}/admin/")
    tab_to(desk, "Dashboard")
    desk.keyboard.press("Enter")
    expect(desk.locator("[data-freshness]")).to_have_text("Live")
    tab_to(desk, "6 h")
    desk.keyboard.press("Space")
    expect(desk.get_by_role("button", name="6 h")).to_have_attribute("aria-pressed", "true")
    desk.reload()
    expect(figure(desk, "invoices", "status")).to_have_text("broker unavailable")
    tab_to(desk, "Pause invoices")
    polled(desk, "state/")  # which must not take the focus away
    desk.keyboard.press("Enter")
    expect(desk.get_by_label("Reason")).to_be_visible()
    tab_to(desk, "Reason, shown to other operators (optional)")
    desk.keyboard.type("by hand")
    desk.keyboard.press("Enter")
    expect(figure(desk, "invoices", "status")).to_have_text("paused")
    assert OutboxBackendState.objects.get(backend="invoices").paused_by == "ada: by hand"


NAME = """() => {
    const node = document.activeElement;
    if (!node || node === document.body) return "";
    const label = node.labels && node.labels.length ? node.labels[0].textContent : "";
    return (node.getAttribute("aria-label") || label || node.value || node.textContent).trim();
}"""


def tab_to(desk: Page, name: str) -> None:
    """Press Tab until what has that name has the focus, where it can be seen."""
    for _ in range(60):
        desk.keyboard.press("Tab")
        if desk.evaluate(NAME) == name:
            return
    pytest.fail(f"{name!r} can't be reached with the Tab key")


def polled(desk: Page, path: str) -> None:
    """Wait until the page has asked that path twice: what came first is shown by then."""
    for _ in range(2):
        with desk.expect_response(lambda response: path in response.url):
            pass


@pytest.mark.parametrize(
    ("mode", "size"), [("light", DESK), ("dark", PHONE)], ids=["light, at a desk", "dark, a phone"]
)
def test_pages_are_accessible(examined: Page, site: str, mode: Any, size: Any) -> None:
    """axe-core finds nothing wrong with any page, and none is wider than the screen."""
    scenes.busy_shop()
    OutboxBackendState.objects.create(backend="default", paused_at=timezone.now(), paused_by="Ada")
    examined.emulate_media(color_scheme=mode)
    examined.set_viewport_size(size)
    found = {}
    for name, address in addresses().items():
        visit(examined, site, address)
        found[name] = violations(examined)
        width = examined.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"{name} is {width} pixels wide"
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_an_empty_outbox_has_a_page(examined: Page, site: str) -> None:
    """Before anything was published or a relay ran, the page says what is missing."""
    visit(examined, site, f"{ROOT}outboxdashboard/")
    expect(figure(examined, "default", "status")).to_have_text("no relay")
    expect(examined.locator('[data-none="relays"]')).to_be_visible()
    visit(examined, site, f"{ROOT}outboxdashboard/default/change/")
    expect(examined.locator('[data-none="keys"]')).to_be_visible()
    expect(examined.locator('[data-none="errors"]')).to_be_visible()
    assert violations(examined) == []


def test_a_hostile_outbox_is_text(desk: Page, site: str) -> None:
    """Markup in keys, errors and names of relays is shown, and not taken for markup."""
    attack = '<img src=x onerror="document.title=1"><b>'
    now = timezone.now()
    scenes.write(1, status=S.RETRY, partition_key=attack, last_error=attack).save()
    scenes.write(2, status=S.FAILED, last_error=attack).save()
    OutboxRelay.objects.create(
        name=attack,
        backend="default",
        started_at=now,
        heartbeat_at=now,
        circuit_open_since=now,
        circuit_error=attack,
    )
    visit(desk, site, f"{ROOT}outboxdashboard/default/change/")
    for name in ("keys", "errors", "relays"):
        expect(desk.locator(f'[data-table="{name}"]')).to_contain_text("<img src=x")
    assert desk.locator("#content-main img, #content-main b").count() == 0
