"""System checks of TASKS: wrong entries of `OutboxTaskBackend`, and backends that do not fit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import django
import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_broadcaster.backends.handler import backends
from django_broadcaster.checks import TAG

if django.VERSION < (6, 0):
    pytest.skip("django.tasks is there from Django 6.0 on", allow_module_level=True)

from django.tasks.checks import check_tasks

from tests.support import outbox_tasks as tasks

BACKEND = "django_broadcaster.tasks.OutboxTaskBackend"
RUNNER = "django_broadcaster.tasks.TaskRunner"
DUMMY = "django_broadcaster.backends.DummyBackend"
OPTIONS = "TASKS['default']['OPTIONS']"

WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"QUEUE": ["a"]}, "E057", "the unknown key 'QUEUE'", "rename 'QUEUE' to 'QUEUES'"),
    ({"QUEUES": "reports"}, "E058", "not 'reports'", "['QUEUES'] = ['reports'], or []"),
    ({"QUEUES": None}, "E058", "a list of names, not None", "['QUEUES'] = ['default']"),
    ({"QUEUES": ["a", 1]}, "E058", "not ['a', 1]", "['QUEUES'] = ['default']"),
    ({"QUEUES": ["q" * 60]}, "E058", "must have 64 characters at most", "Rename the queue."),
    ({"OPTIONS": [1]}, "E059", "must be a dict, not list", f"Set {OPTIONS} = {{}}"),
    ({"OPTIONS": {"priority": 1}}, "E059", "key 'priority'", "rename 'priority' to 'priorities'"),
    ({"OPTIONS": {"priorities": 1}}, "E059", "must be True or False, not 1", "= True, which is"),
    ({"OPTIONS": {"atomic": "yes"}}, "E059", "['atomic'] must be True or False", "= False, which"),
    ({"OPTIONS": {"max_retries": -1}}, "E059", "['max_retries'] must be", "= None, which is"),
    ({"OPTIONS": {"concurrency": 65}}, "E059", "from 1 to 64, not 65", "= 1, which is"),
    ({"OPTIONS": {"batch_size": 0}}, "E059", "['batch_size'] must be", "= 10, which is"),
]


def found(entry: dict[str, Any], **settings: Any) -> list[CheckMessage]:
    """Return what Django's checks say about an entry of TASKS."""
    with override_settings(**{"TASKS": {"default": {"BACKEND": BACKEND, **entry}}, **settings}):
        return [*check_tasks(), *run_checks(tags=[TAG])]


@pytest.mark.parametrize(("entry", "number", "text", "hint"), WRONG)
def test_wrong_entry_is_found_with_its_fix(
    entry: dict[str, Any], number: str, text: str, hint: str
) -> None:
    """`manage.py check` names the entry of TASKS, the rule, the value and the fix."""
    [message] = found(entry)
    assert message.id == f"django_broadcaster.{number}"
    assert message.msg.startswith("TASKS['default']")
    assert text in message.msg
    assert hint in str(message.hint)


@pytest.mark.parametrize(("entry", "number", "text", "hint"), WRONG)
def test_wrong_entry_enqueues_nothing(
    entry: dict[str, Any], number: str, text: str, hint: str
) -> None:
    """Where no checks run, as in a web server, `enqueue` raises the same error."""
    with (
        override_settings(TASKS={"default": {"BACKEND": BACKEND, **entry}}),
        pytest.raises(ImproperlyConfigured) as raised,
    ):
        tasks.note.enqueue()
    assert text in str(raised.value)
    assert hint in str(raised.value)


def test_all_errors_of_an_entry_are_found_at_once() -> None:
    """One error does not hide another."""
    options = {"atomic": 1, "concurrency": 0, "other": 1}
    numbers = sorted(str(each.id)[-4:] for each in found({"QUEUES": "a", "OPTIONS": options}))
    assert numbers == ["E058", "E059", "E059", "E059"]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"QUEUES": []},
        {"QUEUES": ("default", "reports")},
        {"OPTIONS": {"atomic": True, "batch_size": 1, "concurrency": 64, "max_retries": 0}},
        {"OPTIONS": {"max_retries": None, "priorities": False}},
    ],
)
def test_right_entry_passes(entry: dict[str, Any]) -> None:
    """A right entry, at its bounds too, gives no message."""
    assert found(entry) == []


def test_backend_of_a_queue_must_run_tasks() -> None:
    """Tasks that went to a broker's backend would never run."""
    publishers = {"default": {"BACKEND": DUMMY}, "tasks-low": {"BACKEND": DUMMY}}
    [message] = found({}, OUTBOX_PUBLISHERS=publishers)
    assert message.id == "django_broadcaster.E060"
    assert f"'tasks-low'], but '{DUMMY}' does not run tasks" in message.msg
    assert f"['BACKEND'] = '{RUNNER}'" in str(message.hint)


def test_runner_without_a_queue_is_a_warning() -> None:
    """A misspelt alias would leave the queue with the defaults."""
    publishers = {"default": {"BACKEND": DUMMY}, "tasks-report": {"BACKEND": RUNNER}}
    [message] = found({"QUEUES": ["reports"]}, OUTBOX_PUBLISHERS=publishers)
    assert message.id == "django_broadcaster.W017"
    assert "Rename it to 'tasks-reports" in str(message.hint)
    assert found({"QUEUES": ["report"]}, OUTBOX_PUBLISHERS=publishers) == []


@pytest.mark.parametrize(
    "setting",
    [
        {"default": {"BACKEND": BACKEND, "QUEUES": ["default", "high"]}},
        {"high": {"BACKEND": BACKEND}, "default": {"BACKEND": BACKEND}},
    ],
    ids=["two queues", "two entries"],
)
def test_queues_that_share_a_backend_are_a_warning(setting: dict[str, Any]) -> None:
    """Urgent tasks of `default` and all tasks of the queue `high` would have one backend."""
    [message] = found({}, TASKS=setting)
    assert message.id == "django_broadcaster.W015"
    assert "'tasks-high'" in message.msg


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"OUTBOX_RETENTION": 0}, "'tasks' have no result once they succeed"),
        ({"OUTBOX_RETENTION": None}, "'tasks' lose their return value after 30 days"),
        ({"OUTBOX_INBOX_RETENTION": timedelta(days=1)}, "lose their return value after 1 day"),
    ],
)
def test_results_that_are_lost_early_are_a_warning(settings: dict[str, Any], text: str) -> None:
    """The row of a task and the record of its run are kept by two settings."""
    [message] = found({"OPTIONS": {"priorities": False}}, **settings)
    assert message.id == "django_broadcaster.W016"
    assert text in message.msg


def test_results_that_are_kept_as_long_as_their_rows_pass() -> None:
    """No warning if both are kept for ever, or a backend's own retention is short enough."""
    forever = {"OUTBOX_RETENTION": None, "OUTBOX_INBOX_RETENTION": None}
    assert found({}, **forever) == []
    own = {"BACKEND": RUNNER, "RETENTION": timedelta(days=3)}
    publishers = {"default": {"BACKEND": DUMMY}, "tasks": own}
    short = {"OUTBOX_RETENTION": None, "OUTBOX_PUBLISHERS": publishers}
    assert found({"OPTIONS": {"priorities": False}}, **short) == []


def test_wrong_retention_is_left_to_its_own_check() -> None:
    """An error of another setting breaks no check of tasks."""
    numbers = [str(each.id)[-4:] for each in found({}, OUTBOX_RETENTION="long")]
    assert numbers == ["E016"]


def test_wrong_option_leaves_the_queue_its_backend() -> None:
    """Tasks that are in the outbox can be inspected while an option is wrong."""
    entry = {"BACKEND": BACKEND, "OPTIONS": {"concurrency": 0, "priorities": False}}
    with override_settings(TASKS={"default": entry}):
        assert "tasks" in backends.aliases()
