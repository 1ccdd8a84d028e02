"""Every page in the admin's theme: light and dark, on a desk and on a phone.

`BROADCASTER_ADMIN_THEME=unfold` (or `jazzmin`) puts that theme before the admin. Then this file
looks at it instead of Django's own (`nox -s themes`). `BROADCASTER_PICTURES` keeps the pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxWebhookEndpoint
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import request_operation
from tests.support.browser import opened, serving
from tests.support.registered import only_handlers

from . import scenes
from .conftest import logged_in

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

THEME = os.environ.get("BROADCASTER_ADMIN_THEME", "django")
ROOT = "/admin/django_broadcaster/"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
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
    pages = {
        "index": "/admin/",
        "app": ROOT,
        "events": f"{ROOT}outboxevent/",
        "failed-events": f"{ROOT}outboxevent/?status__exact=failed",
        "dead-letter": f"{ROOT}outboxevent/{events.filter(status=S.FAILED).first().pk}/change/",
        "blocked-event": f"{ROOT}outboxevent/{events.filter(status=S.BLOCKED).first().pk}/change/",
        "retry": f"{ROOT}outboxevent/{events.filter(status=S.FAILED).first().pk}/retry/",
        "replay": f"{ROOT}outboxevent/{events.filter(status=S.PUBLISHED).first().pk}/replay/",
        "dashboard": f"{ROOT}outboxdashboard/",
        "backend": f"{ROOT}outboxdashboard/default/change/",
        "pause": f"{ROOT}outboxdashboard/default/pause/",
        "operations": f"{ROOT}outboxoperation/",
        "operation": f"{ROOT}outboxoperation/{operation.pk}/change/",
        "operation-form": f"{ROOT}outboxoperation/add/",
        "relays": f"{ROOT}outboxrelay/",
        "inbox": f"{ROOT}inboxevent/",
        "endpoints": f"{ROOT}outboxwebhookendpoint/",
        "endpoint": f"{ROOT}outboxwebhookendpoint/{endpoint.pk}/change/",
    }
    with only_handlers({"shop.mail.send_confirmation": print, "shop.stock.reserve": print}):
        yield pages


@pytest.mark.parametrize(("mode", "size"), LOOKS, ids=["light", "dark", "phone", "phone-dark"])
def test_look(
    browser: Browser, site: str, operator: User, shop: dict[str, str], mode: str, size: Any,
    request: pytest.FixtureRequest, tmp_path: Path,
) -> None:
    folder = Path(os.environ.get("BROADCASTER_PICTURES") or tmp_path)
    with opened(browser, viewport=size, color_scheme=mode) as page:
        logged_in(page, site, operator)
        for name, address in shop.items():
            page.goto(site + address)
            if page.locator("[data-broadcaster]").count():
                expect(page.locator("[data-freshness]")).to_have_text("Live")
            page.screenshot(path=folder / f"{THEME}-{request.node.callspec.id}-{name}.png", full_page=True)
        page.goto(site + shop["operation-form"])
        page.get_by_label("Replay").check(force=True)
        page.get_by_label("All eligible events").check(force=True)
        page.get_by_role("button", name="Preview").click()
        page.wait_for_load_state()
        page.screenshot(path=folder / f"{THEME}-{request.node.callspec.id}-confirm.png", full_page=True)
