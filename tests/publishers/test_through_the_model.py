"""Rows that are written through the model hold what the publish calls hold."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from django_broadcaster.exceptions import InvalidEvent, PublishedFromAsync, WrongTransaction
from django_broadcaster.models import OutboxEvent
from tests.app.models import Order

NUMBER = UUID("0197b0f0-0000-7000-8000-000000000001")


def create(using: str, **columns: Any) -> OutboxEvent:
    """Write one row by `create`."""
    given = {"event_type": "order.placed", "source": "/shop", **columns}
    return OutboxEvent.objects.using(using).create(**given)


def bulk_create(using: str, **columns: Any) -> OutboxEvent:
    """Write one row by `bulk_create`."""
    given = {"event_type": "order.placed", "source": "/shop", **columns}
    [event] = OutboxEvent.objects.using(using).bulk_create([OutboxEvent(**given)])
    return event


WAYS = pytest.mark.parametrize("write", [create, bulk_create])
Write = Callable[..., OutboxEvent]


@WAYS
def test_transaction_can_be_required(database: str, write: Write) -> None:
    """OUTBOX_REQUIRE_TRANSACTION refuses a row outside of the caller's transaction."""
    with override_settings(OUTBOX_REQUIRE_TRANSACTION=True):
        with pytest.raises(WrongTransaction):
            write(database)
        with transaction.atomic(using=database):
            write(database)
    assert OutboxEvent.objects.using(database).count() == 1


@WAYS
def test_invalid_row_leaves_the_transaction_usable(database: str, write: Write) -> None:
    """What is wrong is said before any SQL: the caller's other changes still commit."""
    with transaction.atomic(using=database):
        Order.objects.using(database).create(number="1")
        with pytest.raises(InvalidEvent):
            write(database, event_type="")
        Order.objects.using(database).create(number="2")
    assert Order.objects.using(database).count() == 2


@WAYS
def test_text_is_taken_from_numbers_uuids_and_lazy_objects(database: str, write: Write) -> None:
    """The columns take what the arguments of publish_event take, 0 included."""
    lazy = SimpleLazyObject(lambda: "order.placed")
    write(database, event_type=lazy, subject=0, event_id=NUMBER, partition_key=0)
    row = OutboxEvent.objects.using(database).get()
    assert (row.event_type, row.subject, row.event_id) == ("order.placed", "0", str(NUMBER))
    assert row.partition_key == "0"


@WAYS
def test_data_goes_through_the_encoder(database: str, write: Write) -> None:
    """Lazy objects and decimals in the data and in publisher_config are encoded."""
    data = {"user": SimpleLazyObject(lambda: "user-1"), "total": Decimal("1.50")}
    write(database, data=data)
    assert OutboxEvent.objects.using(database).get().data == {"user": "user-1", "total": "1.50"}


def test_creating_in_async_code(database: str) -> None:
    """`acreate` works, and `create` in async code shows the right way before any SQL."""

    async def view(*, awaited: bool) -> None:
        rows = OutboxEvent.objects.using(database)
        if awaited:
            await rows.acreate(event_type="order.placed", source="/shop")
        else:
            rows.create(event_type="order.placed", source="/shop")

    with pytest.raises(PublishedFromAsync):
        async_to_sync(view)(awaited=False)
    assert not OutboxEvent.objects.using(database).exists()
    async_to_sync(view)(awaited=True)
    assert OutboxEvent.objects.using(database).count() == 1


def test_migrations_follow_the_models(transactional_db: None) -> None:
    """There is nothing that `makemigrations` would write."""
    call_command("makemigrations", "django_broadcaster", check=True, dry_run=True, verbosity=0)
