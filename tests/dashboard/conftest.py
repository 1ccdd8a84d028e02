"""An outbox with some of everything, and a browser that is logged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, Page

from tests.support.browser import browser, opened, page, serving

if TYPE_CHECKING:
    from pytest_django import Settings

__all__ = ["browser", "page"]

LOCAL = "django_broadcaster.backends.LocalBackend"
BACKENDS = {"default": {"BACKEND": LOCAL}, "invoices": {"BACKEND": LOCAL}}


@pytest.fixture
def two_backends(settings: Settings) -> None:
    """Two backends, so that one of them can be in trouble."""
    settings.OUTBOX_PUBLISHERS = BACKENDS
    settings.OUTBOX_LEASE_SECONDS = 120  # the heartbeats of a scene count for as long as it takes


@pytest.fixture
def site(committing: None, settings: Settings, two_backends: None) -> Iterator[str]:
    """The project's address, served with a strict Content-Security-Policy."""
    settings.MIDDLEWARE = ["tests.support.browser.strict_csp", *django_settings.MIDDLEWARE]
    settings.ALLOWED_HOSTS = ["*"]
    with serving() as address:
        yield address


@pytest.fixture
def operator(committing: None) -> Iterator[User]:
    """A superuser, who is gone after the test."""
    user = User.objects.create_superuser("ada", password="ada")
    yield user
    User.objects.filter(pk=user.pk).delete()


@pytest.fixture
def desk(page: Page, site: str, operator: User) -> Page:
    """A page on which the operator is logged in."""
    return logged_in(page, site, operator)


@pytest.fixture
def examined(browser: Browser, site: str, operator: User) -> Iterator[Page]:
    """The same, into which axe-core may put what the site would forbid."""
    with opened(browser, bypass_csp=True) as new:
        yield logged_in(new, site, operator)


def logged_in(new: Page, site: str, user: User) -> Page:
    """Let a user be logged in on a page."""
    client = Client()
    client.force_login(user)
    cookie: Any = client.cookies["sessionid"]
    new.context.add_cookies([{"name": "sessionid", "value": cookie.value, "url": site}])
    return new
