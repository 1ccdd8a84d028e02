"""Django's tasks in the outbox: what `OutboxTaskBackend` promises, on every database."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import django
import pytest
from asgiref.sync import async_to_sync
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.db import transaction
from django.dispatch import Signal
from django.utils import timezone

from django_broadcaster.backends.handler import backends
from django_broadcaster.encryption import reseal
from django_broadcaster.exceptions import Reject, Retry
from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import event_registry
from tests.app.models import Order
from tests.relay.conftest import working
from tests.support.databases import ANY
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pytest_django import Settings

if django.VERSION < (6, 0):
    pytest.skip("django.tasks is there from Django 6.0 on", allow_module_level=True)

from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued, task_finished, task_started

from tests.support import outbox_tasks as tasks

from .conftest import BACKEND, QUEUES

any_database = pytest.mark.parametrize("database", ANY, indirect=True)


@pytest.fixture
def atomic(outbox: str, settings: Settings) -> str:
    """The same, where each task runs in a transaction."""
    options = {"atomic": True}
    settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": QUEUES, "OPTIONS": options}}
    return outbox


def run() -> int:
    """Run the tasks that are due; return how many were attempted."""
    return publisher.process_pending_events()


def run_again() -> None:
    """Run the tasks that wait for a retry."""
    assert OutboxEvent.objects.all().hasten() == 1
    assert run() == 1


def row() -> OutboxEvent:
    """The only row of the outbox."""
    return OutboxEvent.objects.get()


def orders() -> list[str]:
    """The numbers of the orders."""
    return list(Order.objects.order_by("pk").values_list("number", flat=True))


# --- Enqueuing -----------------------------------------------------------------------------------


def test_task_exists_if_and_only_if_the_transaction_commits(outbox: str) -> None:
    """A task of a transaction that was rolled back never runs, and has no result."""
    with transaction.atomic(using=outbox):
        kept = tasks.note.enqueue(1, two={"three": [None, "ü"]})
    with transaction.atomic(using=outbox):
        lost = tasks.note.enqueue(2)
        transaction.set_rollback(True, using=outbox)
    assert run() == 1
    assert tasks.CALLS == [([1], {"two": {"three": [None, "ü"]}})]
    assert tasks.note.get_result(kept.id).is_finished
    with pytest.raises(TaskResultDoesNotExist):
        tasks.note.get_result(lost.id)


def test_result_is_ready_until_a_relay_runs_the_task(outbox: str) -> None:
    """The result that `enqueue` returns equals the stored one, and a refresh shows the end."""
    result = tasks.add.enqueue(1, 2)
    assert result.status == TaskResultStatus.READY
    assert (
        result == tasks.add.get_result(result.id) == task_backends["default"].get_result(result.id)
    )
    with pytest.raises(ValueError, match="has not finished"):
        _ = result.return_value
    assert run() == 1
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == 3
    assert (result.attempts, len(result.worker_ids), result.errors) == (1, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert run() == 0


def test_async_calls_do_the_same(outbox: str) -> None:
    """`aenqueue`, `aget_result`, `arefresh` and coroutines as tasks work."""

    async def enqueue() -> Any:
        result = await tasks.add_later.aenqueue(3, 4)
        assert await tasks.add_later.aget_result(result.id) == result
        return result

    result = async_to_sync(enqueue)()
    assert run() == 1
    async_to_sync(result.arefresh)()
    assert result.return_value == 7


def test_task_waits_until_its_time(outbox: str) -> None:
    """A task with `run_after` does not run earlier, and keeps the time."""
    moment = timezone.now() + timedelta(hours=1)
    result = tasks.note.using(run_after=moment).enqueue("later")
    tasks.note.using(run_after=timezone.now() - timedelta(hours=1)).enqueue("now")
    assert run() == 1
    assert tasks.CALLS == [(["now"], {})]
    assert tasks.note.get_result(result.id).task.run_after == moment
    OutboxEvent.objects.filter(status="scheduled").update(scheduled_at=timezone.now())
    assert wait_until(run, 5, "the task that is due") == 1
    assert tasks.CALLS[1:] == [(["later"], {})]


@any_database
def test_each_queue_and_priority_is_a_backend_of_its_own(outbox: str) -> None:
    """A relay can be given one queue alone; tasks of others neither wait for it nor delay it."""
    configured = ["default", "tasks-high", "tasks", "tasks-low"]
    assert backends.aliases() == (
        *configured, "tasks-reports-high", "tasks-reports", "tasks-reports-low"
    )  # fmt: skip
    for priority in (100, 0, -1):
        tasks.note.using(priority=priority).enqueue()
        tasks.note.using(priority=priority, queue_name="reports").enqueue()
    found = OutboxEvent.objects.order_by("pk").values_list("publisher_backend", flat=True)
    assert [*found] == [
        *("tasks-high", "tasks-reports-high", "tasks"),
        *("tasks-reports", "tasks-low", "tasks-reports-low"),
    ]
    assert {*OutboxEvent.objects.values_list("partition_key", flat=True)} == {""}
    results = [
        task_backends["default"].get_result(each.event_id) for each in OutboxEvent.objects.all()
    ]
    assert {(each.task.priority, each.task.queue_name) for each in results} == {
        (priority, queue) for priority in (100, 0, -1) for queue in QUEUES
    }
    assert run() == 6


@any_database
def test_further_task_backends_have_backends_of_their_own(outbox: str, settings: Settings) -> None:
    """An entry of TASKS has its own queues, and results know their entry."""
    entry = {"BACKEND": BACKEND, "OPTIONS": {"priorities": False}}
    settings.TASKS = {"default": entry, "other": entry, "free": {**entry, "QUEUES": []}}
    assert backends.aliases() == ("default", "tasks", "tasks-other", "tasks-free")
    result = tasks.note.using(backend="other").enqueue()
    free = tasks.note.using(backend="free", queue_name="anything").enqueue()
    assert run() == 2
    assert task_backends["other"].get_result(result.id).backend == "other"
    assert task_backends["free"].get_result(free.id).task.queue_name == "anything"
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(result.id)
    with pytest.raises(InvalidTask, match="priority"):
        tasks.note.using(priority=1)


@any_database
def test_project_may_configure_the_backend_itself(outbox: str, settings: Settings) -> None:
    """An entry of OUTBOX_PUBLISHERS replaces the one that a queue would have."""
    runner = "django_broadcaster.tasks.TaskRunner"
    entry = {"BACKEND": runner, "RETRY": {"max_retries": 7}, "OPTIONS": {"atomic": True}}
    settings.OUTBOX_PUBLISHERS = {"tasks": entry}
    tasks.note.enqueue()
    assert row().max_retries == 7


@any_database
def test_handlers_of_every_event_get_no_task(outbox: str, settings: Settings) -> None:
    """A task is not an event that others hear: no route and no handler applies to it."""
    settings.OUTBOX_ROUTES = {"*": "default"}
    event_registry.register(name="all")(lambda event: tasks.CALLS.append(event))
    tasks.place_order.enqueue("1")
    settings.OUTBOX_ROUTES = None
    tasks.place_order.enqueue("2")
    assert OutboxEvent.objects.filter(publisher_backend="tasks").count() == 2
    assert OutboxEvent.objects.count() == 2
    assert run() == 2
    assert (orders(), tasks.CALLS) == (["1", "2"], [])


@any_database
def test_event_that_is_no_task_is_refused(outbox: str) -> None:
    """An event that an application publishes to the queue's backend runs nothing."""
    publisher.publish_event("tests.support.outbox_tasks.note", "/shop", {}, backend="tasks")
    run()
    assert row().status == "failed"
    assert "is not a task" in row().last_error
    assert tasks.CALLS == []


@any_database
def test_arguments_must_be_json(outbox: str) -> None:
    """What JSON does not have is refused before anything is written."""
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.note.enqueue(timezone.now())
    assert not OutboxEvent.objects.exists()


# --- Running -------------------------------------------------------------------------------------


def test_context_has_the_result_and_the_attempt(outbox: str) -> None:
    """A task that takes the context sees itself running, once per attempt."""
    result = tasks.show_context.enqueue()
    assert run() == 1
    result.refresh()
    assert result.return_value == [result.id, "RUNNING", 1, 1]


def test_failed_task_is_retried_and_then_failed(outbox: str) -> None:
    """Between its attempts a task is READY; at last it is FAILED, with the error of each."""
    tasks.FAILURES[:] = [KeyError("second"), ValueError("first")]
    result = tasks.may_fail.enqueue("1")
    assert run() == 1
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.READY, 1)
    assert "task tests.support.outbox_tasks.may_fail: ValueError" in row().last_error
    run_again()
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert [each.exception_class for each in result.errors] == [ValueError, KeyError]
    assert result.errors[0].traceback.endswith("ValueError: first\n")
    assert "outbox_tasks.py" in result.errors[0].traceback
    assert result.finished_at == row().ended_at
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert orders() == ["1", "1"]  # each attempt kept its changes


def test_dead_letter_that_is_replayed_can_succeed(outbox: str) -> None:
    """An operator's replay runs a failed task again."""
    tasks.FAILURES[:] = [ValueError("second"), ValueError("first")]
    result = tasks.may_fail.enqueue("1")
    run()
    run_again()
    OutboxEvent.objects.dead_letters().replay()
    assert wait_until(run, 5, "the replayed task") == 1
    result.refresh()
    assert (result.return_value, result.attempts, len(result.errors)) == ("1", 3, 2)


def test_atomic_task_undoes_what_a_failed_attempt_changed(atomic: str) -> None:
    """With `atomic`, the changes of an attempt that failed are rolled back."""
    tasks.FAILURES[:] = [ValueError("first")]
    result = tasks.may_fail.enqueue("1")
    run()
    assert orders() == []
    run_again()
    result.refresh()
    assert (orders(), result.return_value, result.attempts) == (["1"], "1", 2)


def test_atomic_task_whose_function_after_the_commit_failed(atomic: str) -> None:
    """Its changes are kept, the task is FAILED, and a replay does not run it again."""
    result = tasks.fail_after_commit.enqueue("1")
    run()
    result.refresh()
    assert (orders(), result.status, row().status) == (["1"], TaskResultStatus.FAILED, "failed")
    assert "on_commit function failed" in result.errors[0].traceback
    OutboxEvent.objects.dead_letters().replay()
    assert wait_until(run, 5, "the replayed task") == 1
    result.refresh()
    assert (orders(), result.status) == (["1"], TaskResultStatus.SUCCESSFUL)


def test_atomic_task_that_is_delivered_again_runs_once(atomic: str) -> None:
    """A relay that crashed before it settled the row leaves a task that has run; it is skipped."""
    result = tasks.place_order.enqueue("1")
    run()
    OutboxEvent.objects.update(status="pending", published_at=None)
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    OutboxTaskRun.objects.update(finished_at=None)  # the inbox alone knows
    assert run() == 1
    assert orders() == ["1"]


def test_task_that_has_finished_is_not_run_again(outbox: str) -> None:
    """The record of a task that has finished is enough to skip it."""
    tasks.place_order.enqueue("1")
    run()
    OutboxEvent.objects.update(status="pending", published_at=None)
    assert run() == 1
    assert (orders(), row().status) == (["1"], "published")


def test_task_may_use_transactions_of_its_own(outbox: str) -> None:
    """Without `atomic`, a task is not in a transaction."""
    tasks.place_order_by_itself.enqueue("1")
    run()
    assert (orders(), row().status) == (["1"], "published")


@any_database
def test_slow_tasks_leave_the_others_to_the_next_batch(
    outbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time a batch begins no further task; the others keep their place and retries."""
    monkeypatch.setattr("django_broadcaster.tasks.runner.MOST_SECONDS", -1.0)
    for number in range(3):
        tasks.note.enqueue(number)
    assert publisher.process_pending_events(batch_size=1) == 1
    assert [args for args, _ in tasks.CALLS] == [[0]]
    run()
    assert [args for args, _ in tasks.CALLS] == [[0], [1], [2]]
    assert {*OutboxEvent.objects.values_list("status", "retry_count")} == {("published", 0)}


def test_tasks_run_in_threads_at_once(outbox: str, settings: Settings) -> None:
    """With `concurrency`, a relay runs as many tasks at once."""
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"concurrency": 2}}}
    results = [tasks.meet.enqueue() for _ in range(4)]
    with working(outbox, "tasks"):
        wait_until(
            lambda: all(tasks.meet.get_result(each.id).is_finished for each in results),
            30,
            "the tasks, which meet in pairs",
        )
    assert {*OutboxEvent.objects.values_list("status", flat=True)} == {"published"}


@any_database
def test_errors_of_the_package_say_what_comes_next(outbox: str) -> None:
    """`Reject` makes a dead letter at once, and `Retry` has its own pause."""
    tasks.refuse.enqueue()
    run()
    assert row().status == "failed"
    row().delete()
    tasks.ask_for_retry.enqueue()
    run()
    assert row().status == "retry"
    assert row().scheduled_at > timezone.now() + timedelta(minutes=50)
    assert OutboxTaskRun.objects.latest("pk").is_running is False
    assert Retry.__name__ in row().last_error


class _Replica(OneDatabase):
    """Reads the records of tasks from a replica, which is away."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Return the alias of the replica for these records, and the usual one for all others."""
        return "replica" if model is OutboxTaskRun else super().db_for_read(model, **hints)


@any_database
def test_errors_are_read_and_written_in_one_database(outbox: str, settings: Settings) -> None:
    """The relay reads the record of a failed task where it was written, and not from a replica."""
    settings.DATABASE_ROUTERS = [_Replica(outbox)]
    result = tasks.refuse.enqueue()
    run()
    result.refresh()
    assert [each.exception_class for each in result.errors] == [Reject]


@any_database
def test_error_that_can_not_be_recorded_decides_all_the_same(
    outbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the record of a task is gone, its event still gets the task's own error."""

    def delete(**_: Any) -> None:
        OutboxTaskRun.objects.all().delete()

    task_started.connect(delete)
    try:
        tasks.refuse.enqueue()
        run()
    finally:
        task_started.disconnect(delete)
    assert row().status == "failed"
    assert "there is no such order" in row().last_error
    assert "Could not record the error of task tests.support.outbox_tasks.refuse" in caplog.text


@any_database
def test_sys_exit_fails_the_task_and_not_the_relay(outbox: str) -> None:
    """SystemExit is an error of the task like any other."""
    result = tasks.leave.enqueue()
    assert run() == 1
    run_again()
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert [each.exception_class for each in result.errors] == [SystemExit, SystemExit]


@any_database
@pytest.mark.parametrize("is_atomic", [False, True])
def test_return_value_must_be_json(outbox: str, settings: Settings, is_atomic: bool) -> None:
    """A task with another return value fails for good: a retry would return the same."""
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"atomic": is_atomic}}}
    result = tasks.return_what_is_no_json.enqueue()
    run()
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is TypeError
    assert "can't be written as JSON" in row().last_error
    assert orders() == ([] if is_atomic else ["made"])


@any_database
def test_task_that_the_relay_does_not_have_is_retried(outbox: str) -> None:
    """An older relay leaves a task of a newer version for later, and says what is missing."""
    result = tasks.note.enqueue()
    OutboxEvent.objects.update(event_type="tests.support.outbox_tasks.CALLS")
    run()
    assert row().status == "retry"
    assert "deploy the version that has the task" in row().last_error
    run_again()
    OutboxEvent.objects.update(event_type="tests.support.outbox_tasks.note")
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert "is not a task" in result.errors[0].traceback


@any_database
def test_cancelled_task_has_failed(outbox: str) -> None:
    """A task that an operator cancelled is finished, and its error says so."""
    result = tasks.note.enqueue()
    OutboxEvent.objects.all().cancel()
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert "cancelled" in result.errors[0].traceback
    assert run() == 0


@any_database
def test_result_of_another_task_is_a_mismatch(outbox: str) -> None:
    """A task does not return the result of another one."""
    result = tasks.note.enqueue()
    with pytest.raises(TaskResultMismatch):
        tasks.add.get_result(result.id)


@any_database
def test_signals_are_those_of_django(outbox: str) -> None:
    """Each task is enqueued and finished once, and started at each attempt; errors are logged."""
    names = {task_enqueued: "enqueued", task_started: "started", task_finished: "finished"}
    seen: list[tuple[str, str]] = []

    def note(*, signal: Signal, sender: Any, task_result: Any, **_: Any) -> None:
        assert sender.__name__ == "OutboxTaskBackend"
        seen.append((names[signal], str(task_result.status)))
        if signal is not task_enqueued:
            raise RuntimeError("a receiver fails")

    for signal in names:
        signal.connect(note)
    try:
        tasks.note.enqueue()
        run()
        tasks.FAILURES[:] = [ValueError("second"), ValueError("first")]
        tasks.may_fail.enqueue("1")
        run()
        run_again()
    finally:
        for signal in names:
            signal.disconnect(note)
    once = [("enqueued", "READY"), ("started", "RUNNING")]
    assert seen == [
        *(*once, ("finished", "SUCCESSFUL")),
        *(*once, ("started", "RUNNING"), ("finished", "FAILED")),
    ]


def test_arguments_and_results_are_encrypted_with_the_payloads(
    outbox: str, settings: Settings
) -> None:
    """With OUTBOX_ENCRYPTION_KEYS, no table has an argument, a return value or an error."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    tasks.FAILURES[:] = [ValueError("a secret")]
    result = tasks.may_fail.enqueue("a secret")
    run()
    run_again()
    assert "a secret" not in str(row().data)
    assert "a secret" not in OutboxTaskRun.objects.get().outcome
    result.refresh()
    assert (result.return_value, len(result.errors)) == ("a secret", 1)
    assert tasks.may_fail.get_result(result.id).args == ["a secret"]


def test_results_change_their_key_with_the_payloads(outbox: str, settings: Settings) -> None:
    """After `outbox_reencrypt` results need the old key no more than payloads do."""
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    settings.OUTBOX_ENCRYPTION_KEYS = [old]
    result = tasks.add.enqueue(1, 2)
    run()
    settings.OUTBOX_ENCRYPTION_KEYS = [new, old]
    for changed in (2, 0):
        output = StringIO()
        call_command("outbox_reencrypt", database=outbox, stdout=output)
        assert f"re-encrypted: {changed} payloads" in output.getvalue()
    settings.OUTBOX_ENCRYPTION_KEYS = [new]
    result.refresh()
    assert result.return_value == 3


@any_database
def test_task_whose_errors_no_key_decrypts_waits(outbox: str, settings: Settings) -> None:
    """Without the key, a task is neither run nor given up, and spends no retry."""
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    settings.OUTBOX_ENCRYPTION_KEYS = [old]
    tasks.FAILURES[:] = [ValueError("first")]
    result = tasks.may_fail.enqueue("1")
    run()
    settings.OUTBOX_ENCRYPTION_KEYS = [new, old]
    OutboxEvent.objects.update(sealed=reseal(row().sealed))
    settings.OUTBOX_ENCRYPTION_KEYS = [new]
    run_again()
    assert (row().status, row().retry_count, orders()) == ("retry", 1, ["1"])
    assert "NotDecryptable" in row().last_error
    settings.OUTBOX_ENCRYPTION_KEYS = [new, old]
    run_again()
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.SUCCESSFUL, 2)
