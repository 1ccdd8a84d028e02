"""Django's own tests of task backends pass with the outbox in the place of Django's backends.

They are in Django's source distribution, which this test downloads for the Django that is
installed. Their `DummyBackend`, which stores tasks, becomes `StoringBackend`. Their
`ImmediateBackend`, which runs them at once, becomes `RunningBackend`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import django
import pytest

from tests.support.docs_runner import ROOT

pytestmark = [
    pytest.mark.newest,
    pytest.mark.skipif(django.VERSION < (6, 0), reason="django.tasks is there from Django 6.0 on"),
]

REPLACED: Final = {
    "dummy": ("test_dummy_backend.py", "test_tasks.py"),
    "immediate": ("test_immediate_backend.py",),
}

BACKENDS = """
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.tasks import OutboxTaskBackend


class StoringBackend(OutboxTaskBackend):
    '''What Django's tests use of DummyBackend beside the interface.'''

    @property
    def results(self):
        return [self.get_result(row.event_id) for row in OutboxEvent.objects.order_by("pk")]

    def clear(self):
        OutboxEvent.objects.all().delete()


class RunningBackend(StoringBackend):
    '''A relay has run the task before enqueue returns.'''

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        publisher.process_pending_events()
        result.refresh()
        return result
"""

SETTINGS = """
SECRET_KEY = "test"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django_broadcaster", "tasks"
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "database.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        "TEST": {"NAME": "test.sqlite3"},
    }
}
OUTBOX_MAX_RETRIES = 0
"""

NOT_PASSED: Final = {
    # Django's immediate backend supports neither; the outbox does.
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_get_result",
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_pass_run_after",
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_refresh_result",
    # They change the list in the memory of Django's dummy backend, and expect it in the result.
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result",
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result_async",
    # It expects that a task runs in the open transaction. Here it is enqueued by its commit.
    "test_immediate_backend.ImmediateBackendTransactionTestCase"
    ".test_doesnt_wait_until_transaction_commit_by_default",
    # It expects an error's text in the log, which leaves out what may hold a payload.
    "test_immediate_backend.ImmediateBackendTestCase.test_catches_exception",
}


def source_of_the_tests() -> Path:
    """Return the folder with the tests of Django's tasks, which is downloaded once."""
    name = f"django-{django.get_version()}"
    folder = ROOT / ".cache" / "django"
    found = folder / name / "tests" / "tasks"
    if not found.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        requirement = f"django=={django.get_version()}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "django", "--dest", str(folder), requirement]
        subprocess.run(command, check=True)
        with (
            tarfile.open(folder / f"{name}.tar.gz") as archive,
            TemporaryDirectory(dir=folder) as extracted,
        ):
            wanted = [each for each in archive if each.name.startswith(f"{name}/tests/tasks/")]
            archive.extractall(extracted, wanted, filter="data")
            (Path(extracted) / name).rename(folder / name)  # whole, or not at all
    return found


@pytest.mark.timeout(300)
def test_tests_of_django_pass_but_for_what_the_outbox_does_otherwise(tmp_path: Path) -> None:
    """Exactly the tests in `NOT_PASSED` fail, each for the reason that is given there."""
    package = tmp_path / "tasks"
    package.mkdir()
    for file in source_of_the_tests().glob("*.py"):
        text = file.read_text()
        for kind, files in REPLACED.items():
            if file.name in files:
                text = _with_the_outbox(text, kind)
        (package / file.name).write_text(text)
    (package / "outbox.py").write_text(BACKENDS)
    (tmp_path / "settings.py").write_text(SETTINGS)

    # Tests that are coroutines ask the backend's synchronous methods, too.
    given = {"DJANGO_SETTINGS_MODULE": "settings", "DJANGO_ALLOW_ASYNC_UNSAFE": "1"}
    environment = {**os.environ, **given, "PYTHONPATH": os.pathsep.join([".", str(ROOT / "src")])}
    run = subprocess.run(
        [sys.executable, "-m", "django", "test", "tasks"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    (count,) = re.findall(r"^Ran (\d+) tests", run.stderr, re.M)
    assert int(count) >= 70, run.stderr
    failed = set(re.findall(r"^(?:FAIL|ERROR): \w+ \(tasks\.([\w.]+)\)", run.stderr, re.M))
    assert failed == NOT_PASSED, run.stderr


def _with_the_outbox(text: str, kind: str) -> str:
    """Return Django's tests of a backend of its own, with the outbox instead of it."""
    name = f"{kind.title()}Backend"
    ours = {"dummy": "StoringBackend", "immediate": "RunningBackend"}[kind]
    text = text.replace(f"django.tasks.backends.{kind}.{name}", f"tasks.outbox.{ours}")
    text = text.replace(
        f"from django.tasks.backends.{kind} import {name}",
        f"from tasks.outbox import {ours} as {name}",
    )
    # The outbox is in a database.
    return text.replace("SimpleTestCase", "TransactionTestCase")
