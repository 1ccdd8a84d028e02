"""The page of task runs in the admin: states, filters, results, errors and the button."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import django
import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from django_broadcaster.events import CloudEvent
from django_broadcaster.models import OutboxEvent, OutboxTaskRun
from django_broadcaster.publishers import publisher
from django_broadcaster.states import OutboxEventStatus
from tests.support.staff import permit
from tests.support.task_runs import record

if TYPE_CHECKING:
    from pytest_django import Settings

if django.VERSION < (6, 0):
    pytest.skip("django.tasks is there from Django 6.0 on", allow_module_level=True)

from django_broadcaster.admin.task_runs import STATES, events_of, in_state, state_of
from tests.support import outbox_tasks as tasks

LIST = "admin:django_broadcaster_outboxtaskrun_changelist"

in_the_admin = pytest.mark.parametrize("database", ["default"], indirect=True)


def run() -> None:
    """Run the tasks that are due, and those that wait for a retry."""
    OutboxEvent.objects.filter(status="retry").hasten()
    publisher.process_pending_events()


def page_of(client: Client, task_run: OutboxTaskRun) -> str:
    """Return the page of a run."""
    url = reverse("admin:django_broadcaster_outboxtaskrun_change", args=[task_run.pk])
    return client.get(url).content.decode()


def listed(client: Client, **query: str) -> list[str]:
    """Return the paths of the tasks in the list, without their package."""
    runs = client.get(reverse(LIST), query).context["cl"].result_list
    return [each.task.rpartition(".")[2] for each in runs]


def move_url() -> str:
    """Return the address that runs the only task again."""
    return reverse(
        "admin:django_broadcaster_outboxevent_move", args=[OutboxEvent.objects.get().pk, "retry"]
    )


@pytest.fixture
def every_state(outbox: str, settings: Settings) -> None:
    """A task in each state."""
    settings.OUTBOX_RETRY = {"initial": 3600, "maximum": 3600}
    tasks.FAILURES[:] = [ValueError("third"), ValueError("second"), ValueError("first")]
    tasks.add.enqueue(1, 2)
    failed, deleted = tasks.refuse.enqueue(), tasks.leave.enqueue()
    tasks.may_fail.enqueue("1")
    publisher.process_pending_events()
    cancelled = tasks.ask_for_retry.enqueue()
    publisher.process_pending_events()
    OutboxEvent.objects.filter(event_id=cancelled.id).cancel()
    running = tasks.note.using(queue_name="reports").enqueue()
    publisher.process_pending_events()
    OutboxEvent.objects.filter(event_id=running.id).update(status="pending")
    OutboxTaskRun.objects.filter(task_id=running.id).update(finished_at=None, is_running=True)
    assert OutboxEvent.objects.get(event_id=failed.id).status == "failed"
    OutboxEvent.objects.filter(event_id=deleted.id).delete()


IN_STATE = {
    "succeeded": "add",
    "running": "note",
    "retrying": "may_fail",
    "failed": "refuse",
    "cancelled": "ask_for_retry",
    "deleted": "leave",
}


def test_filter_and_label_agree_on_the_state(every_state: None, outbox: str) -> None:
    """On every database, each state is that of one task, by the filter and by the row."""
    runs = OutboxTaskRun.objects.using(outbox)
    events = events_of(runs.all(), outbox)
    for name, state in STATES.items():
        (found,) = in_state(runs.all(), state)
        assert found.task == f"tests.support.outbox_tasks.{IN_STATE[name]}"
        assert state_of(found, events.get(found.task_id)) is state


@pytest.mark.parametrize("status", [None, *OutboxEventStatus])
@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("is_running", [True, False])
def test_each_run_is_in_the_state_of_its_label_alone(
    outbox: str, status: OutboxEventStatus | None, is_finished: bool, is_running: bool
) -> None:
    """Whatever its event, which may be deleted or of a backend that is no longer configured."""
    chosen = record("1", status or "pending")
    chosen.finished_at = timezone.now() if is_finished else None
    chosen.is_running = is_running
    chosen.save()
    if status is None:
        OutboxEvent.objects.all().delete()
    runs = OutboxTaskRun.objects.using(outbox).all()
    label = state_of(chosen, events_of([chosen], outbox).get(chosen.task_id))
    assert [state for state in STATES.values() if in_state(runs, state).exists()] == [label]


@in_the_admin
def test_list_is_filtered_and_searched(every_state: None, admin_client: Client) -> None:
    """By state and backend; by the id and the path of a task."""
    assert len(listed(admin_client)) == 6
    for name, task in IN_STATE.items():
        assert listed(admin_client, state=name) == [task]
    assert listed(admin_client, backend="tasks-reports") == ["note"]
    assert listed(admin_client, q="may_fail") == ["may_fail"]
    chosen = OutboxTaskRun.objects.get(task__endswith="refuse")
    assert listed(admin_client, q=chosen.task_id) == ["refuse"]


@in_the_admin
def test_number_of_queries_does_not_grow_with_the_list(
    outbox: str, admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    """The events of all rows are read in one query, and no outcome is."""
    for number in range(20):
        tasks.add.enqueue(number, number)
    run()
    with django_assert_max_num_queries(8) as asked:
        assert len(listed(admin_client)) == 20
    assert not [each["sql"] for each in asked.captured_queries if '"outcome"' in each["sql"]]


@in_the_admin
def test_page_shows_result_and_errors(outbox: str, admin_client: Client) -> None:
    """The return value as JSON, the traceback of each failed attempt, and a link to the event."""
    tasks.FAILURES[:] = [ValueError("<first>")]
    tasks.may_fail.enqueue("order 1")
    run()
    run()
    page = page_of(admin_client, OutboxTaskRun.objects.get())
    assert "&quot;order 1&quot;" in page
    assert "ValueError: &lt;first&gt;" in page
    event = OutboxEvent.objects.get()
    url = reverse("admin:django_broadcaster_outboxevent_change", args=[event.pk])
    assert f'href="{url}"' in page
    assert move_url() not in page  # a task that has succeeded does not run again
    run_url = reverse(
        "admin:django_broadcaster_outboxtaskrun_change", args=[OutboxTaskRun.objects.get().pk]
    )
    assert f'href="{run_url}"' in admin_client.get(url).content.decode()


def redact(event: CloudEvent) -> CloudEvent:
    """Hide every return value of this task."""
    assert event.type == "tests.support.outbox_tasks.add"
    return event.replace(data={**event.data, "return_value": "(hidden)"})


def hide_number(event: CloudEvent) -> CloudEvent:
    """Hide a field of the data."""
    return event.replace(data={name: "(hidden)" for name in event.data if name == "number"})


def break_down(event: CloudEvent) -> CloudEvent:
    """Fail."""
    raise ValueError(event.data)


@in_the_admin
@pytest.mark.parametrize(
    ("redactor", "shown"),
    [("redact", "(hidden)"), ("break_down", "OUTBOX_REDACTOR failed with ValueError")],
)
def test_return_value_is_redacted_as_payloads_are(
    outbox: str, admin_client: Client, settings: Settings, redactor: str, shown: str
) -> None:
    """OUTBOX_REDACTOR decides what is shown, and nothing is if it fails."""
    tasks.add.enqueue(40_000, 2_345)
    run()
    settings.OUTBOX_REDACTOR = f"{__name__}.{redactor}"
    page = page_of(admin_client, OutboxTaskRun.objects.get())
    assert shown in page
    assert "42345" not in page


@in_the_admin
def test_dictionary_that_a_task_returns_is_the_data(
    outbox: str, admin_client: Client, settings: Settings
) -> None:
    """So a redactor that hides fields of events hides those of return values."""
    tasks.place_order.enqueue("42345")
    run()
    settings.OUTBOX_REDACTOR = f"{__name__}.hide_number"
    page = page_of(admin_client, OutboxTaskRun.objects.get())
    assert "&quot;number&quot;: &quot;(hidden)&quot;" in page
    assert "42345" not in page


@in_the_admin
def test_page_shows_a_return_value_that_is_no_utf8(outbox: str, admin_client: Client) -> None:
    """JSON holds a lone surrogate, which the page shows as its escape sequence."""
    tasks.add.enqueue(1, 2)
    run()
    outcome = json.dumps({"return_value": ["\ud800"], "errors": []})
    OutboxTaskRun.objects.update(outcome=outcome)
    assert "&quot;\\ud800&quot;" in page_of(admin_client, OutboxTaskRun.objects.get())


@in_the_admin
def test_result_that_no_key_decrypts_is_named(
    outbox: str, admin_client: Client, settings: Settings
) -> None:
    """The page works without the key, and says what it can't show."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    tasks.add.enqueue(40_000, 2_345)
    run()
    chosen = OutboxTaskRun.objects.get()
    assert "42345" in page_of(admin_client, chosen)
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    assert "The result can&#x27;t be shown" in page_of(admin_client, chosen)


@in_the_admin
def test_outcome_is_no_filter(outbox: str, admin_client: Client) -> None:
    """A filter that a user types into the address can't guess what is hidden."""
    answer = admin_client.get(reverse(LIST), {"outcome__contains": "x"})
    assert answer.status_code == 400


@in_the_admin
def test_button_runs_a_failed_task_again(outbox: str, admin_client: Client) -> None:
    """Retry now, on the page of the run, asks first; then the next relay runs the task."""
    tasks.FAILURES[:] = [ValueError("second"), ValueError("first")]
    result = tasks.may_fail.enqueue("1")
    run()
    run()
    chosen = OutboxTaskRun.objects.get()
    page = page_of(admin_client, chosen)
    assert "broadcaster-label-failed" in page
    assert f'href="{move_url()}"' in page
    admin_client.post(move_url())
    run()
    result.refresh()
    assert result.return_value == "1"
    assert "broadcaster-label-published" in page_of(admin_client, chosen)


@in_the_admin
def test_permissions_are_those_of_the_models(outbox: str, client: Client) -> None:
    """Viewing runs is one permission; running a task again is that of replaying its event."""
    tasks.refuse.enqueue()
    run()
    chosen = OutboxTaskRun.objects.get()
    user = User.objects.create_user("ada", password="secret", is_staff=True)
    client.force_login(user)
    assert client.get(reverse(LIST)).status_code == 403
    permit(user, "view_outboxtaskrun", "view_outboxevent")
    assert move_url() not in page_of(client, chosen)
    permit(user, "replay_outboxevent")
    assert move_url() in page_of(client, chosen)
    delete = reverse("admin:django_broadcaster_outboxtaskrun_delete", args=[chosen.pk])
    assert client.post(delete).status_code == 403


@in_the_admin
def test_run_outlives_its_event(outbox: str, admin_client: Client) -> None:
    """A run whose event was purged is shown, without a button."""
    tasks.add.enqueue(1, 2)
    tasks.refuse.enqueue()
    run()
    OutboxEvent.objects.all().delete()
    for chosen, colour in zip(
        OutboxTaskRun.objects.order_by("pk"), ("published", "cancelled"), strict=True
    ):
        page = page_of(admin_client, chosen)
        assert f"broadcaster-label-{colour}" in page
        assert "The event has been deleted." in page
        assert "broadcaster-button" not in page
