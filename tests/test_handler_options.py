"""The options of a handler: its consumer, its retries, its timeout; and what it may raise."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from django_broadcaster.backends import LocalBackend
from django_broadcaster.backends.base import Message
from django_broadcaster.consumers import Delivery, ReceivedMessage
from django_broadcaster.consumers.rows import Writer
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    InvalidPublisherConfig,
    Reject,
    Rejected,
    Retry,
    TransientError,
)
from django_broadcaster.inbox import dispatch, process
from django_broadcaster.models import OutboxEvent
from django_broadcaster.registry import EventHandlerRegistry, event_registry
from django_broadcaster.retry import RetryPolicy
from tests.app.models import Order
from tests.relay.conftest import Join, clock, drain, join
from tests.support.databases import ANY
from tests.support.events import publish, row, statuses
from tests.support.registered import only_handlers
from tests.support.routing import OneDatabase
from tests.test_inbox import EVENT, handled, orders

if TYPE_CHECKING:
    from pytest_django import Settings

__all__ = ["clock", "join"]

LOCAL = "django_broadcaster.backends.LocalBackend"


@pytest.fixture
def registry() -> EventHandlerRegistry:
    """An empty registry."""
    return EventHandlerRegistry()


@pytest.fixture
def local(database: str, settings: Settings) -> Any:
    """The database of the outbox, whose events go to handlers."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": LOCAL}}
    settings.OUTBOX_RETRY = {"initial": 10.0, "factor": 2.0, "jitter": 0.0}
    with only_handlers():
        yield database


def raising(*errors: Exception, calls: list[str] | None = None) -> Callable[[CloudEvent], None]:
    """A handler that raises these errors one after the other, and then succeeds."""
    left = list(errors)

    def handle(event: CloudEvent) -> None:
        if calls is not None:
            calls.append(event.subject or "")
        if left:
            raise left.pop(0)

    return handle


def nothing(event: CloudEvent) -> None:
    """Do nothing."""


# --- consumer ------------------------------------------------------------------------------------


def test_a_handler_of_a_consumer_takes_its_events_alone(registry: EventHandlerRegistry) -> None:
    """Without `consumer` a handler takes events from everywhere."""
    registry.register("order.*", name="everywhere")(nothing)
    registry.register("order.*", name="billing", consumer="billing")(nothing)
    registry.register("order.*", name="both", consumer=["billing", "stock"])(nothing)

    def names(consumer: str = "") -> list[str]:
        return [each.name for each in registry.handlers_for("order.placed", consumer)]

    assert names() == ["everywhere"]
    assert names("billing") == ["everywhere", "billing", "both"]
    assert names("stock") == ["everywhere", "both"]
    assert registry.handlers_for("invoice.sent", "billing") == []


@pytest.mark.parametrize("database", ANY, indirect=True)
@pytest.mark.parametrize("number", [1, 2], ids=["alone", "in a batch"])
def test_a_message_names_its_consumer(local: str, number: int) -> None:
    """The backend runs the handlers of the consumer that `publisher_config` names."""
    calls: list[str] = []
    event_registry.register(name="mine", consumer="billing")(lambda event: calls.append("mine"))
    event_registry.register(name="other", consumer="stock")(lambda event: calls.append("other"))
    batch = [
        Message.of(EVENT.replace(id=str(place)), config={"consumer": "billing"})
        for place in range(number)
    ]
    backend = LocalBackend(alias="default")
    assert backend.send_batch(batch) == [None] * number
    assert calls == ["mine"] * number
    assert backend.show(batch[0]).destination == {"handlers": "mine"}


@pytest.mark.parametrize("key", ["consumer", "received"])
def test_keys_of_receivers_are_refused_to_publish_calls(key: str) -> None:
    """No event passes for one that a consumer has received."""
    with pytest.raises(InvalidPublisherConfig, match=key):
        LocalBackend(alias="default").validate_config({key: "billing"})


def test_retries_of_a_handler_count_for_its_consumer(registry: EventHandlerRegistry) -> None:
    """The number of a handler that never gets an event does not count for it."""
    registry.register("order.*", name="billing", consumer="billing", max_retries=9)(nothing)
    assert registry.max_retries_for("order.placed", 3) == 3
    assert registry.max_retries_for("order.placed", 3, "billing") == 9


def decode(message: ReceivedMessage) -> CloudEvent:
    """The corrected function of a project: the body is the id of an order."""
    name = message.body.decode()
    return CloudEvent("order.placed", "/shop", {}, id=name, subject=name)


@pytest.mark.parametrize("again", ["once", "again, as it was"])
def test_a_malformed_message_is_decoded_at_a_replay(
    local: str, join: Join, settings: Settings, again: str
) -> None:
    """Its dead letter becomes an event of its consumer, or stays one if nothing was corrected."""
    calls: list[str] = []
    event_registry.register(name="billing", consumer="billing")(raising(calls=calls))
    entry = {"CONSUMER": "tests.support.memory_broker.MemoryConsumer"}
    settings.OUTBOX_CONSUMERS = {"billing": entry}
    message = ReceivedMessage(body=b"a1", origin="memory", position="0")
    writer = Writer(local, "billing", "default")
    writer.write(writer.entries([Delivery(message, problem="not JSON")]), 1)
    if again == "once":
        entry["OPTIONS"] = {"decode": f"{__name__}.decode"}  # type: ignore[assignment]
    OutboxEvent.objects.using(local).replay()
    drain(join())
    found = list(OutboxEvent.objects.using(local).order_by("id"))
    if again == "once":
        assert [each.status for each in found] == ["published", "published"]
        assert (found[1].event_id, found[1].publisher_config) == ("a1", {"consumer": "billing"})
        assert calls == ["a1"]
    else:
        assert [each.status for each in found] == ["failed"]
        assert "Rejected: InvalidEvent" in found[0].last_error
        assert calls == []


# --- retry ---------------------------------------------------------------------------------------


def pause_of(name: str, local: str) -> float:
    """The seconds until the retry of an event."""
    return (row(name, local).scheduled_at - timezone.now()).total_seconds()


def test_a_handler_has_a_retry_policy(local: str, join: Join) -> None:
    """Its failures are retried by its own policy, and others by that of the backend."""
    slow = {"initial": 60, "factor": 2, "jitter": 0}
    errors = [ValueError("no"), ValueError("no")]
    event_registry.register("order.*", name="slow", retry=slow)(raising(*errors))
    publish("a1", using=local)
    loop = join()
    for pause in (60, 120):
        drain(loop)
        assert pause - 30 < pause_of("a1", local) <= pause
        OutboxEvent.objects.using(local).hasten()
    drain(loop)
    assert statuses(local) == {"a1": "published"}


@pytest.mark.parametrize("database", ANY, indirect=True)
@pytest.mark.parametrize(
    ("seconds", "pause"),
    [([1, None], 10), ([60, None], 60), ([1, 2], 2), ([None, None], 10)],
    ids=["shorter", "longer", "both", "neither"],
)
def test_the_longest_pause_of_an_events_handlers_applies(
    local: str, join: Join, seconds: list[float | None], pause: float
) -> None:
    """An event is retried as a whole; a handler without a policy has that of the backend."""
    for number, initial in enumerate(seconds):
        policy = None if initial is None else RetryPolicy(initial=initial, jitter=0)
        handle = raising(ValueError("no"))
        event_registry.register("order.*", name=f"handler-{number}", retry=policy)(handle)
    publish("a1", using=local)
    drain(join())
    waits = row("a1", local).scheduled_at - row("a1", local).updated_at
    assert waits.total_seconds() == pytest.approx(pause, abs=0.5)


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_handlers_number_of_retries_is_in_its_policy(local: str, join: Join) -> None:
    """`max_retries` of the policy is the number of the handler's events."""
    event_registry.register("order.*", name="once", retry={"max_retries": 0})(
        raising(ValueError("no"))
    )
    publish("a1", using=local)
    drain(join())
    assert statuses(local) == {"a1": "failed"}


@pytest.mark.parametrize("database", ANY, indirect=True)
@pytest.mark.parametrize(("after", "pause"), [(2, 2), (500, 500), (None, 10)])
def test_a_handler_asks_for_a_retry(
    local: str, join: Join, after: float | None, pause: float
) -> None:
    """`Retry(after=...)` is the pause, whatever the policy says; without it the policy applies."""
    event_registry.register("order.*", name="busy")(raising(Retry("busy", after=after)))
    publish("a1", using=local)
    drain(join())
    found = row("a1", local)
    assert (found.scheduled_at - found.updated_at).total_seconds() == pytest.approx(pause, abs=0.5)
    assert (found.retry_count, found.status) == (1, "retry")
    assert found.last_error.endswith(": busy")


def test_retry_and_reject_are_the_errors_of_the_contract() -> None:
    """They are TransientError and Rejected by other names, and can be pickled."""
    assert isinstance(Retry(after=5), TransientError)
    assert isinstance(Reject("no"), Rejected)
    copy = pickle.loads(pickle.dumps(Retry("busy", after=10**9)))  # noqa: S301  # it is ours
    assert (str(copy), copy.delay, copy.spends_retry) == ("busy", 86_400, True)
    assert str(Retry()) == "the handler asked for a retry"


# --- Reject --------------------------------------------------------------------------------------


def test_a_handler_that_rejected_an_event_does_not_run_again(local: str, join: Join) -> None:
    """While another handler is retried it rests, and then the event is a dead letter for it."""
    calls: list[str] = []
    event_registry.register("order.*", name="no")(raising(Reject("sold out"), calls=calls))
    event_registry.register("order.*", name="flaky")(raising(ValueError("1"), ValueError("2")))
    publish("a1", using=local)
    loop = join()
    for status in ("retry", "retry", "failed"):
        drain(loop)
        assert statuses(local) == {"a1": status}
        assert "handler no: Reject" in row("a1", local).last_error
        OutboxEvent.objects.using(local).hasten()
    assert calls == ["a1"]
    assert "rejected at an earlier attempt" in row("a1", local).last_error
    assert [name for name, _ in handled(local)] == ["flaky"]  # nothing is left of the rejection


@pytest.mark.parametrize("ends", ["by itself", "without retries left"])
def test_a_replay_runs_a_handler_again_that_rejected(local: str, join: Join, ends: str) -> None:
    """After a correction, it gets the event once more, and the others are skipped."""
    calls: list[str] = []
    event_registry.register("order.*", name="no")(raising(Reject("sold out"), calls=calls))
    errors = [ValueError("1")] if ends == "by itself" else [ValueError("1")] * 3
    event_registry.register("order.*", name="flaky")(raising(*errors))
    publish("a1", using=local, max_retries=1)
    loop = join()
    for _ in range(2):
        drain(loop)
        OutboxEvent.objects.using(local).hasten()
    assert statuses(local) == {"a1": "failed"}
    OutboxEvent.objects.using(local).replay()
    for _ in range(2):
        drain(loop)
        OutboxEvent.objects.using(local).hasten()
    assert statuses(local) == {"a1": "published"}
    assert calls == ["a1", "a1"]
    assert sorted(name for name, _ in handled(local)) == ["flaky", "no"]


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_first_rejection_spends_a_retry(local: str) -> None:
    """So the next attempt is not taken for the first one, which runs the handler again."""
    calls: list[str] = []
    registry = EventHandlerRegistry()
    registry.register(name="no")(raising(Reject("never"), calls=calls))
    busy = [TransientError("busy", spends_retry=False) for _ in range(2)]
    registry.register(name="busy")(raising(*busy))
    with pytest.raises(TransientError) as first:
        dispatch(EVENT, registry, attempt=1)
    with pytest.raises(TransientError) as second:
        dispatch(EVENT, registry, attempt=2)
    with pytest.raises(Rejected, match="handler no: Rejected: rejected at an earlier attempt"):
        dispatch(EVENT, registry, attempt=2)
    assert (first.value.spends_retry, second.value.spends_retry) == (True, False)
    assert len(calls) == 1


# --- async and timeout ---------------------------------------------------------------------------


class Later:
    """An instance that is async when it is called."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    async def __call__(self, event: CloudEvent) -> None:
        """Note the call, after a while."""
        await asyncio.sleep(0)
        self._calls.append(event.subject or "")


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_async_handlers_are_awaited(local: str) -> None:
    """A function, an instance, one in `async_to_sync()`, and one that a decorator hides."""
    calls: list[str] = []
    later = Later(calls)

    async def function(event: CloudEvent) -> None:
        await later(event)

    event_registry.register(name="function")(function)
    event_registry.register(name="instance")(later)
    event_registry.register(name="wrapped")(async_to_sync(function))
    event_registry.register(name="hidden")(lambda event: function(event))
    assert [each.is_async for each in event_registry] == [True, True, True, False]
    assert event_registry.handle_event(EVENT) is True
    LocalBackend(alias="default").send_batch([Message.of(EVENT)])
    assert len(calls) == 8


@pytest.mark.parametrize("wrap", [None, async_to_sync], ids=["plain", "async_to_sync"])
def test_an_async_handler_is_cancelled_at_its_timeout(database: str, wrap: Any) -> None:
    """It has failed, and its changes are rolled back."""
    ended: list[str] = []

    async def hang(event: CloudEvent) -> None:
        await Order.objects.using(database).acreate(number="undone")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    registry = EventHandlerRegistry()
    registry.register(name="hang", timeout=0.05)(wrap(hang) if wrap else hang)
    (handler,) = registry
    with pytest.raises(TransientError, match=r"cancelled after 0.05 s \(its timeout\)"):
        process(EVENT, handler, using=database)
    assert ended == ["cancelled"]
    assert (orders(database), handled(database)) == ([], [])


def test_a_timeout_error_of_the_handler_itself_is_kept(registry: EventHandlerRegistry) -> None:
    """Only the end of its own timeout is told as such."""

    async def fail(event: CloudEvent) -> None:
        raise TimeoutError("of a client")

    registry.register(name="fail", timeout=60)(fail)
    (handler,) = registry
    with pytest.raises(TimeoutError, match="of a client"):
        handler.call(EVENT)


def test_a_handler_that_cannot_be_cancelled_is_logged(
    registry: EventHandlerRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that took too long has succeeded, since its work is done."""
    registry.register(name="slow", timeout=1e-9)(nothing)
    (handler,) = registry
    with caplog.at_level(logging.WARNING, "django_broadcaster"):
        handler.call(EVENT)
    (record,) = caplog.records
    assert record.getMessage().startswith("Handler slow took 0.0 s (timeout 1e-09 s);")


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"consumer": ""}, ValueError, "consumer: must not be empty"),
        ({"consumer": []}, ValueError, "consumer: must not be empty"),
        ({"consumer": 5}, TypeError, "consumer: must be an alias of OUTBOX_CONSUMERS"),
        ({"consumer": ["a", 5]}, TypeError, "consumer: must be an alias of OUTBOX_CONSUMERS"),
        ({"timeout": 0}, ValueError, "timeout: must be a positive number of seconds, not 0"),
        ({"timeout": "5"}, ValueError, "timeout: must be a positive number of seconds, not '5'"),
        ({"retry": 5}, TypeError, "retry: must be a dictionary or a RetryPolicy, not 5"),
        ({"retry": {"initial": 0}}, ValueError, "retry: initial: must be a positive number"),
        ({"retry": {"intial": 5}}, ValueError, "retry: .*unexpected keyword argument 'intial'"),
        ({"retry": {"max_retries": 1}, "max_retries": 2}, ValueError, "max_retries: must be given"),
    ],
)
def test_a_wrong_option_is_refused(
    registry: EventHandlerRegistry, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The error names the option and its rule."""
    with pytest.raises(error, match=words):
        registry.register("order.*", name="handler", **options)(nothing)
    assert len(registry) == 0


@pytest.mark.parametrize(
    "options",
    [{"consumer": "billing"}, {"timeout": 5}, {"retry": {"initial": 5}}, {"max_retries": 5}],
    ids=lambda options: next(iter(options)),
)
def test_registrations_of_a_function_share_their_options(
    registry: EventHandlerRegistry, options: dict[str, Any]
) -> None:
    """A second registration that differs is an error, which names the option."""
    registry.register("order.*", name="handler")(nothing)
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: must be "):
        registry.register("invoice.*", name="handler", **options)(nothing)
