"""A real browser, Debian's Chromium, driven by Playwright, and the site that it looks at.

https://playwright.dev/python/docs/api/class-browsertype#browser-type-launch
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.http import HttpRequest, HttpResponseBase
from django.test.testcases import LiveServerThread
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.redis_server import missing
from tools import launch

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect.set_options(timeout=15_000)  # milliseconds; a machine may be busy

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def chromium() -> str:
    """Return the program, which is installed if it may be; skips, or in CI fails, without it."""
    if shutil.which("chromium") is None:
        try:
            launch.apt_install(["chromium"])
        except launch.CannotStart as error:
            return missing(f"the program chromium: {error}")
    found = shutil.which("chromium")
    return found or missing("the program chromium: it is not on the PATH")


def strict_csp(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Return a middleware that forbids all that a strict project forbids its pages."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["Content-Security-Policy"] = STRICT
        return response

    return middleware


@contextmanager
def serving() -> Iterator[str]:
    """Serve the project with its static files for the time of the block; gives the address."""
    thread: Any = LiveServerThread("127.0.0.1", StaticFilesHandler)
    thread.daemon = True
    thread.start()
    thread.is_ready.wait()
    try:
        if thread.error:
            raise thread.error
        yield f"http://127.0.0.1:{thread.port}"
    finally:
        thread.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module; no others may run in its event loop."""
    program = chromium()
    with pytest.MonkeyPatch.context() as patch:
        # Playwright runs an event loop in this thread, in which Django refuses the database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with sync_playwright() as playwright:
            launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
            with closing(launched):
                yield launched


@contextmanager
def opened(browser: Browser, allowed: str | None = None, **options: Any) -> Iterator[Page]:
    """Give a page of its own profile: no script of it may fail, and it may break no rule.

    Console messages that begin with `allowed` are expected.
    """
    defaults = {"locale": "en-GB", "timezone_id": "UTC", "reduced_motion": "reduce"}
    context = browser.new_context(**{**defaults, **options})
    context.set_default_timeout(15_000)
    context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    new = context.new_page()
    complaints: list[str] = []
    new.on("pageerror", lambda error: complaints.append(str(error)))
    new.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    yield new
    context.close()
    wrong = [text for text in complaints if allowed is None or not text.startswith(allowed)]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page to look at what the site serves."""
    with opened(browser) as new:
        yield new
