"""The consumer side: a handler has an event once, together with what it changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.test import override_settings
from django.utils import timezone

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import DeliveryError, Rejected, TransientError
from django_broadcaster.inbox import dispatch, process
from django_broadcaster.models import InboxEvent
from django_broadcaster.registry import EventHandlerRegistry, Handler
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.publishers.threads import threads, waits_for_lock
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

SECONDS = 20.0
EVENT = CloudEvent(event_type="order.placed", source="/shop", id="1", data={"number": "1"})


class OutOfStock(Exception):
    """What a handler of an application raises."""


def writing(database: str, name: str = "write") -> Handler:
    """A handler that writes an order named as itself."""

    def write(event: CloudEvent) -> None:
        Order.objects.using(database).create(number=name)

    return Handler(name, write, ("*",))


def failing(database: str, error: BaseException, name: str = "fail") -> Handler:
    """A handler that writes an order and raises."""

    def fail(event: CloudEvent) -> None:
        Order.objects.using(database).create(number=name)
        raise error

    return Handler(name, fail, ("*",))


def orders(database: str) -> list[str]:
    """The orders that handlers have written."""
    rows = Order.objects.using(database).order_by("id")
    return list(rows.values_list("number", flat=True))


def handled(database: str) -> list[tuple[str, str]]:
    """The handlers and ids that the inbox remembers."""
    rows = InboxEvent.objects.using(database).order_by("id")
    return list(rows.values_list("handler", "event_id"))


# --- One handler ---------------------------------------------------------------------------------


def test_handler_has_an_event_once(database: str) -> None:
    """However often an event comes, its handler changes the database once."""
    handler = writing(database)
    assert [process(EVENT, handler, using=database) for _ in range(3)] == [True, False, False]
    assert orders(database) == ["write"]
    assert handled(database) == [("write", "1")]


def test_inbox_remembers_who_had_what_and_when(database: str) -> None:
    """The entry names the handler and the event, for those who look into it."""
    before = timezone.now()
    process(EVENT, writing(database), using=database)
    entry = InboxEvent.objects.using(database).get()
    assert (entry.handler, entry.source, entry.event_id) == ("write", "/shop", "1")
    assert before <= entry.processed_at <= timezone.now()


@override_settings(USE_TZ=False, TIME_ZONE="America/Chicago")
def test_inbox_without_use_tz(database: str) -> None:
    """With USE_TZ off the entry has the local time, as every row of Django."""
    process(EVENT, writing(database), using=database)
    entry = InboxEvent.objects.using(database).get()
    assert abs(entry.processed_at - datetime.now()) < timedelta(minutes=1)  # noqa: DTZ005


@pytest.mark.parametrize(
    "error", [OutOfStock("none left"), Rejected("no"), KeyboardInterrupt()], ids=repr
)
def test_failure_rolls_back_both(database: str, error: BaseException) -> None:
    """What a handler raises is passed on, and neither its changes nor the note of it stay."""
    with pytest.raises(type(error)):
        process(EVENT, failing(database, error, "one"), using=database)
    assert (orders(database), handled(database)) == ([], [])
    assert process(EVENT, writing(database, "one"), using=database) is True
    assert orders(database) == ["one"]


def test_database_error_that_a_handler_hides_is_a_failure(database: str) -> None:
    """What went before the error cannot commit, so the handler does not count as done."""

    def hide(event: CloudEvent) -> None:
        order = Order.objects.using(database).create(number="lost")
        with suppress(IntegrityError):
            Order.objects.using(database).create(pk=order.pk)

    with pytest.raises(transaction.TransactionManagementError, match="handler hide "):
        process(EVENT, Handler("hide", hide, ("*",)), using=database)
    assert (orders(database), handled(database)) == ([], [])


def test_database_error_in_a_savepoint_is_none(database: str) -> None:
    """A handler that expects an error, and wraps it, goes on and commits."""

    def wrap(event: CloudEvent) -> None:
        order = Order.objects.using(database).create(number="kept")
        with suppress(IntegrityError), transaction.atomic(using=database):
            Order.objects.using(database).create(pk=order.pk)

    assert process(EVENT, Handler("wrap", wrap, ("*",)), using=database) is True
    assert orders(database) == ["kept"]
    assert len(handled(database)) == 1


def test_note_goes_with_the_transaction_around(database: str) -> None:
    """A caller's own transaction that is rolled back takes the handler's work with it."""
    handler = writing(database)
    with transaction.atomic(using=database):
        assert process(EVENT, handler, using=database) is True
        assert process(EVENT, handler, using=database) is False
        transaction.set_rollback(True, using=database)
    assert (orders(database), handled(database)) == ([], [])
    assert process(EVENT, handler, using=database) is True


def test_failure_leaves_the_transaction_around_usable(database: str) -> None:
    """Within a caller's transaction a handler's failure undoes the handler's part alone."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="by the caller")
        with pytest.raises(OutOfStock):
            process(EVENT, failing(database, OutOfStock()), using=database)
        Order.objects.using(database).create(number="by the caller, too")
    assert orders(database) == ["by the caller", "by the caller, too"]
    assert handled(database) == []


# --- What makes an event the same ----------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        EVENT.replace(id="2"),
        EVENT.replace(source="/shop/"),
        EVENT.replace(source="/SHOP"),
        EVENT.replace(id="1 "),
        EVENT.replace(id="１"),  # noqa: RUF001  # equal to 1 by some collations
        EVENT.replace(source="/sho", id="p1"),
    ],
    ids=lambda event: f"{event.source}-{event.id}",
)
def test_other_id_or_source_is_another_event(database: str, other: CloudEvent) -> None:
    """Events are told apart by source and id, byte by byte."""
    handler = writing(database)
    assert process(EVENT, handler, using=database) is True
    assert process(other, handler, using=database) is True
    assert len(orders(database)) == 2


def test_same_id_and_source_is_the_same_event(database: str) -> None:
    """Whatever else differs: a maker does not use an id twice."""
    handler = writing(database)
    process(EVENT, handler, using=database)
    assert (
        process(EVENT.replace(data=5, event_type="t", time=None), handler, using=database) is False
    )


def test_each_handler_has_the_event_by_its_name(database: str) -> None:
    """A handler of another name has not had it; a function moved under the old name has."""
    assert process(EVENT, writing(database, "one"), using=database) is True
    assert process(EVENT, writing(database, "ONE"), using=database) is True
    renamed = Handler("one", writing(database, "two").function, ("*",))
    assert process(EVENT, renamed, using=database) is False
    assert orders(database) == ["one", "ONE"]
    assert handled(database) == [("one", "1"), ("ONE", "1")]


def test_names_longer_than_their_columns(database: str) -> None:
    """Ids of other makers and paths of handlers have no limit, and are told apart to their end."""
    long = "😀" * 1000
    for number in range(2):
        event = EVENT.replace(id=f"{long}{number}", source=f"/{'x' * 1000}{number}")
        for name in (f"{long}a", f"{long}b"):
            assert process(event, writing(database, "write"), using=database) is (name[-1] == "a")
            handler = Handler(name, lambda event: None, ("*",))
            assert process(event, handler, using=database) is True
            assert process(event, handler, using=database) is False
    assert InboxEvent.objects.using(database).count() == 6


# --- At once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_two_consumers_at_once(database: str, commits: bool) -> None:
    """The second waits for the first, and runs the handler only if the first has failed."""
    handler = writing(database)
    with threads(1) as start:
        with transaction.atomic(using=database):
            assert process(EVENT, handler, using=database) is True
            other = start(lambda: process(EVENT, handler, using=database))
            wait_until(lambda: waits_for_lock(database), SECONDS, "the second waits")
            transaction.set_rollback(not commits, using=database)
        assert other.result(SECONDS) is not commits
    assert orders(database) == ["write"]
    assert handled(database) == [("write", "1")]


def test_many_consumers_at_once(database: str) -> None:
    """Of many deliveries of one event to many consumers one runs the handler."""
    handler = writing(database)
    with threads(8) as start:
        running = [start(lambda: process(EVENT, handler, using=database)) for _ in range(24)]
        ran = [each.result(SECONDS) for each in running]
    assert ran.count(True) == 1
    assert orders(database) == ["write"]


def test_inbox_costs_one_statement(database: str) -> None:
    """Beside the transaction it is one INSERT, for an event that was there before as well."""
    handler = Handler("nothing", lambda event: None, ("*",))
    with transaction.atomic(using=database):
        for _ in range(2):
            with statements() as run:
                process(EVENT, handler, using=database)
            kept = [sql for sql in run if "SAVEPOINT" not in sql]
            assert [sql.split()[0] for sql in kept] == ["INSERT"]


# --- All handlers of an event --------------------------------------------------------------------


@pytest.fixture
def routed(database: str) -> Any:
    """As `database`; what names no database goes there."""
    with override_settings(DATABASE_ROUTERS=[OneDatabase(database)]):
        yield database


def registry_of(*handlers: Handler) -> EventHandlerRegistry:
    """A registry with these handlers, for all events of orders."""
    registry = EventHandlerRegistry()
    for handler in handlers:
        registry.register("order.*", name=handler.name)(handler.function)
    return registry


def test_dispatch_runs_every_handler_of_the_event_once(routed: str) -> None:
    """Handlers whose pattern matches run, in their order, and not again for the same event."""
    registry = registry_of(writing(routed, "one"), writing(routed, "two"))
    registry.register("invoice.*")(writing(routed, "three").function)
    dispatch(EVENT, registry)
    dispatch(EVENT, registry)
    assert orders(routed) == ["one", "two"]
    assert handled(routed) == [("one", "1"), ("two", "1")]


def test_dispatch_of_an_event_without_handlers(routed: str) -> None:
    """Nobody is interested: that is no error, and nothing is written."""
    dispatch(EVENT, EventHandlerRegistry())
    assert handled(routed) == []


def test_other_handlers_run_when_one_fails(routed: str) -> None:
    """One handler's failure keeps no other from running, and only that one runs again."""
    failures = [OutOfStock("none left")]

    def flaky(event: CloudEvent) -> None:
        Order.objects.using(routed).create(number="flaky")
        if failures:
            raise failures.pop()

    handlers = (writing(routed, "one"), Handler("flaky", flaky, ()), writing(routed, "two"))
    registry = registry_of(*handlers)
    with pytest.raises(TransientError):
        dispatch(EVENT, registry)
    assert orders(routed) == ["one", "two"]
    dispatch(EVENT, registry)
    assert orders(routed) == ["one", "two", "flaky"]
    assert sorted(handled(routed)) == [("flaky", "1"), ("one", "1"), ("two", "1")]


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([OutOfStock("none left")], TransientError),
        ([TransientError("later")], TransientError),
        ([Rejected("never")], Rejected),
        ([Rejected("never"), Rejected("no")], Rejected),
        ([Rejected("never"), OutOfStock("none left")], TransientError),
    ],
    ids=lambda value: "+".join(map(repr, value)) if isinstance(value, list) else value.__name__,
)
def test_failures_are_raised_as_one(
    routed: str, errors: list[Exception], kind: type[Exception]
) -> None:
    """One error names every handler that failed and why; it is Rejected if each of them was."""
    handlers = [failing(routed, each, f"handler-{i}") for i, each in enumerate(errors)]
    with pytest.raises(kind) as caught:
        dispatch(EVENT, registry_of(*handlers, writing(routed)))
    assert caught.type is kind
    assert caught.value.__cause__ is errors[0]
    for number, error in enumerate(errors):
        where = rf"handler handler-{number}: {type(error).__name__} at \S+\.py:\d+: {error}"
        assert re.search(where, str(caught.value))
    assert orders(routed) == ["write"]


@pytest.mark.parametrize(
    ("error", "unforeseen"), [(OutOfStock("none left"), True), (Rejected("never"), False)], ids=repr
)
def test_unforeseen_failure_is_told(routed: str, error: Exception, unforeseen: bool) -> None:
    """A handler's own trouble is there to be logged; what it says on purpose is not."""
    with pytest.raises(DeliveryError) as caught:
        dispatch(EVENT, registry_of(failing(routed, error)))
    assert caught.value.unforeseen is (error if unforeseen else None)


@pytest.mark.parametrize(
    ("errors", "seconds", "spends"),
    [
        ([TransientError("busy", retry_after=60)], 60, True),
        ([TransientError("busy", retry_after=60), TransientError("x", retry_after=90)], 90, True),
        ([TransientError("not now", spends_retry=False)], 0, False),
        ([TransientError("not now", spends_retry=False), ValueError("wrong")], 0, True),
    ],
)
def test_what_handlers_want_is_kept(
    routed: str, errors: list[Exception], seconds: float, spends: bool
) -> None:
    """How long to wait, and whether a retry is spent, is the say of those that failed."""
    handlers = [failing(routed, each, f"handler-{i}") for i, each in enumerate(errors)]
    with pytest.raises(TransientError) as caught:
        dispatch(EVENT, registry_of(*handlers))
    assert (caught.value.retry_after, caught.value.spends_retry) == (seconds, spends)


def test_handlers_commit_each_by_itself(routed: str) -> None:
    """What one handler did is there for good when the next one begins."""
    seen: list[list[str]] = []

    def look(event: CloudEvent) -> None:
        with threads(1) as start:
            seen.append(start(lambda: orders(routed)).result(SECONDS))

    dispatch(EVENT, registry_of(writing(routed, "one"), Handler("look", look, ())))
    assert seen == [["one"]]


def test_process_goes_where_the_router_writes(routed: str) -> None:
    """Without `using` the inbox is in the database to which the router sends InboxEvent."""
    assert process(EVENT, writing(routed)) is True
    counts = {alias: len(handled(alias)) for alias in settings.DATABASES}
    assert counts == {alias: int(alias == routed) for alias in settings.DATABASES}


def test_named_database_goes_before_the_router(database: str) -> None:
    """`using` is the last word, for the inbox and for the transaction."""
    inside: list[bool] = []
    record: Callable[[CloudEvent], None] = lambda event: inside.append(  # noqa: E731
        connections[database].in_atomic_block
    )
    for other in settings.DATABASES:
        with override_settings(DATABASE_ROUTERS=[OneDatabase(other)]):
            process(EVENT, Handler("record", record, ("*",)), using=database)
    assert inside == [True]
    assert handled(database) == [("record", "1")]
