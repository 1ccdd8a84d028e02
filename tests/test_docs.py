"""The README and the pages of `docs/` say what is so: their examples run, and their links lead."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.core.management import load_command_class

from tests.support.docs_runner import ROOT, Block, Mistake, Project, blocks_of, copy_of, new_project

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "first-event.md"
GUARANTEES = ROOT / "docs" / "explanation" / "guarantees.md"
BROKER_TESTS = ROOT / "docs" / "explanation" / "broker-tests.md"
KAFKA = ROOT / "docs" / "how-to" / "backends" / "kafka.md"
PAGES = [
    README,
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in page.relative_to(ROOT).parts
    ),
]
# They begin with an empty folder, and make a project themselves where they need one.
FROM_NOTHING = {README, TUTORIAL}

INSTALLING = "installing is a test of its own, tests/test_wheel.py"
NOT_RUN = {
    ("docs/explanation/capacity.md", "tests/test_capacity.py runs it"),
    ("README.md", "the demo is a test of its own below"),
    ("README.md", "this is how the tests are run"),
    ("README.md", INSTALLING),
    ("docs/index.md", INSTALLING),
    ("docs/how-to/backends/aws.md", INSTALLING),
    ("docs/how-to/backends/celery.md", INSTALLING),
    ("docs/how-to/backends/celery.md", "the queue is the page's own"),
    (
        "docs/how-to/backends/debezium.md",
        "it needs PostgreSQL and Kafka Connect; a test of its own runs it",
    ),
    ("docs/how-to/backends/mqtt.md", INSTALLING),
    ("docs/how-to/backends/mqtt.md", "it needs a server with a certificate"),
    ("docs/how-to/backends/nats.md", INSTALLING),
    ("docs/how-to/backends/nats.md", "it needs a server with a certificate"),
    ("docs/how-to/backends/nats.md", "the tests have no command-line tool of NATS"),
    ("docs/how-to/backends/rabbitmq.md", INSTALLING),
    ("docs/how-to/backends/rabbitmq.md", "it needs a server with a certificate"),
    ("docs/how-to/backends/kafka.md", INSTALLING),
    ("docs/how-to/backends/redis-streams.md", INSTALLING),
    ("docs/how-to/backends/redis-streams.md", "it needs a server with a certificate"),
    ("docs/how-to/backends/redis-streams.md", "it needs sentinels"),
    ("docs/how-to/backends/redis-streams.md", "it needs a cluster"),
    ("docs/how-to/backends/webhook.md", INSTALLING),
    ("docs/how-to/consumers/kafka.md", INSTALLING),
    ("docs/how-to/consumers/mqtt.md", INSTALLING),
    ("docs/how-to/consumers/mqtt.md", "it needs the name of a pod"),
    ("docs/how-to/consumers/nats.md", INSTALLING),
    ("docs/how-to/consumers/nats.md", "the tests have no command-line tool of NATS"),
    ("docs/how-to/consumers/rabbitmq.md", INSTALLING),
    ("docs/how-to/consumers/redis-streams.md", INSTALLING),
    ("docs/how-to/consumers/sqs.md", INSTALLING),
    ("docs/how-to/deploy.md", "it needs Docker"),
    ("docs/how-to/deploy.md", "it needs a cluster"),
    ("docs/how-to/health.md", "no relay runs at this moment"),
    ("docs/how-to/monitor.md", INSTALLING),
    ("docs/how-to/opentelemetry.md", INSTALLING),
    ("docs/how-to/opentelemetry.md", "it needs a collector"),
    ("docs/how-to/periodic-events.md", INSTALLING),
    ("docs/how-to/retention.md", "it needs PostgreSQL; tests of their own run with it"),
    ("docs/how-to/run-the-relay.md", "needs PgBouncer; other tests run with it"),
    ("docs/how-to/run-the-relay.md", "needs PostgreSQL; other tests run with it"),
    ("docs/how-to/run-the-relay.md", "it needs psycopg's pool; tests of their own run with it"),
    ("docs/how-to/schema-registry.md", INSTALLING),
    ("docs/how-to/secure.md", INSTALLING),
    (
        "docs/how-to/upgrade-from-0.1.md",
        "it needs a database of 0.1.1; tests of their own run with it",
    ),
    ("docs/how-to/tenants.md", "it needs PostgreSQL and django-tenants"),
    ("docs/tutorial/first-event.md", INSTALLING),
    ("docs/tutorial/first-event.md", "the tests have a Redis of their own"),
}
"""The blocks that are shown and not run, by page and reason."""


NEEDS_DJANGO = {
    "docs/how-to/backends/tasks.md": (6, 0),
    "docs/how-to/django-tasks.md": (6, 0),
}
"""The pages on what older versions of Django have not."""


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project that most pages begin with."""
    return new_project(tmp_path_factory.mktemp("template"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_everything_that_a_page_shows_works(page: Path, template: Project, tmp_path: Path) -> None:
    """The examples of a page run in order, and print what the page says they print."""
    if NEEDS_DJANGO.get(_name(page), (0,)) > django.VERSION:
        pytest.skip("this page is for a newer Django")
    project = Project(tmp_path) if page in FROM_NOTHING else copy_of(template, tmp_path)
    try:
        for block in blocks_of(page):
            project.run(block)
    finally:
        project.close()


def test_what_is_not_run_is_known() -> None:
    """Every block that is only shown has its reason, and is in the list above."""
    shown = {
        (_name(block.page), block.not_run)
        for page in PAGES
        for block in blocks_of(page)
        if block.not_run
    }
    assert shown == NOT_RUN


COMMAND = re.compile(r"`(?:python manage\.py )?(outbox_\w+) ([^`\n]+)`")
"""A command within a sentence, with its arguments."""


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_within_a_sentence_have_their_options(page: Path) -> None:
    """They are not run, so their options are compared with those of the command."""
    for name, arguments in COMMAND.findall(page.read_text()):
        parser = load_command_class("django_broadcaster", name).create_parser("manage.py", name)
        known = {option for action in parser._actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= known, f"{name} {arguments}"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "assert 1 == 2\n"),
        ("pycon", ">>> 1 + 1\n3\n"),
        ("console", "$ echo one\ntwo\n"),
        ("console", "$ exit 3\n"),
        ("json", "{"),
        ("cobol", "STOP RUN."),
    ],
)
def test_a_wrong_example_is_found(
    language: str, text: str, template: Project, tmp_path: Path
) -> None:
    """An example that fails, or prints something else than the page says, is a mistake."""
    project = copy_of(template, tmp_path)
    try:
        with pytest.raises((Mistake, ValueError)):
            project.run(Block(README, 1, language, text))
    finally:
        project.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_prints_what_the_readme_says() -> None:
    """`make demo` ends with status 0 and the table that the README shows."""
    (block,) = [
        each for each in blocks_of(README) if each.not_run == "the demo is a test of its own below"
    ]
    command, _, expected = block.text.removeprefix("$ ").partition("\n")
    # As in a reader's shell: a `make test` around it passes on its variables, ARGS among them.
    of_make = ("MAKE", "MFLAGS", "ARGS")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(of_make)}
    done = subprocess.run(
        command.split(),
        cwd=ROOT,
        env=outside,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS), (
        f"the README shows\n{expected}\nbut it printed\n{done.stdout}"
    )


def test_make_has_the_targets_that_are_named() -> None:
    """Each `make something` in the README and the docs is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (_name(page), target)
        for page in PAGES
        for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text())
    }
    assert {target for _, target in named} >= {"demo", "test"}
    assert [each for each in named if each[1] not in targets] == []


def test_no_page_installs_a_package_of_the_past() -> None:
    """What a page installs is the repository, or 1.0 and later: 0.1 on PyPI is another program."""
    commands = [
        (_name(page), command)
        for page in PAGES
        for command in re.findall(
            r"^\$ (.*\bdjango-broadcaster\b.*)", page.read_text(), re.MULTILINE
        )
        if "install" in command
    ]
    assert {"README.md", "docs/tutorial/first-event.md"} <= {page for page, _ in commands}
    assert [each for each in commands if not re.search(r" @ git\+|\]>=1\.0\"", each[1])] == []


def _links() -> Iterator[tuple[Path, str, str]]:
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for shown, target in re.findall(r"\[([^]]+)\]\(([^)\s]+)\)", text):
            if "://" not in target:
                yield page, shown, target


def test_links_lead_somewhere() -> None:
    """Every relative link is to a file that is there."""
    missing = [
        (_name(page), target)
        for page, _, target in _links()
        if not (page.parent / target.partition("#")[0]).resolve().exists()
    ]
    assert missing == []


def _tests_in(path: Path) -> set[str]:
    """Return the names of a file's tests and of its classes, tests in these as `Class::test`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return names


def _named_tests(page: Path) -> list[tuple[str, Path]]:
    """Return the tests that a page names, each with the file that it links to."""
    return [
        (shown.strip("`"), (page.parent / target).resolve())
        for each, shown, target in _links()
        if each == page and target.endswith(".py")
    ]


def test_every_guarantee_names_its_tests() -> None:
    """Each link of these pages to a test leads to one, and each guarantee has some."""
    links = [link for page in (GUARANTEES, BROKER_TESTS, KAFKA) for link in _named_tests(page)]
    assert [name for name, path in links if name not in _tests_in(path)] == []
    sections = re.split(r"^## ", GUARANTEES.read_text(), flags=re.MULTILINE)[1:]
    numbered = [section for section in sections if re.match(r"\d+\. ", section)]
    assert len(numbered) == 11
    assert [section.splitlines()[0] for section in numbered if ".py)" not in section] == []


@pytest.mark.parametrize(
    "name", ["aws", "celery", "kafka", "mqtt", "nats", "rabbitmq", "redis-streams", "webhook"]
)
def test_every_brokers_page_says_the_same_things(name: str) -> None:
    """How to install it, what is guaranteed and repeated, its size, and what goes wrong."""
    text = (ROOT / "docs" / "how-to" / "backends" / f"{name}.md").read_text()
    sections = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    assert {"Guarantees", "Size", "Error handling"} <= set(sections)
    assert 'pip install "django-broadcaster[' in text
    assert re.search(r"twice|duplicate|repeats", text)
