"""A change and its event are one transaction, and `suppressed` is local to its thread and task."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, models, transaction
from django.db.models.signals import pre_delete
from django.test import TestCase
from django.test.utils import isolate_apps

from django_broadcaster.exceptions import WrongTransaction
from django_broadcaster.model_events import (
    PublishingManager,
    PublishingQuerySet,
    model_events,
    publishes,
    rows,
    suppressed,
)
from django_broadcaster.model_events.publication import is_suppressed
from tests.app.models import Customer, Folder, Item, Parcel, SpecialItem
from tests.publishers.statements import statements
from tests.publishers.threads import threads, waits_for_lock
from tests.support.databases import ANY, POSTGRESQL, SERVERS
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

from .outbox import clear, published

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture
def outbox(database: str, settings: Settings) -> str:
    """The database of the models and of the outbox."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


@pytest.fixture
def plain_model(outbox: str) -> Iterator[type[models.Model]]:
    """A model that is not a PublishingModel, on the table of customers."""
    with isolate_apps("tests.app"):

        @publishes(
            created="plain.created", updated="plain.updated", source="/tests", fields=["name"]
        )
        class Plain(models.Model):
            name = models.CharField(max_length=50)
            objects = PublishingManager()

            class Meta:
                app_label = "tests_app"
                db_table = Customer._meta.db_table

            def __str__(self) -> str:
                return self.name

        yield Plain
        model_events.remove(Plain)


def test_a_save_outside_of_a_transaction_is_refused(plain_model: type[models.Model]) -> None:
    """Before any SQL: its event could be lost, since the save would commit by itself."""
    with statements() as run, pytest.raises(WrongTransaction, match="PublishingModel"):
        plain_model(name="Ada").save()
    assert run == []


def test_a_save_within_a_transaction_needs_no_base_class(
    plain_model: type[models.Model], outbox: str
) -> None:
    """The block holds the change and its event."""
    with transaction.atomic(outbox):
        found = plain_model(name="Ada")
        found.save()
        found.name = "Eve"  # type: ignore[attr-defined]
        found.save()
    assert [each.event_type for each in published()] == ["plain.created", "plain.updated"]


def test_the_methods_of_querysets_open_a_transaction(plain_model: type[models.Model]) -> None:
    """So a manager alone is enough for them."""
    manager: Any = plain_model._default_manager
    manager.create(name="Ada")
    manager.bulk_create([plain_model(name="Eve")])
    manager.update(name="Joe")
    manager.update_or_create(name="Sue")
    assert len(published()) == 5


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_model_without_deleted_keeps_fast_deletes(
    plain_model: type[models.Model], outbox: str
) -> None:
    """Without receivers, Django deletes by one statement."""
    manager: Any = plain_model._default_manager
    manager.bulk_create([plain_model(name="Ada"), plain_model(name="Eve")])
    with transaction.atomic(outbox), statements() as run:
        manager.all().delete()
    assert [each.split()[0] for each in run] == ["DELETE"]


def test_the_transaction_of_a_test_case_does_not_count(
    plain_model: type[models.Model], outbox: str
) -> None:
    """Tests find a save that would fail in production."""

    class Case(TestCase):
        databases = {outbox}

        def runTest(self) -> None:  # noqa: N802
            with pytest.raises(WrongTransaction):
                plain_model(name="Ada").save()
            Item().save()

    result = Case().run()
    assert result is not None
    assert (result.errors, result.failures) == ([], [])


def test_an_autocommit_that_is_off_is_a_transaction(
    plain_model: type[models.Model], outbox: str
) -> None:
    """The caller commits both."""
    transaction.set_autocommit(False, using=outbox)
    try:
        plain_model(name="Ada").save()
        assert len(published()) == 1
        transaction.rollback(using=outbox)
        assert published() == []
    finally:
        transaction.rollback(using=outbox)
        transaction.set_autocommit(True, using=outbox)


def test_a_savepoint_of_a_receiver_takes_its_events_with_it(outbox: str) -> None:
    """During a deletion, whose events are written together; the others are published."""
    Item.objects.bulk_create([Item(), Item()])
    clear()

    def change(using: str, **_: Any) -> None:
        Parcel.objects.create(kilos=1)
        for is_failure in (True, False):
            with transaction.atomic(using):
                parcel = Parcel.objects.create(kilos=2)
                Parcel.objects.filter(pk=parcel.pk).update(kilos=3)
                transaction.set_rollback(is_failure, using=using)

    pre_delete.connect(change, sender=Item)
    try:
        Item.objects.all().delete()
    finally:
        pre_delete.disconnect(change, sender=Item)
    assert Parcel.objects.count() == 4
    assert Counter(each.event_type for each in published()) == {
        "parcel.packed": 4,
        "parcel.changed": 2,
        "item.deleted": 2,
    }


@contextmanager
def _on_deletion(change: Callable[[Item], object]) -> Iterator[None]:
    """Change the counterpart of an item that is deleted, which is the other one of two."""

    def receiver(instance: Item, **_: Any) -> None:
        for counterpart in Item.objects.exclude(pk=instance.pk):
            change(counterpart)

    pre_delete.connect(receiver, sender=Item)
    try:
        yield
    finally:
        pre_delete.disconnect(receiver, sender=Item)


def _delete_once(item: Item) -> None:
    if item.note != "deleting":
        models.QuerySet(Item).update(note="deleting")
        item.delete()


def _delete_once_by_queryset(item: Item) -> None:
    if item.note != "deleting":
        models.QuerySet(Item).update(note="deleting")
        Item.objects.filter(pk=item.pk).delete()


@pytest.mark.parametrize("order", ["pk", "-pk"])
@pytest.mark.parametrize("change", [_delete_once, _delete_once_by_queryset])
def test_rows_that_a_receiver_deletes_are_published_once(
    outbox: str, change: Callable[[Item], object], order: str
) -> None:
    """Although the deletion around it has read them before."""
    Item.objects.bulk_create([Item(pk=1), Item(pk=2)])
    clear()
    with _on_deletion(change):
        Item.objects.order_by(order).delete()
    found = [(each.event_type, each.subject) for each in published()]
    assert sorted(found) == [("item.deleted", "1"), ("item.deleted", "2")]


def _save_as_paid(item: Item) -> None:
    item.status = "paid"
    item.save()


def _save_as_paid_in_savepoint(item: Item) -> None:
    with transaction.atomic(item._state.db):
        _save_as_paid(item)


def _save_silently(item: Item) -> None:
    with suppressed():
        _save_as_paid(item)


@pytest.mark.parametrize(
    "change",
    [
        _save_as_paid,
        _save_as_paid_in_savepoint,
        _save_silently,
        lambda item: Item.objects.filter(pk=item.pk).update(status="paid"),
        lambda item: Item.objects.bulk_update([Item(pk=item.pk, status="paid")], ["status"]),
    ],
)
def test_a_deletion_publishes_what_a_receiver_changed(
    outbox: str, change: Callable[[Item], object]
) -> None:
    """The row that is deleted last was changed after the deletion had read it."""
    Item.objects.bulk_create([Item(pk=1), Item(pk=2)])
    clear()
    with _on_deletion(change):
        Item.objects.all().delete()
    statuses = {each.data["status"] for each in published() if each.event_type == "item.deleted"}
    assert statuses == {"new", "paid"}


def _change_at_once(outbox: str, change: Callable[[Item], object]) -> list[tuple[str, str]]:
    """Change an item that another transaction sets to `paid`; return what both publish."""
    item = Item.objects.create(status="new")
    clear()
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.update(status="paid")
            done = start(lambda: change(item))
            wait_until(lambda: waits_for_lock(outbox), 20, "the second change waits")
        done.result(20)
    return [(each.event_type, each.data["status"]) for each in published()]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.save(),
        lambda item: Item.objects.update(status="new"),
        lambda item: Item.objects.bulk_update([item], ["status"]),
    ],
)
def test_a_change_is_compared_with_the_row_that_it_overwrites(
    outbox: str, change: Callable[[Item], object]
) -> None:
    """A change waits for another transaction's before it reads the row."""
    found = _change_at_once(outbox, change)
    assert found == [("item.updated", "paid"), ("item.updated", "new")]
    assert Item.objects.get().status == "new"


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "delete",
    [
        lambda item: item.delete(),
        lambda item: Item.objects.all().delete(),
        lambda item: models.QuerySet(Item).delete(),
        lambda item: Customer.objects.all().delete(),
        lambda item: item.customer.delete(),
    ],
)
def test_a_deletion_is_published_after_the_changes_before_it(
    outbox: str, delete: Callable[[Item], object]
) -> None:
    """Also those of a transaction that has locked the row, and publishes only then."""
    item = Item.objects.create(customer=Customer.objects.create(name="Ada"))
    clear()
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.select_for_update().get(pk=item.pk)
            done = start(lambda: delete(item))
            wait_until(lambda: waits_for_lock(outbox), 20, "the deletion waits")
            Item.objects.update(status="paid")
        done.result(20)
    found = [(each.event_type, each.data["status"]) for each in published()]
    assert found == [("item.updated", "paid"), ("item.deleted", "paid")]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "delete",
    [
        lambda item: item.delete(),
        lambda item: Item.objects.all().delete(),
        lambda item: models.QuerySet(Item).delete(),
        lambda item: item.customer.delete(),
    ],
)
def test_rows_that_two_transactions_delete_are_published_once(
    outbox: str, delete: Callable[[Item], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one finds no row; an old snapshot, which MariaDB has at this level, is not read."""
    connection = connections[outbox]
    if connection.vendor == "mysql":
        options = connection.settings_dict["OPTIONS"]
        monkeypatch.setitem(options, "isolation_level", "repeatable read")
    item = Item.objects.create(customer=Customer.objects.create(name="Ada"))
    clear()
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.all().delete()
            done = start(lambda: delete(item))
            wait_until(lambda: waits_for_lock(outbox), 20, "the second deletion waits")
        done.result(20)
    assert [each.event_type for each in published()] == ["item.deleted"]


def _pay(item: Item) -> None:
    item.status = "paid"
    item.save()


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize("change", [_pay, lambda item: Item.objects.update(status="paid")])
def test_a_change_that_another_transaction_has_made_is_none(
    outbox: str, change: Callable[[Item], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is an old snapshot of the row read afterwards, which MariaDB has at this level."""
    connection = connections[outbox]
    if connection.vendor == "mysql":
        options = connection.settings_dict["OPTIONS"]
        monkeypatch.setitem(options, "isolation_level", "repeatable read")
    assert _change_at_once(outbox, change) == [("item.updated", "paid")]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_an_update_leaves_out_rows_that_meet_its_conditions_later(outbox: str) -> None:
    """Such a row has not been read and locked, so its event would be missing."""
    first = Item.objects.create(status="new")
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.select_for_update().get(pk=first.pk)
            done = start(lambda: Item.objects.filter(status="new").update(status="paid"))
            wait_until(lambda: waits_for_lock(outbox), 20, "the update waits")
            Item.objects.create(status="new")
        assert done.result(20) == 1
    assert [each.status for each in Item.objects.order_by("pk")] == ["paid", "new"]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_deletion_evaluates_its_conditions_when_it_has_the_locks(outbox: str) -> None:
    """Rows that another transaction changed meanwhile are deleted and published, or neither."""
    kept, gone = Item.objects.bulk_create([Item(pk=1), Item(pk=2)])
    clear()
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.select_for_update().get(pk=kept.pk)
            done = start(lambda: Item.objects.filter(status="new").delete())
            wait_until(lambda: waits_for_lock(outbox), 20, "the deletion waits")
            Item.objects.filter(pk=kept.pk).update(status="paid")
            later = Item.objects.create()
        assert done.result(20)[0] == 2
    assert [each.pk for each in Item.objects.all()] == [kept.pk]
    deleted = [each.subject for each in published() if each.event_type == "item.deleted"]
    assert sorted(deleted) == sorted([str(gone.pk), str(later.pk)])


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize("chunk", [1, 500])
@pytest.mark.parametrize(
    "change",
    [
        lambda: Item.objects.order_by("-pk").update(status="paid"),
        lambda: Item.objects.order_by("-pk").delete(),
        lambda: Item.objects.bulk_update(
            [Item(pk=pk, status="paid") for pk in (2, 1)], ["status"], batch_size=1
        ),
    ],
)
def test_bulk_changes_lock_rows_in_one_order(
    outbox: str, change: Callable[[], object], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the queryset and of the table, so that two of them do not deadlock."""
    monkeypatch.setattr(rows, "CHUNK", chunk)
    Item.objects.bulk_create([Item(pk=2), Item(pk=1)])
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.select_for_update().get(pk=1)
            done = start(change)
            wait_until(lambda: waits_for_lock(outbox), 20, "the change waits")
            Item.objects.select_for_update().get(pk=2)
        done.result(20)
    assert Item.objects.filter(status="new").count() == 0


@pytest.mark.parametrize("database", POSTGRESQL, indirect=True)
@pytest.mark.parametrize(
    "delete",
    [
        lambda folder: folder.delete(),
        lambda folder: Folder.objects.all().delete(),
        lambda folder: models.QuerySet(Folder).delete(),
    ],
)
def test_a_deletion_does_not_deadlock_with_a_change_of_a_referenced_row(
    outbox: str, delete: Callable[[Folder], object]
) -> None:
    """A transaction that refers to a row holds FOR KEY SHARE, and may change the row then."""
    folder = Folder.objects.create(name="before")
    with threads(1) as start:
        with transaction.atomic(outbox):
            with connections[outbox].cursor() as cursor:
                cursor.execute(f"SELECT FROM {Folder._meta.db_table} FOR KEY SHARE")
            done = start(lambda: delete(folder))
            wait_until(lambda: waits_for_lock(outbox), 20, "the deletion waits")
            Folder.objects.update(name="after")
        done.result(20)
    assert [each.data["name"] for each in published()] == ["after"]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(status="paid"),
        lambda found: found.delete(),
    ],
)
def test_a_bulk_change_ignores_the_lock_of_its_queryset(
    outbox: str, change: Callable[[PublishingQuerySet[Item]], object]
) -> None:
    """As Django does: DISTINCT works with it, and SKIP LOCKED leaves no row out."""
    Item.objects.create()
    change(Item.objects.select_for_update().distinct())
    item = Item.objects.create()
    with threads(1) as start:
        with transaction.atomic(outbox):
            Item.objects.select_for_update().get(pk=item.pk)
            done = start(lambda: change(Item.objects.select_for_update(skip_locked=True)))
            wait_until(lambda: waits_for_lock(outbox), 20, "the change waits")
        done.result(20)
    assert not Item.objects.filter(status="new").exists()


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_suppressed_is_a_decorator_and_nests(outbox: str) -> None:
    """The end of an inner block does not end the outer one."""

    @suppressed()
    def load() -> None:
        with suppressed(Parcel):
            Item.objects.create()
        Item.objects.create()

    load()
    assert published() == []
    Item.objects.create()
    assert len(published()) == 1


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_suppressed_can_be_limited_to_models(outbox: str) -> None:
    """Others publish."""
    with suppressed(Item):
        Item.objects.create()
        Parcel.objects.create(kilos=1)
    assert [each.event_type for each in published()] == ["parcel.packed"]


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_suppressing_a_child_leaves_the_deletion_of_its_parent(outbox: str) -> None:
    """Django deletes an object of the parent's class; suppressing the parent suppresses all."""
    with suppressed(SpecialItem):
        SpecialItem.objects.create().delete()
    with suppressed(Item):
        SpecialItem.objects.create().delete()
    assert [each.event_type for each in published()] == ["item.deleted"]


def test_suppressed_applies_to_its_thread_only() -> None:
    """Another thread publishes meanwhile."""
    found: list[bool] = []
    with suppressed():
        thread = Thread(target=lambda: found.append(is_suppressed(Item)))
        thread.start()
        thread.join()
        assert is_suppressed(Item)
    assert found == [False]


def test_suppressed_applies_to_its_task_only() -> None:
    """Another task publishes meanwhile; the threads of `sync_to_async` follow their task."""

    async def main() -> None:
        begun, seen = asyncio.Event(), asyncio.Event()

        async def suppress() -> bool:
            with suppressed():
                begun.set()
                await seen.wait()
                return await sync_to_async(is_suppressed)(Item)

        async def look() -> bool:
            await begun.wait()
            found = await sync_to_async(is_suppressed)(Item)
            seen.set()
            return found

        assert await asyncio.gather(suppress(), look()) == [True, False]

    async_to_sync(main)()


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda item: Item().save(), 3),
        (lambda item: item.save(), 3),
        (lambda item: item.save(update_fields=["note"]), 1),
        (lambda item: Item.objects.bulk_create([Item(), Item()]), 3),
        (lambda item: Item.objects.update(status="paid"), 5),
        (lambda item: Item.objects.update(note="x"), 1),
        (lambda item: Item.objects.bulk_update([item], ["note"]), 1),
        (lambda item: item.delete(), 4),
    ],
)
def test_the_statements_of_a_change_are_as_documented(
    outbox: str, change: Callable[[Item], object], count: int
) -> None:
    """In a transaction: Django's own statement, the reads, and the insert of the events."""
    item = Item.objects.create()
    clear()
    with transaction.atomic(outbox), statements() as run:
        change(item)
    assert len(run) == count, run


def _items(count: int) -> None:
    customer = Customer.objects.create(name="Ada")
    Item.objects.bulk_create([Item(customer=customer) for _ in range(count)])


def _folders() -> None:
    root = Folder.objects.create(name="root")
    Folder.objects.bulk_create([Folder(parent=root), Folder(parent=root)])


def _children() -> None:
    for _ in range(2):
        SpecialItem.objects.create()


@pytest.mark.parametrize(
    ("make", "delete", "selects", "inserts"),
    [
        (lambda: _items(2), lambda: Item.objects.earliest("pk").delete(), 1, 1),
        (lambda: _items(2), lambda: Item.objects.all().delete(), 2, 1),
        (lambda: _items(501), lambda: Item.objects.all().delete(), 3, 1),
        (lambda: _items(2), lambda: models.QuerySet(Item).delete(), 2, 2),
        (lambda: _items(2), lambda: Customer.objects.get().delete(), 2, 2),
        (_folders, lambda: Folder.objects.filter(parent=None).delete(), 4, 1),
        (_children, lambda: SpecialItem.objects.all().delete(), 2, 1),
    ],
)
def test_the_statements_of_a_deletion_are_as_documented(
    outbox: str,
    make: Callable[[], None],
    delete: Callable[[], object],
    selects: int,
    inserts: int,
) -> None:
    """Besides those of the same deletion without events."""

    def reads() -> int:
        return sum(each.startswith("SELECT") and "tests_app" in each for each in collected)

    with suppressed():
        make()
        with transaction.atomic(outbox), statements() as collected:
            delete()
            own = reads()
            transaction.set_rollback(True, using=outbox)
    with transaction.atomic(outbox), statements() as collected:
        delete()
    assert reads() == own + selects
    if connections[outbox].vendor != "sqlite":  # a statement per row there
        assert sum(each.startswith("INSERT") for each in collected) == inserts
