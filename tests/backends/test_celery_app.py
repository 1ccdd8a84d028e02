"""A Celery app whose calls go through the outbox: what its workers get, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, chain, group
from celery._state import _task_stack
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from django_broadcaster.celery_app import OutboxCelery
from django_broadcaster.exceptions import UnknownBackend, WrongTransaction
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.support import celery_app, rabbitmq_server, redis_server
from tests.support.celery_queue import Sent, remove, take
from tests.support.registered import only_handlers

if TYPE_CHECKING:
    from pytest_django import Settings

BROKERS: Mapping[str, Callable[[], str]] = {
    "redis": redis_server.shared_url,
    "rabbitmq": rabbitmq_server.shared_url,
}
APP = "tests.support.celery_app.app"
MOMENT = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of each shared broker."""
    return BROKERS[request.param]()


@pytest.fixture
def queue(broker: str) -> Iterator[str]:
    """The name of a queue that nobody else uses on the broker."""
    name = f"celery-{uuid4().hex}"
    yield name
    remove(broker, name)


def add(first: int, second: int = 0) -> int:
    """Return a sum."""
    return first + second


def note(*args: Any) -> None:
    """Do nothing."""


def configured(app: Celery, queue: str) -> Celery:
    """Return the app with a queue and two tasks."""
    app.conf.update(task_default_queue=queue, task_inherit_parent_priority=True)
    app.task(name="shop.add")(add)
    app.task(name="shop.note", soft_time_limit=30, time_limit=60, ignore_result=True)(note)
    return app


@pytest.fixture
def app(
    committing: None,
    broker: str,
    queue: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OutboxCelery]:
    """An app whose calls go through the outbox."""
    made = OutboxCelery("tests", broker=broker, set_as_current=False)
    monkeypatch.setattr(celery_app, "app", configured(made, queue))
    backend = {"BACKEND": "django_broadcaster.backends.CeleryBackend", "OPTIONS": {"app": APP}}
    settings.OUTBOX_PUBLISHERS = {"celery": backend}
    with only_handlers():
        yield made


CALLS: Mapping[str, Callable[[Any], Any]] = {
    "delay": lambda app: app.tasks["shop.add"].delay(1, second=2),
    "send_task": lambda app: app.send_task("shop.add", [1], {"second": 2}),
    "send_task of an unknown task": lambda app: app.send_task("else.where", (1, "ü")),
    "options of the task": lambda app: app.tasks["shop.note"].delay(),
    "types of Celery's JSON": lambda app: app.tasks["shop.note"].delay(
        MOMENT, Decimal("1.10"), UUID(int=7), MOMENT.date()
    ),
    "options of the call": lambda app: app.tasks["shop.add"].apply_async(
        (1,),
        task_id="my-id",
        priority=1,  # Redis has another list for each third one
        headers={"mine": "yes"},
        expires=MOMENT,
        soft_time_limit=9,
        shadow="another name",
        ignore_result=True,
    ),
    "link": lambda app: app.tasks["shop.add"].apply_async(
        (1,), link=app.signature("shop.note"), link_error=app.signature("shop.failed", args=(1,))
    ),
    "chain": lambda app: chain(
        app.signature("shop.add", args=(1,)), app.signature("shop.add", args=(3,)), app=app
    ).apply_async(),
    "group": lambda app: group(
        [app.signature("shop.add", args=(number,)) for number in range(2)], app=app
    ).apply_async(),
}


def essence(call: Sent) -> dict[str, Any]:
    """Return what a worker acts on, without the ids that are new for each call."""
    new = {"id", "root_id", "group", "origin", "timelimit"}
    headers = {key: value for key, value in call.headers.items() if key not in new}
    headers["timelimit"] = list(call.headers["timelimit"])
    embedded = str(call.embedded)
    for each in ("id", "root_id", "group"):
        embedded = embedded.replace(str(call.headers.get(each)), each)
    return {
        **headers,
        "args": call.args,
        "keywords": call.keywords,
        "priority": call.properties.get("priority"),
        "callbacks": [each["task"] for each in call.embedded["callbacks"] or ()],
        "errbacks": [each["task"] for each in call.embedded["errbacks"] or ()],
        "chain": [(each["task"], each["args"]) for each in call.embedded["chain"] or ()],
    }


@pytest.mark.parametrize("way", CALLS)
def test_worker_gets_the_message_of_a_direct_call(
    app: OutboxCelery, broker: str, queue: str, way: str
) -> None:
    """Whatever way a project calls a task, its worker gets what Celery itself sends."""
    direct = configured(Celery("tests", broker=broker, set_as_current=False), queue)
    CALLS[way](direct)
    expected = take(broker, queue)
    assert expected
    result = CALLS[way](app)
    assert take(broker, queue) == []
    assert publisher.process_pending_events() == len(expected)
    assert [(event.status, event.last_error) for event in OutboxEvent.objects.all()] == [
        ("published", "")
    ] * len(expected)
    sent = take(broker, queue)
    assert [essence(call) for call in sent] == [essence(call) for call in expected]
    if way != "group":
        first = result.parent or result
        assert [call.id for call in sent] == [first.id]
    direct.close()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_call_exists_if_and_only_if_the_transaction_commits(
    app: OutboxCelery, broker: str, queue: str
) -> None:
    """The call of a transaction that was rolled back is never sent."""
    for number in range(3):
        with transaction.atomic():
            app.tasks["shop.add"].delay(number)
            transaction.set_rollback(number == 1)
    publisher.process_pending_events()
    assert [call.args for call in take(broker, queue)] == [[0], [2]]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_arguments_are_encrypted_wherever_a_call_has_them(
    app: OutboxCelery, broker: str, queue: str, settings: Settings
) -> None:
    """With OUTBOX_ENCRYPTION_KEYS, neither arguments nor those of callbacks are in plain text."""
    settings.OUTBOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    secret = app.signature("shop.add", args=("secret",))
    chain(secret, secret, app=app).apply_async(link=secret, headers={"mine": "secret"})
    (row,) = OutboxEvent.objects.values()
    assert "secret" not in str(row)
    publisher.process_pending_events()
    (call,) = take(broker, queue)
    assert (call.args, call.headers["argsrepr"]) == (["secret"], "('secret',)")
    assert call.embedded["chain"][0]["args"] == ["secret"]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_call_in_a_worker_needs_no_transaction(
    app: OutboxCelery, broker: str, queue: str, settings: Settings
) -> None:
    """With OUTBOX_REQUIRE_TRANSACTION a worker's task may call others; a call elsewhere raises."""
    settings.OUTBOX_REQUIRE_TRANSACTION = True
    task = app.tasks["shop.add"]
    task.push_request(id="same", args=[], kwargs={}, called_directly=False, delivery_info={})
    _task_stack.push(task)
    try:
        task.delay(1)
    finally:
        _task_stack.pop()
        task.pop_request()
    publisher.process_pending_events()
    (call,) = take(broker, queue)
    assert (call.args, call.headers["parent_id"]) == ([1], "same")
    with pytest.raises(WrongTransaction):
        task.delay(1)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_result_backend_that_would_lose_results_is_refused(app: OutboxCelery, queue: str) -> None:
    """With rpc:// a call raises an error that names the fix, unless its result is ignored."""
    app.conf.result_backend = "rpc://"
    with pytest.raises(ImproperlyConfigured, match="result_backend: must not be 'rpc://'"):
        app.tasks["shop.add"].delay(1)
    app.tasks["shop.note"].delay()
    app.send_task("shop.note")
    with pytest.raises(ImproperlyConfigured, match="result_backend: must not be 'rpc://'"):
        app.send_task("shop.note", ignore_result=False)
    app.conf.task_ignore_result = True
    app.send_task("shop.add", (1,))
    assert OutboxEvent.objects.count() == 3


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_task_that_is_called_by_its_name_expires_from_the_call_on(
    app: OutboxCelery, broker: str, queue: str
) -> None:
    """And not from the moment when the relay sends it; an option of the call goes first."""
    app.task(name="shop.soon", expires=60)(note)
    app.finalize()
    before = timezone.now()
    for options in ({}, {"expires": None}):
        app.send_task("shop.soon", **options)
    after = timezone.now()
    publisher.process_pending_events()
    soon, never = (call.headers["expires"] for call in take(broker, queue))
    minute = timedelta(seconds=60)
    assert before + minute <= datetime.fromisoformat(soon) <= after + minute
    assert never is None


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "nesting"),
    [
        ({"kwargs": {"group_id": "g", "callback": {"options": {}}}}, 0),
        ({"kwargs": {"group_id": "g", "callback": {"options": {"replaced_task_nesting": 2}}}}, 2),
        ({"args": ["g", {"options": {"replaced_task_nesting": 1}}]}, 1),
        ({}, 0),
    ],
)
def test_end_of_a_chord_can_be_called_with_any_arguments(
    app: OutboxCelery, arguments: dict[str, Any], nesting: int
) -> None:
    """Its body may be given by position or by name; a call without one fails in the worker."""
    app.send_task("celery.chord_unlock", **arguments)
    assert OutboxEvent.objects.get().data["options"]["replaced_task_nesting"] == nesting


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize(
    "option_of",
    [
        lambda moment: {"countdown": 3600},
        lambda moment: {"eta": moment},
        lambda moment: {"eta": moment.isoformat()},
    ],
    ids=["countdown", "eta", "eta as text"],
)
def test_call_for_later_waits_in_the_outbox(
    app: OutboxCelery, broker: str, queue: str, option_of: Callable[[datetime], dict[str, Any]]
) -> None:
    """A call with `countdown` or `eta` is sent when it is due, and not kept by a worker."""
    moment = timezone.now() + timedelta(hours=1)
    app.tasks["shop.add"].apply_async((1,), **option_of(moment))
    event = OutboxEvent.objects.get()
    assert event.status == "scheduled"
    assert moment <= event.scheduled_at <= timezone.now() + timedelta(hours=1)
    assert publisher.process_pending_events() == 0
    assert take(broker, queue) == []


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_task_that_calls_again_with_its_own_id_is_sent_again(
    app: OutboxCelery, broker: str, queue: str
) -> None:
    """A retry of Celery has the id of the task, and is not taken for a repetition."""
    for retries in range(2):
        app.send_task("shop.add", (1,), task_id="same", retries=retries)
    publisher.process_pending_events()
    calls = take(broker, queue)
    assert [(call.id, call.headers["retries"]) for call in calls] == [("same", 0), ("same", 1)]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_argument_that_json_does_not_have_is_refused(app: OutboxCelery) -> None:
    """The call raises an error before anything is written."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        app.tasks["shop.add"].delay(object())
    assert not OutboxEvent.objects.exists()


def test_wrong_option_of_a_call_stops_no_other(app: OutboxCelery, broker: str, queue: str) -> None:
    """A call that Celery can't send becomes a dead letter, and the next ones are sent."""
    app.send_task("shop.add", (1,), serializer="none such")
    app.send_task("shop.add", (2,))
    publisher.process_pending_events()
    events = OutboxEvent.objects.order_by("pk")
    assert [event.status for event in events] == ["failed", "published"]
    assert "none such" in events[0].last_error
    assert [call.args for call in take(broker, queue)] == [[2]]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_eager_task_runs_without_the_outbox(app: OutboxCelery) -> None:
    """With `task_always_eager` a call runs the task at once, and writes no event."""
    app.conf.task_always_eager = True
    assert app.tasks["shop.add"].delay(1, second=2).get() == 3
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_alias_without_a_backend_is_named(app: OutboxCelery) -> None:
    """An app that names no backend of OUTBOX_PUBLISHERS says so at the first call."""
    app.outbox = "elsewhere"
    with pytest.raises(UnknownBackend, match="elsewhere"):
        app.send_task("shop.add", (1,))


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_event_that_is_no_call_is_a_dead_letter(app: OutboxCelery, broker: str, queue: str) -> None:
    """An event that only looks like a call of the app is not sent."""
    config = {"call": {"task_id": "1"}}
    publisher.publish_event("shop.add", "/shop", [1], backend="celery", publisher_config=config)
    publisher.process_pending_events()
    event = OutboxEvent.objects.get()
    assert event.status == "failed"
    assert "is not a call of OutboxCelery" in event.last_error
    assert take(broker, queue) == []
