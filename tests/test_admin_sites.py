"""Admin sites of a project's own, with some of the models: pages work, and their links resolve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client, override_settings
from django.urls import Resolver404, path, resolve, reverse
from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxTaskRun, OutboxWebhookEndpoint
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.store import request_operation
from tests.support import task_runs
from tests.support.events import insert

pytestmark = pytest.mark.django_db

REGISTERED: dict[type[Model], Any] = {
    model: type(page)
    for model, page in admin.site._registry.items()
    if model._meta.app_label == "django_broadcaster"
}
BY_NAME = {model.__name__: model for model in REGISTERED}
OPERATION = next(model for name, model in BY_NAME.items() if name.endswith("Operation"))
CHOICES = [
    *((name,) for name in BY_NAME),
    *(tuple(name for name in BY_NAME if name != left_out) for left_out in BY_NAME),
]
"""Sites with one of the models, and with all but one."""


@pytest.fixture(params=CHOICES, ids=lambda names: "-".join(names))
def site(request: pytest.FixtureRequest, admin_client: Client) -> Iterator[admin.AdminSite]:
    """A site with those models, beside nothing else."""
    found = admin.AdminSite(name="ops")
    found.site_url = None
    for name in request.param:
        found.register(BY_NAME[name], REGISTERED[BY_NAME[name]])
    urls = ModuleType("urls_of_the_site")
    urls.urlpatterns = [path("ops/", found.urls)]  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=urls):
        yield found


def page_of(model: type[Model], name: str, *args: Any) -> str:
    """Return the address of a page of a model."""
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_{name}", args=args)


def links(page: str) -> set[str]:
    """Return the addresses that a page links to or asks, without those of files."""
    found = re.findall(r"""\s(?:href|action|data-[a-z]+)=["'](/[^"']*)["']""", page)
    return {unescape(each) for each in found if not each.startswith("/static/")}


def visited(client: Client, address: str, data: dict[str, Any] | None = None) -> str:
    """Return the text of a page, whose links all resolve."""
    answer = client.post(address, data) if data else client.get(address, follow=True)
    assert answer.status_code == 200, address
    text = answer.content.decode()
    for link in links(text):
        try:
            resolve(urlsplit(link).path)
        except Resolver404:
            pytest.fail(f"{address} links to {link}, which is not there")
    return text


def test_every_page_of_a_site_with_some_models(site: admin.AdminSite, admin_client: Client) -> None:
    """The index, lists, forms and pages of what is registered answer, and lead to what is there."""
    event = OutboxEvent(
        event_type="order.placed", source="/shop", event_id="1", publisher_backend="default"
    )
    event.partition, event.operation = 0, 1
    insert(event)
    operation = request_operation(
        OutboxEvent.objects.using("default"), "cancel", EventSelection(), by="root"
    )
    index = visited(admin_client, reverse("admin:index"))
    visited(admin_client, reverse("admin:app_list", args=["django_broadcaster"]))
    assert links(index)
    for model in site._registry:
        visited(admin_client, page_of(model, "changelist"))
    if site.is_registered(OutboxEvent):
        visited(admin_client, page_of(OutboxEvent, "change", event.pk))
        for move in ("retry", "cancel"):
            visited(admin_client, page_of(OutboxEvent, "move", event.pk, move))
    if site.is_registered(OutboxTaskRun):
        run = task_runs.record("1", "failed")
        visited(admin_client, page_of(OutboxTaskRun, "changelist"))
        visited(admin_client, page_of(OutboxTaskRun, "change", run.pk))
    if site.is_registered(OutboxWebhookEndpoint):
        for action in ("enable", "enable_and_retry"):
            endpoint = OutboxWebhookEndpoint.objects.create(backend="default", url="https://a.test")
            visited(admin_client, page_of(OutboxWebhookEndpoint, "change", endpoint.pk))
            page = page_of(OutboxWebhookEndpoint, "enable", endpoint.pk, action)
            visited(admin_client, page)
            assert admin_client.post(page, follow=True).status_code == 200
    if site.is_registered(OPERATION):
        visited(admin_client, page_of(OPERATION, "change", operation.pk))
        form = {"kind": "cancel", "everything": "on"}
        confirmation = visited(admin_client, page_of(OPERATION, "add"), form)
        assert 'name="confirm"' in confirmation
    dashboard = BY_NAME[next(name for name in BY_NAME if name.endswith("Dashboard"))]
    if site.is_registered(dashboard):
        for page in ("change", "pause", "resume"):
            visited(admin_client, page_of(dashboard, page, "default"))


def test_action_without_its_page_is_not_offered(
    site: admin.AdminSite, admin_client: Client
) -> None:
    """What leads to the form of an operation is offered where the site has that form."""
    if not site.is_registered(OutboxEvent):
        pytest.skip("this site has no outbox")
    event = OutboxEvent(event_type="a", source="/s", event_id="1", publisher_backend="default")
    event.partition, event.created_at = 0, timezone.now()
    insert(event)
    page = visited(admin_client, page_of(OutboxEvent, "changelist"))
    assert ('value="in_background"' in page) is site.is_registered(OPERATION)
