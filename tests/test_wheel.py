"""The built wheel, as somebody gets it who installs it without any extra."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from tempfile import gettempdir

import pytest

from tools.project_links import VARIABLE, readme, repository_of, urls, web_address

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "django_broadcaster"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NEEDS_MORE = {
    "django_broadcaster.celery_app": "celery",
    "django_broadcaster.instrumentation.opentelemetry": "opentelemetry",
    "django_broadcaster.instrumentation.prometheus": "prometheus_client",
    "django_broadcaster.sphinx": "docutils",
    "django_broadcaster.testing.consumer_contract": "pytest",
    "django_broadcaster.testing.consumer_faults": "pytest",
    "django_broadcaster.testing.contract": "pytest",
    "django_broadcaster.testing.fault_tests": "pytest",
    "django_broadcaster.testing.faults": "pytest",
    "django_broadcaster.testing.pytest_plugin": "pytest",
    "django_broadcaster.store.psycopg3": "psycopg",
}
if sys.version_info < (3, 12):  # the newest Django for it has no tasks
    tasks = ("backend", "checks", "entry", "results", "runner", "runs", "task_events")
    NEEDS_MORE |= {
        "django_broadcaster.admin.task_runs": "django.tasks",
        **{f"django_broadcaster.tasks.{name}": "django.tasks" for name in tasks},
    }

HANDLERS = """
from django_broadcaster.registry import event_registry

@event_registry.register("order.*")
def announce(event):
    print("handled", event.type, event.data["order"])
"""

PUBLISH = """
from django.db import transaction
from django_broadcaster.publishers import publisher

with transaction.atomic():
    publisher.publish_event("order.placed", "/shop", {"order": 1}, partition_key="1")
try:
    with transaction.atomic():
        publisher.publish_event("order.placed", "/shop", {"order": 2})
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
"""

IMPORT_ALL = """
import importlib, json, pkgutil, django
django.setup()
import django_broadcaster
failed = {}
for module in pkgutil.walk_packages(django_broadcaster.__path__, "django_broadcaster."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a bare environment with the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("bare")
    _run([sys.executable, "-m", "venv", str(folder)])
    found = str(next(folder.glob("*/python")))
    _run([found, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", str(wheel)])
    return found


@pytest.fixture(scope="module")
def project(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Django project on SQLite with a handler, migrated."""
    folder = tmp_path_factory.mktemp("project")
    _run([python, "-m", "django", "startproject", "mysite", str(folder)])
    _run([python, "manage.py", "startapp", "shop"], folder)
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write('\nINSTALLED_APPS += ["django_broadcaster", "shop"]\n')
    (folder / "shop" / "event_handlers.py").write_text(HANDLERS)
    _run([python, "manage.py", "migrate"], folder)
    return folder


def _metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(archive.read(name))


def test_the_wheel_says_where_the_project_is(wheel: Path) -> None:
    """It has project URLs, none of them a placeholder, and the README's links work on PyPI."""
    metadata = _metadata(wheel)
    urls = metadata.get_all("Project-URL", [])
    assert urls
    assert all(re.fullmatch(r"[A-Z][a-z]+, https://[\w./-]+", url) for url in urls), urls
    page = str(metadata.get_payload())
    assert page.startswith("# django-broadcaster")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", page) == []


@pytest.mark.parametrize(
    ("remote", "repository"),
    [
        ("https://example.com/shop/broadcaster.git", "https://example.com/shop/broadcaster"),
        ("https://me:secret@example.com/shop/broadcaster", "https://example.com/shop/broadcaster"),
        ("ssh://git@example.com:22/shop/broadcaster", "https://example.com/shop/broadcaster"),
        ("git@example.com:shop/broadcaster.git", "https://example.com/shop/broadcaster"),
        ("/home/me/broadcaster", None),
        ("file:///home/me/broadcaster", None),
        ("", None),
    ],
)
def test_the_address_of_the_repository_is_that_of_its_remote(
    remote: str, repository: str | None
) -> None:
    """A browser's address, without a password; a folder of a machine is none."""
    assert web_address(remote) == repository


def test_links_of_the_readme_lead_into_the_repository() -> None:
    """They name the version, so that the page on PyPI stays what it was; or are text alone."""
    text = "[Guide](docs/a.md), [part](#part), [Django](https://example.com), `[a](b)`"
    assert readme(text, "https://example.com/b", "1.2") == (
        "[Guide](https://example.com/b/blob/v1.2/docs/a.md), [part](#part), "
        "[Django](https://example.com), `[a](https://example.com/b/blob/v1.2/b)`"
    )
    assert readme(text, None, "1.2").startswith("Guide, [part](#part), [Django](https")


def test_a_build_knows_the_address_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable goes before the remote, and a source distribution has it in its metadata."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert repository_of(tmp_path) is None
    (tmp_path / "PKG-INFO").write_text("Name: a\nProject-URL: Repository, https://example.com/s\n")
    assert repository_of(tmp_path) == "https://example.com/s"
    _run(["git", "init", "--quiet", str(tmp_path)])
    _run(["git", "-C", str(tmp_path), "remote", "add", "origin", "git@example.com:o/r.git"])
    assert repository_of(tmp_path) == "https://example.com/o/r"
    monkeypatch.setenv(VARIABLE, "https://example.com/v")
    assert repository_of(tmp_path) == "https://example.com/v"
    assert urls("https://example.com/v")["Repository"] == "https://example.com/v"


def test_the_wheel_has_everything_and_no_more(wheel: Path) -> None:
    """Each file of the package is in it (types, migrations, templates, styles), and no test is."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert {
        "django_broadcaster/py.typed",
        "django_broadcaster/migrations/0001_outbox.py",
        "django_broadcaster/static/django_broadcaster/admin.css",
    } <= packed


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-event.md"])
def test_a_newcomer_installs_the_repository(page: str, tmp_path: Path) -> None:
    """The command of a page brings what is committed here, at a version that extras accept."""
    found = re.search(r'^\$ pip install "(.*git\+.*)"', (ROOT / page).read_text(), re.MULTILINE)
    assert found
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository's history")
    requirement = found[1].replace("https://<repository>", ROOT.as_uri())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--no-deps", "--target", str(tmp_path), requirement])
    (folder,) = tmp_path.glob("django_broadcaster-*.dist-info")
    version = re.search(r"^Version: (\d+)\.", (folder / "METADATA").read_text(), re.MULTILINE)
    assert version
    assert int(version[1]) >= 1


def test_no_broker_client_comes_with_it(python: str) -> None:
    """Without extras, what is installed is Django, the dependencies, and nothing for a broker."""
    listed = json.loads(_run([python, "-m", "pip", "list", "--format", "json"]))
    names = {each["name"].lower() for each in listed}
    assert {"django", "django-broadcaster"} <= names
    assert names & {"redis", "hiredis", "confluent-kafka", "pytest", "cloudevents"} == set()


def test_every_module_can_be_imported(python: str, project: Path) -> None:
    """No module needs what an extra brings, but for those that are there for it."""
    failed = json.loads(_run([python, "-c", IMPORT_ALL], project))
    assert set(failed) == set(NEEDS_MORE)
    assert [name for name, error in failed.items() if NEEDS_MORE[name] not in error] == []


def test_missing_client_names_the_extra(python: str, project: Path) -> None:
    """A Redis backend without redis-py says what to install."""
    code = """
import django
django.setup()
from django_broadcaster.backends import RedisStreamBackend
from django_broadcaster.exceptions import MissingClient
try:
    RedisStreamBackend(alias="default").open()
except MissingClient as error:
    print(error)
"""
    assert "django-broadcaster[redis]" in _run([python, "-c", code], project)


def test_it_migrates_publishes_and_delivers(python: str, project: Path) -> None:
    """The local backend delivers what was committed; nothing is left, nothing is to migrate."""
    _run([python, "manage.py", "makemigrations", "--check", "--dry-run"], project)
    _run([python, "manage.py", "shell", "-c", PUBLISH], project)
    assert _run([python, "manage.py", "outbox_worker", "--drain"], project) == (
        "handled order.placed 1\n"
    )
    count = "from django_broadcaster.models import OutboxEvent as E; print(E.objects.count())"
    assert _run([python, "manage.py", "shell", "--verbosity", "0", "-c", count], project) == "1\n"
    assert _run([python, "manage.py", "outbox_worker", "--drain"], project) == ""


def _run(command: list[str], folder: Path | None = None) -> str:
    """Run a command away from the repository, with nothing of this process's environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "DJANGO_", "PYTHON", "BROADCASTER_"))
    }
    done = subprocess.run(
        command,
        cwd=folder or gettempdir(),
        env={**kept, **({"DJANGO_SETTINGS_MODULE": "mysite.settings"} if folder else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
