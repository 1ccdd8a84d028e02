"""A process that gevent has patched: what can't work there is refused with a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_broadcaster"],
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    OUTBOX_PUBLISHERS={
        "default": {
            "BACKEND": "django_broadcaster.backends.%s",
            "OPTIONS": %s,
        }
    },
)
django.setup()
from django.core.management import call_command
from django.core.management.base import CommandError
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.publishers import publisher
%s
call_command("migrate", verbosity=0)
publisher.publish_event("order.placed", "/tests")
try:
    call_command("outbox_worker", max_iterations=1)
except CommandError as error:
    print("worker:", error)
try:
    publisher.process_pending_events()
    print("delivered")
except BackendConfigurationError as error:
    print("visitor:", error)
"""


ASYNC = """
import functools
from asgiref.sync import async_to_sync
from django_broadcaster.registry import event_registry
async def work(event):
    pass
@functools.wraps(work)
def wrapped(event):
    return async_to_sync(work)(event)
"""


def run(backend: str, options: str = "{}", preparation: str = "") -> str:
    """Deliver in a process that gevent has patched; return what it said."""
    pytest.importorskip("gevent")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT % (backend, options, preparation)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("WebhookBackend", '{"url": "https://host.example/"}'),
        ("NATSBackend", '{"stream": "EVENTS"}'),
    ],
)
def test_a_backend_with_an_event_loop_is_refused(backend: str, options: str) -> None:
    """The worker and `process_pending_events` say why before anything is sent."""
    said = run(backend, options)
    for who in ("worker", "visitor"):
        assert f"{who}: OUTBOX_PUBLISHERS['default']: {backend} runs an asyncio event loop" in said
    assert "gevent has patched threads" in said


@pytest.mark.parametrize("handler", ["async_to_sync(work)", "wrapped"])
def test_an_async_handler_is_refused(handler: str) -> None:
    """Its event loop would be the one of all threads as well; the sentence names the handler."""
    said = run("LocalBackend", preparation=f"{ASYNC}event_registry.register()({handler})")
    for who in ("worker", "visitor"):
        assert (
            f"{who}: OUTBOX_PUBLISHERS['default']: async handler '__main__.work' runs an asyncio "
            "event loop, which does not work where gevent has patched threads" in said
        )


@pytest.mark.parametrize("backend", ["DummyBackend", "LocalBackend"])
def test_what_has_no_event_loop_delivers(backend: str) -> None:
    """Others work as ever."""
    handler = f"{ASYNC}event_registry.register()(print)"
    assert "delivered" in run(backend, preparation=handler)


def test_async_handlers_of_another_process_are_allowed() -> None:
    """A relay that runs no handlers may know some that are async."""
    handler = f"{ASYNC}event_registry.register()(async_to_sync(work))"
    routes = 'settings.OUTBOX_ROUTES = {"*": ["default"]}'
    assert "delivered" in run("DummyBackend", preparation=f"{handler}\n{routes}")
