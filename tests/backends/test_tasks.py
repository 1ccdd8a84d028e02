"""The backend for Django's tasks: what it enqueues, and that each handler runs once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import django
import pytest
from django.db import OperationalError, transaction
from django.test import override_settings

from django_broadcaster.backends import MessageBackend, TasksBackend
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)
from django_broadcaster.models import InboxEvent, OutboxEvent, OutboxEventStatus
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from django_broadcaster.relay.backend_thread import WorkerOptions
from django_broadcaster.relay.worker import Worker
from django_broadcaster.testing import BackendContract, make_message
from tests.app.models import Order
from tests.support.docs_runner import new_project

if django.VERSION < (6, 0):  # what happens then is tested in test_simple.py
    pytest.skip("django.tasks is there from Django 6.0 on", allow_module_level=True)

IMMEDIATE = {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}
DUMMY = {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}

Register = Callable[[str, Callable[[CloudEvent], object]], None]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register handlers by a name, for all events of a test."""
    names: list[str] = []

    def register(name: str, function: Callable[[CloudEvent], object]) -> None:
        event_registry.register("*", name=name)(function)
        names.append(name)

    yield register
    for name in names:
        event_registry.unregister(name)


def make(**options: Any) -> TasksBackend:
    """Return a backend by the alias `jobs`."""
    return TasksBackend(alias="jobs", **options)


def enqueued(alias: str = "default") -> list[Any]:
    """What Django's dummy backend was given."""
    from django.tasks import task_backends

    results: list[Any] = task_backends[alias].results
    return results


@pytest.mark.django_db
class TestTasksBackend(BackendContract):
    """Tasks that run at once; read back from what a handler was given."""

    config = {"queue_name": "default", "priority": 5}
    per_message_failure = False

    @pytest.fixture(autouse=True)
    def _handler(self, register: Register) -> Iterator[None]:
        self.handled: list[CloudEvent] = []
        register("contract", self.handled.append)
        with override_settings(TASKS={"default": IMMEDIATE}):
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        return TasksBackend(**options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [event.to_dict() for event in self.handled]


@override_settings(TASKS={"default": DUMMY})
def test_each_handler_is_a_task_that_a_worker_can_import(register: Register) -> None:
    """One task for each handler has the event and the handler's name, and is found by its path."""
    from django.utils.module_loading import import_string

    register("first", print)
    register("second", print)
    messages = [make_message(id=str(n), data={"n": n}) for n in range(2)]
    assert make().send_batch(messages) == [None, None]
    results = enqueued()
    assert [(each.args[0]["id"], each.args[1]) for each in results] == [
        *(("0", "first"), ("0", "second"), ("1", "first"), ("1", "second"))
    ]
    assert results[0].args[0] == messages[0].event.to_dict()
    assert {each.task.module_path for each in results} == {
        "django_broadcaster.consumers.task.run_handler"
    }
    assert import_string(results[0].task.module_path).func is results[0].task.func


@override_settings(TASKS={"default": DUMMY})
def test_event_without_a_handler_is_delivered() -> None:
    """Nothing is enqueued where nobody listens."""
    assert make().send_batch([make_message(data=1)]) == [None]
    assert enqueued() == []


@override_settings(TASKS={"slow": {**DUMMY, "QUEUES": ["night", "day"]}})
def test_options_and_config_name_the_queue(register: Register) -> None:
    """Alias, queue and priority are the options', and an event may choose the last two."""
    register("first", print)
    backend = make(tasks_backend="slow", queue_name="day", priority=3)
    backend.open()
    config = {"queue_name": "night", "priority": -7}
    messages = [make_message(data=1), make_message(data=2, config=config)]
    assert backend.send_batch(messages) == [None, None]
    tasks = [each.task for each in enqueued("slow")]
    assert [(task.queue_name, task.priority) for task in tasks] == [("day", 3), ("night", -7)]


@override_settings(TASKS={"default": DUMMY})
def test_queue_that_is_not_there_is_rejected(register: Register) -> None:
    """An event that names a queue which TASKS has not is a dead letter, and its key is held."""
    register("first", print)
    messages = [
        make_message(data=1, partition_key="a", config={"queue_name": "none"}),
        make_message(data=2, partition_key="a"),
        make_message(data=3),
    ]
    outcomes = make().send_batch(messages)
    assert [type(each) for each in outcomes] == [Rejected, Held, type(None)]
    assert "Queue 'none' is not valid" in str(outcomes[0])


@override_settings(TASKS={"default": IMMEDIATE})
def test_handler_runs_once_however_often_its_task_runs(
    committing: None, register: Register
) -> None:
    """A task that is run again, and an event that is delivered again, do nothing."""
    register("order", lambda event: Order.objects.create(number=event.data["n"]))
    message = make_message(data={"n": "1"})
    backend = make()
    for _ in range(3):
        backend.send(message)
    assert Order.objects.count() == 1
    assert InboxEvent.objects.count() == 1


@override_settings(TASKS={"default": IMMEDIATE})
def test_task_that_failed_at_once_is_tried_again(committing: None, register: Register) -> None:
    """Where tasks run at once, a handler that fails is the event's failure; others ran once."""
    fails = [True]

    def sometimes(event: CloudEvent) -> None:
        Order.objects.create(number=f"sometimes {event.data['n']}")
        if fails:
            raise ValueError("not today")

    register("always", lambda event: Order.objects.create(number=f"always {event.data['n']}"))
    register("sometimes", sometimes)
    message = make_message(data={"n": 1})
    with pytest.raises(TransientError, match="handler sometimes: ValueError: not today"):
        make().send(message)
    assert [order.number for order in Order.objects.all()] == ["always 1"]
    fails.clear()
    make().send(message)
    assert sorted(order.number for order in Order.objects.all()) == ["always 1", "sometimes 1"]


@override_settings(TASKS={"default": IMMEDIATE})
def test_handler_that_rejects_makes_a_dead_letter(committing: None, register: Register) -> None:
    """Where tasks run at once, a handler's `Rejected` is the event's."""

    def refuse(event: CloudEvent) -> None:
        raise Rejected("never")

    register("refuse", refuse)
    with pytest.raises(Rejected, match=r"handler refuse: .*never"):
        make().send(make_message(data=1))


@override_settings(TASKS={"default": IMMEDIATE})
def test_worker_without_the_handler_says_so(committing: None, register: Register) -> None:
    """A task for a handler that its worker does not know fails, and names it."""
    from django_broadcaster.consumers.task import run_handler

    task: Any = run_handler
    result = task.enqueue(make_message(data=1).event.to_dict(), "no.such.handler")
    assert result.errors[0].exception_class is LookupError
    assert "'no.such.handler'" in result.errors[0].traceback


@override_settings(TASKS={"default": {"BACKEND": "tests.support.task_queue.AwayBackend"}})
@pytest.mark.parametrize("error", [OperationalError("gone"), ConnectionRefusedError("nobody")])
def test_queue_that_is_away_is_unavailable(register: Register, error: Exception) -> None:
    """A queue in a database or on a server that is away costs no retry, and nothing is sent."""
    from tests.support.task_queue import AwayBackend

    register("first", print)
    AwayBackend.error = error
    outcomes = make().send_batch([make_message(data=n) for n in range(3)])
    assert [type(each) for each in outcomes] == [BackendUnavailable] * 3


@override_settings(TASKS={"default": IMMEDIATE})
def test_end_to_end_from_a_transaction(committing: None, register: Register) -> None:
    """The handlers of what a transaction published have run after the relay has, in order."""
    register("order", lambda event: Order.objects.create(number=event.data["n"]))
    setting = {"BACKEND": "django_broadcaster.backends.TasksBackend"}
    with override_settings(OUTBOX_PUBLISHERS={"default": setting}):
        with transaction.atomic():
            for number in range(5):
                publisher.publish_event("order.placed", "/shop", {"n": str(number)})
        options = WorkerOptions(
            database="default", backends=["default"], batch_size=100, interval=0.1, drain=True
        )
        assert Worker(options).run()
    assert [order.number for order in Order.objects.order_by("pk")] == ["0", "1", "2", "3", "4"]
    assert {event.status for event in OutboxEvent.objects.all()} == {OutboxEventStatus.PUBLISHED}


HANDLERS = """
from django_broadcaster.registry import event_registry

from .models import Order

@event_registry.register("order.placed")
def confirm(event):
    Order.objects.create(product=f"of {event.data['order']}", status="confirmed")
"""

TASKS_IN_THE_DATABASE = """
INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
OUTBOX_PUBLISHERS = {"default": {"BACKEND": "django_broadcaster.backends.TasksBackend"}}
"""

PUBLISH = """
from django.db import transaction
from django_broadcaster.publishers import publisher

for number in range(3):
    with transaction.atomic():
        publisher.publish_event("order.placed", "/shop", {"order": number})
        transaction.set_rollback(number == 1)
"""

REPEAT = """
from django_tasks_db.models import DBTaskResult
from shop.models import Order

assert DBTaskResult.objects.successful().count() == 2
assert DBTaskResult.objects.update(status="READY") == 2
print(*Order.objects.values_list("product", flat=True), sep=", ")
"""

COUNT = "from shop.models import Order; print(Order.objects.count())"


@pytest.mark.slow
def test_real_queue_and_worker(tmp_path: Path) -> None:
    """Tasks in a database run in a worker's process, for what was committed, once if repeated."""
    project = new_project(tmp_path)
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write(TASKS_IN_THE_DATABASE)
    (tmp_path / "shop" / "event_handlers.py").write_text(HANDLERS)
    manage = ("python", "manage.py")
    shell = (*manage, "shell", "--verbosity", "0", "-c")
    project.call(*manage, "migrate")
    project.call(*shell, PUBLISH)
    project.call(*manage, "outbox_worker", "--drain")
    assert project.call(*shell, COUNT) == "0\n"
    work = (*manage, "db_worker", "--batch", "--no-startup-delay")
    project.call(*work)
    assert project.call(*shell, REPEAT) == "of 0, of 2\n"
    project.call(*work)
    assert project.call(*shell, COUNT) == "2\n"


@pytest.mark.parametrize(
    "tasks",
    [{"slow": {**DUMMY, "QUEUES": ["night"]}}, {"default": {**DUMMY, "QUEUES": ["night"]}}],
    ids=["another alias", "another queue"],
)
def test_task_is_there_whatever_tasks_are_configured(tasks: dict[str, Any]) -> None:
    """The task's module can be imported where TASKS has no alias or queue named `default`."""
    code = f"""
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_broadcaster"], TASKS={tasks!r},
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
)
django.setup()
from django_broadcaster.consumers.task import run_handler
print(run_handler.backend, run_handler.queue_name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [next(iter(tasks)), "night"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("tasks_backend", ""), ("queue_name", 1), ("priority", 101), ("priority", True)],
)
def test_wrong_option_is_named(option: str, value: Any) -> None:
    """An option with a wrong value is an error that names the setting, the alias and the option."""
    with pytest.raises(BackendConfigurationError) as caught:
        make(**{option: value})
    assert f"OUTBOX_PUBLISHERS['jobs']['OPTIONS'][{option!r}]" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tasks_backend": "none"}, "'none'"),
        ({"queue_name": "none"}, "Queue 'none' is not valid"),
        ({"tasks_backend": "wrong"}, "no_such_module"),
    ],
)
@override_settings(TASKS={"default": DUMMY, "wrong": {"BACKEND": "no_such_module.Backend"}})
def test_tasks_that_do_not_fit_are_named(options: dict[str, Any], problem: str) -> None:
    """An alias or a queue that TASKS has not is an error when the backend opens."""
    with pytest.raises(BackendConfigurationError, match=problem):
        make(**options).open()


@pytest.mark.parametrize(
    "config", [{"queue_name": ""}, {"priority": 1000}, {"queue_name": None}], ids=str
)
def test_wrong_config_is_named(config: dict[str, Any]) -> None:
    """A value of `publisher_config` that can't be used is refused in the publish call."""
    with pytest.raises(InvalidPublisherConfig, match=next(iter(config))):
        make().validate_config(config)
