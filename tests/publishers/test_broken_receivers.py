"""Receivers of `event_created` run in the caller's transaction, and may break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError

from django_broadcaster.exceptions import BrokenTransaction
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.signals import event_created
from tests.app.models import Order
from tests.support.databases import SERVERS

Publish = Callable[[str], object]


def _one(database: str) -> object:
    return publisher.publish_event("order.placed", "/shop", using=database)


def _many(database: str) -> object:
    events = [{"event_type": "order.placed", "source": "/shop"}] * 2
    return publisher.publish_events(events, using=database)


def _generated(database: str) -> object:
    events = ({"event_type": "order.placed", "source": "/shop"} for _ in range(2))
    return publisher.publish_events(events, using=database)


def _created(database: str) -> object:
    return OutboxEvent.objects.using(database).create(event_type="order.placed", source="/shop")


def _created_in_bulk(database: str) -> object:
    events = [OutboxEvent(event_type="order.placed", source="/shop") for _ in range(2)]
    return OutboxEvent.objects.using(database).bulk_create(events)


WAYS = {
    "one": _one,
    "many": _many,
    "generated": _generated,
    "create": _created,
    "bulk_create": _created_in_bulk,
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def publish(request: pytest.FixtureRequest) -> Publish:
    """A way to publish."""
    found: Publish = request.param
    return found


@contextmanager
def receiving(receiver: Callable[..., object]) -> Iterator[None]:
    """Connect a receiver of the signal for the time of the block."""
    event_created.connect(receiver)
    try:
        yield
    finally:
        event_created.disconnect(receiver)


def execute(database: str, sql: str) -> None:
    """Run a statement."""
    with connections[database].cursor() as cursor:
        cursor.execute(sql)


def saved(database: str) -> tuple[int, int]:
    """Return how many orders and how many events there are."""
    return Order.objects.using(database).count(), OutboxEvent.objects.using(database).count()


def change_and_publish(database: str, publish: Publish, hooks: list[str]) -> None:
    """Do what an application does, in a transaction."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        publish(database)
        transaction.on_commit(lambda: hooks.append("committed"), using=database)


@pytest.mark.parametrize("hides", [False, True], ids=["raises", "hides"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_receiver_whose_error_undoes_the_transaction(
    database: str, publish: Publish, hides: bool
) -> None:
    """The publish call raises if the change and its event could not commit; else both commit."""

    def receive(**_: Any) -> None:
        try:
            execute(database, "SELECT * FROM no_such_table")
        except DatabaseError:
            if not hides:
                raise

    hooks: list[str] = []
    with receiving(receive):
        if connections[database].vendor == "postgresql":
            with pytest.raises(BrokenTransaction, match="a receiver of event_created"):
                change_and_publish(database, publish, hooks)
            assert saved(database) == (0, 0)
        else:
            change_and_publish(database, publish, hooks)
            assert saved(database)[0] == 1
    assert bool(hooks) is (saved(database)[0] == 1)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda database: execute(database, "ROLLBACK"),
        lambda database: connections[database].close(),
        lambda database: transaction.set_rollback(True, using=database),
    ],
    ids=["rolls back", "closes", "sets rollback"],
)
def test_receiver_that_ends_the_transaction(
    database: str, publish: Publish, breaks: Callable[[str], object]
) -> None:
    """Whatever a receiver does to the transaction, the event does not vanish without an error."""
    hooks: list[str] = []

    def receive(**_: Any) -> None:
        breaks(database)

    with receiving(receive), pytest.raises(TransactionManagementError):
        change_and_publish(database, publish, hooks)
    assert hooks == []
    assert saved(database) == (0, 0)


def test_caller_that_hides_the_error_commits_nothing(database: str) -> None:
    """Nothing that follows a broken transaction commits without the event."""

    def receive(**_: Any) -> None:
        execute(database, "ROLLBACK")

    hooks: list[str] = []

    def call() -> None:
        with transaction.atomic(using=database):
            with suppress(BrokenTransaction):
                _one(database)
            transaction.on_commit(lambda: hooks.append("committed"), using=database)
            Order.objects.using(database).create(number="after")

    with receiving(receive), pytest.raises(TransactionManagementError):
        call()
    assert hooks == []
    assert saved(database) == (0, 0)


def test_receiver_that_wraps_what_may_fail(database: str, publish: Publish) -> None:
    """An error inside of a savepoint breaks nothing: it is logged, and the event is saved."""

    def receive(**_: Any) -> None:
        with transaction.atomic(using=database):
            execute(database, "SELECT * FROM no_such_table")

    hooks: list[str] = []
    with receiving(receive):
        change_and_publish(database, publish, hooks)
    assert hooks == ["committed"]
    assert saved(database)[0] == 1
    assert saved(database)[1] > 0


def test_receiver_that_fails_outside_of_a_transaction(database: str) -> None:
    """The event is saved already, and the receiver's error is logged."""

    def receive(**_: Any) -> None:
        execute(database, "SELECT * FROM no_such_table")

    with receiving(receive):
        _one(database)
    assert saved(database) == (0, 1)


@pytest.mark.parametrize("create", [_created, _created_in_bulk], ids=["create", "bulk_create"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_row_of_the_model_that_a_receiver_undoes_outside_of_a_transaction(
    database: str, create: Publish
) -> None:
    """The row is written in a transaction of its own: it is saved, or the call raises."""

    def receive(**_: Any) -> None:
        execute(database, "SELECT * FROM no_such_table")

    with receiving(receive):
        if connections[database].vendor == "postgresql":
            with pytest.raises(BrokenTransaction):
                create(database)
            assert saved(database) == (0, 0)
        else:
            create(database)
            assert saved(database)[1] > 0
