"""The helpers in a project of its own: with every kind of test case, and in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = [{app!r}]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
OUTBOX_PUBLISHERS = {{"default": {{"BACKEND": "django_broadcaster.backends.LocalBackend"}}}}
ROOT_URLCONF = "views"
USE_TZ = True
"""

VIEWS = """
from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

from django_broadcaster.publishers import publisher


@transaction.atomic
def place():
    publisher.publish_event("order.placed", "/shop", subject="1")


async def order(request):
    await sync_to_async(place)()
    await publisher.apublish_event("order.viewed", "/shop")
    return HttpResponse("ok")


urlpatterns = [path("order/", order)]
"""

TESTS = """
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.test import TestCase, TransactionTestCase
from django.utils import timezone
from views import place

from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.testing import assert_published, capture_events, drain, outbox_clock

calls = []


@event_registry.register("order.placed")
async def confirm(event):
    calls.append(event.event_type)
    await publisher.apublish_event("order.confirmed", "/shop", subject=event.subject)


class Checks:
    def setUp(self):
        calls.clear()

    def test_events_are_captured_and_delivered(self):
        with capture_events() as events, transaction.atomic():
            place()
            assert_published("order.placed", events=events, count=1)
        drain()
        assert_published("order.placed", subject=1, status="published")
        assert_published("order.confirmed", subject=1, status="published")
        assert calls == ["order.placed"]

    def test_time_moves(self):
        with outbox_clock() as clock:
            later = timezone.now() + timedelta(days=1)
            publisher.publish_event("order.placed", "/shop", scheduled_at=later)
            assert drain() == []
            clock.advance(days=1)
            assert len(drain()) == 2

    async def test_async_view(self):
        with capture_events() as events:
            await self.async_client.get("/order/")
        assert_published("order.placed", events=events)
        assert_published("order.viewed", events=events)
        await sync_to_async(drain)()
        await sync_to_async(assert_published)("order.confirmed", count=1)


class InTestCase(Checks, TestCase):
    pass


class InTransactionTestCase(Checks, TransactionTestCase):
    pass


@pytest.mark.django_db
def test_fixtures(published_events, drain, outbox_clock):
    later = timezone.now() + timedelta(days=1)
    publisher.publish_event("order.placed", "/shop", scheduled_at=later)
    assert drain() == []
    outbox_clock.advance(days=1)
    drain()
    assert [event.event_type for event in published_events] == ["order.placed", "order.confirmed"]


@pytest.mark.django_db(transaction=True)
def test_fixtures_with_commits(published_events, drain):
    place()
    drain()
    assert [event.event_type for event in published_events] == ["order.placed", "order.confirmed"]
"""


PYTEST = ("pytest", "-p", "no:cacheprovider")


def run(
    folder: Path,
    tests: str,
    *arguments: str,
    app: str = "django_broadcaster",
    runner: Sequence[str] = PYTEST,
) -> str:
    """Write a project and run its tests; return the status and the output."""
    (folder / "settings.py").write_text(SETTINGS.format(app=app))
    (folder / "views.py").write_text(VIEWS)
    (folder / "test_project.py").write_text(dedent(tests))
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "DJANGO_", "BROADCASTER_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", *runner, *arguments],
        cwd=folder,
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return f"exit status {done.returncode}\n{done.stdout}"


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_helpers_work_in_every_kind_of_test(tmp_path: Path, processes: tuple[str, ...]) -> None:
    """In TestCase, TransactionTestCase, async tests and pytest's functions, also with xdist."""
    said = run(tmp_path, TESTS, "--ds", "settings", *processes)
    assert "exit status 0" in said, said
    assert "8 passed" in said


def test_helpers_work_with_djangos_own_runner(tmp_path: Path) -> None:
    """In test cases that `manage.py test --parallel` divides among processes."""
    said = run(tmp_path, TESTS, "--settings", "settings", runner=("django", "test", "--parallel=2"))
    assert "exit status 0" in said, said
    assert "Ran 6 tests" in said


def test_plugin_does_not_import_django(tmp_path: Path) -> None:
    """In a project without Django the plugin imports nothing of it."""
    said = run(
        tmp_path,
        """
        import sys


        def test_django_is_not_imported():
            assert "django_broadcaster.testing.pytest_plugin" in sys.modules
            assert [name for name in sys.modules if name.split(".")[0] == "django"] == []
        """,
        "-p",
        "no:django",
    )
    assert "1 passed" in said, said


@pytest.mark.parametrize("arguments", [("--ds", "settings"), ("-p", "no:django")], ids=repr)
def test_plugin_does_nothing_without_the_app(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """If the app is not installed, tests run as before; a fixture says what is missing."""
    said = run(
        tmp_path,
        """
        def test_anything():
            assert True


        def test_drain(drain):
            raise RuntimeError("never")


        def test_events(published_events):
            raise RuntimeError("never")
        """,
        *arguments,
        app="django.contrib.contenttypes",
    )
    assert "1 passed, 2 errors" in said, said
    for name in ("drain", "published_events"):
        assert f"The fixture '{name}' needs Django to be set up, with 'django_broadcaster'" in said
    assert "RuntimeError" not in said


def test_projects_own_fixture_takes_precedence(tmp_path: Path) -> None:
    """A project may have fixtures of the same names."""
    said = run(
        tmp_path,
        """
        import pytest


        @pytest.fixture
        def drain():
            return "mine"


        def test_drain(drain):
            assert drain == "mine"
        """,
        "-p",
        "no:django",
    )
    assert "1 passed" in said, said
