"""The pictures of the docs: `BROADCASTER_PICTURES=docs/_static/dashboard` makes them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from django_broadcaster.models import OutboxEvent
from tests.support.docs_runner import ROOT

from . import scenes

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "how-to" / "dashboard.md"
DESK: Any = {"width": 1180, "height": 900}
PHONE: Any = {"width": 390, "height": 844}


def test_the_pictures_of_the_docs_can_be_made(
    desk: Page, site: str, tmp_path: Path, settings: Settings
) -> None:
    """Each picture that the page of the docs shows is one of a page that is there."""
    folder = Path(os.environ.get("BROADCASTER_PICTURES") or tmp_path)
    settings.TIME_ZONE = "UTC"
    settings.OUTBOX_CONSUMERS = scenes.CONSUMERS
    scenes.busy_shop()
    scenes.receivers()
    head = OutboxEvent.objects.get(status="retry", partition_key="customer-17").pk
    root = f"{site}/admin/django_broadcaster/"
    views: list[tuple[str, str, str, Any]] = [
        ("overview", f"{root}outboxdashboard/", "light", DESK),
        ("backend", f"{root}outboxdashboard/default/change/", "dark", DESK),
        ("event", f"{root}outboxevent/{head}/change/", "light", DESK),
        ("phone", f"{root}outboxdashboard/invoices/change/", "light", PHONE),
    ]
    for name, address, mode, size in views:
        desk.set_viewport_size(size)
        desk.emulate_media(color_scheme=mode)  # type: ignore[arg-type]  # a Literal there
        desk.goto(address)
        if name != "event":
            expect(desk.locator("[data-freshness]")).to_have_text("Live")
            expect(desk.locator("[data-plot] canvas")).to_have_count(4)
        picture = folder / f"{name}.png"
        whole = name in ("overview", "backend")
        desk.screenshot(path=picture, full_page=whole)
        assert 10_000 < picture.stat().st_size < 250_000
    shown = re.findall(r"\(\.\./_static/dashboard/(\w+)\.png\)", PAGE.read_text())
    assert set(shown) == {name for name, *_ in views}
    assert all((ROOT / "docs" / "_static" / "dashboard" / f"{name}.png").exists() for name in shown)
