"""Consumers in the dashboard and the admin, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from . import scenes

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

SIZES: Any = {"desk": {"width": 1180, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(autouse=True)
def configured(settings: Settings) -> None:
    """Four consumers, one of them without a receiver."""
    settings.OUTBOX_PUBLISHERS = {
        **settings.OUTBOX_PUBLISHERS,
        "handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
    }
    settings.OUTBOX_CONSUMERS = scenes.CONSUMERS


def test_the_dashboard_shows_consumers_the_worst_first(desk: Page, site: str) -> None:
    """A row each, with its lag and why it needs attention; the tab's title counts them."""
    scenes.receivers()
    desk.goto(f"{site}/admin/django_broadcaster/outboxdashboard/")
    rows = desk.locator("[data-table=consumers] tbody tr")
    expect(rows).to_have_count(4)
    texts = rows.all_inner_texts()
    assert [text.split()[0] for text in texts] == ["archive", "partner", "payments", "orders"]
    assert "no receiver" in texts[0]
    assert "connection refused" in texts[1]
    assert "2 messages became dead letters" in texts[2]
    assert "312" in texts[3]
    expect(desk.locator("[data-consumers-attention]")).to_contain_text("3 of 4 consumers need")


def test_a_backend_of_its_own_page_has_no_consumers(desk: Page, site: str) -> None:
    """They are on the overview."""
    desk.goto(f"{site}/admin/django_broadcaster/outboxdashboard/default/change/")
    expect(desk.locator("[data-freshness]")).to_have_text("Live")
    expect(desk.locator("[data-table=consumers]")).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_pages_of_consumers_can_be_looked_at(
    desk: Page, site: str, tmp_path: Path, size: str, mode: Any
) -> None:
    """The dashboard and the list of receivers fit into the page."""
    folder = Path(os.environ.get("BROADCASTER_PICTURES_OF_CONSUMERS") or tmp_path)
    scenes.busy_shop()
    scenes.receivers()
    desk.set_viewport_size(SIZES[size])
    desk.emulate_media(color_scheme=mode)
    for name, path in (("dashboard", "outboxdashboard/"), ("receivers", "outboxreceiver/")):
        desk.goto(f"{site}/admin/django_broadcaster/{path}")
        if name == "dashboard":
            expect(desk.locator("[data-table=consumers] tbody tr")).to_have_count(4)
            frame = "document.querySelector('[data-table=consumers]').parentElement"
            hidden = desk.evaluate(f"{frame}.scrollWidth - {frame}.clientWidth")
            assert size == "phone" or hidden == 0  # the reason can be read without scrolling
        width = desk.evaluate("document.documentElement.scrollWidth")
        assert name == "receivers" or width <= SIZES[size]["width"]
        desk.screenshot(path=folder / f"{name}-{size}-{mode}.png", full_page=True)
