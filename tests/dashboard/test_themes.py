"""Every page in the admin's theme: light and dark, on a desk and on a phone.

`BROADCASTER_ADMIN_THEME=unfold` (or `jazzmin`) puts that theme before the admin. Then this file
looks at it instead of Django's own (`nox -s themes`). `BROADCASTER_PICTURES` keeps the pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import request_operation
from tests.support import task_runs
from tests.support.browser import opened, serving
from tests.support.registered import only_handlers
from tests.typed_events import classes  # noqa: F401  # declares the events of the catalogue

from . import scenes
from .conftest import logged_in

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

THEME = os.environ.get("BROADCASTER_ADMIN_THEME", "django")
ROOT = "/admin/django_broadcaster/"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
RULES = {"runOnly": ["color-contrast"], "preload": False}
CRUMBS = "ol.breadcrumbs" if django.VERSION >= (6, 1) else "div.breadcrumbs"
BUTTONS = {
    "dead-letter": "Retry now…",
    "blocked-event": "Cancel event…",
    "retry": "Retry now",
    "pause": "Pause default",
    "operation": "Stop",
    "operation-form": "Preview",
    "confirmation": "Replay, in the background",
    "endpoint": "Enable and retry the dead letters…",
    "task-run": "Retry now…",
    "enable": "Enable and retry the dead letters",
}
"""The button of a page, by the page's name."""

# Return what reaches beyond the right edge of a page that is wider than the screen.
WIDER = """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
    [...document.querySelectorAll("body *")]
        .filter((node) => node.getBoundingClientRect().right > window.innerWidth + 1)
        .map((node) => node.outerHTML.slice(0, 150))"""

LOOKS = [("light", DESK), ("dark", DESK), ("light", PHONE), ("dark", PHONE)]


@pytest.fixture
def site(committing: None, settings: Settings, two_backends: None) -> Iterator[str]:
    """The project's address, without a policy that a theme would break."""
    settings.ALLOWED_HOSTS = ["*"]
    settings.TIME_ZONE = "UTC"
    with serving() as address:
        yield address


@pytest.fixture
def shop(committing: None) -> Iterator[dict[str, str]]:
    """Something of everything, and the page that shows it by its name."""
    scenes.busy_shop()
    now = timezone.now()
    OutboxWebhookEndpoint.objects.create(
        backend="default", url="https://shop.example/hooks/orders", identity="0123456789abcdef" * 4,
        failing_since=now, disabled_at=now, last_error="Rejected: answered 410 Gone",
    )  # fmt: skip
    InboxEvent.objects.create(handler="shop.mail.send", source="/shop/orders", event_id="1")
    events = OutboxEvent.objects.using("default")
    operation = request_operation(events, "cancel", EventSelection(status="failed"), by="ada")
    endpoint = OutboxWebhookEndpoint.objects.get()
    dead, blocked, delivered = (
        events.filter(status=each).earliest("pk").pk for each in (S.FAILED, S.BLOCKED, S.PUBLISHED)
    )
    pages = {
        "index": "/admin/",
        "app": ROOT,
        "events": f"{ROOT}outboxevent/",
        "failed-events": f"{ROOT}outboxevent/?status__exact=failed",
        "dead-letter": f"{ROOT}outboxevent/{dead}/change/",
        "blocked-event": f"{ROOT}outboxevent/{blocked}/change/",
        "retry": f"{ROOT}outboxevent/{dead}/retry/",
        "replay": f"{ROOT}outboxevent/{delivered}/replay/",
        "dashboard": f"{ROOT}outboxdashboard/",
        "backend": f"{ROOT}outboxdashboard/default/change/",
        "catalogue": f"{ROOT}outboxdashboard/catalogue/",
        "pause": f"{ROOT}outboxdashboard/default/pause/",
        "operations": f"{ROOT}outboxoperation/",
        "operation": f"{ROOT}outboxoperation/{operation.pk}/change/",
        "operation-form": f"{ROOT}outboxoperation/add/",
        "relays": f"{ROOT}outboxrelay/",
        "inbox": f"{ROOT}inboxevent/",
        "endpoints": f"{ROOT}outboxwebhookendpoint/",
        "endpoint": f"{ROOT}outboxwebhookendpoint/{endpoint.pk}/change/",
        "enable": f"{ROOT}outboxwebhookendpoint/{endpoint.pk}/enable_and_retry/",
    }
    if django.VERSION >= (6, 0):
        for number, status in enumerate((S.PUBLISHED, S.RETRY, S.FAILED)):
            run = task_runs.record(f"0192f3a4-{number}", status)
        pages |= {
            "task-runs": f"{ROOT}outboxtaskrun/",
            "task-run": f"{ROOT}outboxtaskrun/{run.pk}/change/",
        }
    with only_handlers({"shop.mail.send_confirmation": print, "shop.stock.reserve": print}):
        yield pages


@pytest.mark.parametrize(("mode", "size"), LOOKS, ids=["light", "dark", "phone", "phone-dark"])
def test_every_page_can_be_used(
    browser: Browser,
    site: str,
    operator: User,
    shop: dict[str, str],
    mode: Any,
    size: Any,
    tmp_path: Path,
) -> None:
    """Each page of ours has its title, breadcrumbs of the admin's own kind, and visible buttons.

    Nothing is wider than the page, and axe-core finds the texts legible.
    """
    folder = Path(os.environ.get("BROADCASTER_PICTURES") or tmp_path)
    options = {"viewport": size, "color_scheme": mode, "bypass_csp": True}
    with opened(browser, **options) as page:
        logged_in(page, site, operator)
        for name, address in shop.items():
            response = page.goto(site + address)
            assert response is not None
            assert response.status == 200, name
            if page.locator("[data-broadcaster]").count():
                expect(page.locator("[data-freshness]")).to_have_text("Live")
            look_at(page, name)
            page.screenshot(path=folder / f"{THEME}-{mode}-{size['width']}-{name}.png")
        page.goto(site + shop["operation-form"])
        page.get_by_label("Replay").check()
        page.get_by_label("All eligible events").check()
        page.get_by_role("button", name="Preview").click()
        expect(page.get_by_role("button", name="Replay, in the background")).to_be_visible()
        page.wait_for_load_state()  # the stylesheets, too
        look_at(page, "confirmation")
        page.screenshot(path=folder / f"{THEME}-{mode}-{size['width']}-confirmation.png")


def look_at(page: Page, name: str) -> None:
    """Check a page that is open."""
    assert page.evaluate(WIDER) == [], name
    buttons = page.locator("a.broadcaster-button:visible, button.broadcaster-button:visible")
    for button in buttons.all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 24, (name, button.inner_text())
        assert button.evaluate("node => getComputedStyle(node).borderTopStyle") == "solid", name
    if name in BUTTONS:
        expect(buttons.filter(has_text=BUTTONS[name])).to_have_count(1)
    if not page.locator(".broadcaster-main").count():
        return
    expect(page.locator(".broadcaster-main h1")).to_have_text(re.compile(r"\w"))
    if THEME == "django":
        expect(page.locator(CRUMBS)).to_be_visible()
    found = Axe().run(page, context=".broadcaster-main", options=RULES)
    assert not found.response["violations"], (name, found.generate_report())
