"""Each change that Django makes to a declared model publishes its events, once and correctly."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.core import serializers
from django.db import NotSupportedError, connections, transaction
from django.db.models import F

from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.model_events import (
    PublishingManager,
    PublishingQuerySet,
    model_events,
    suppressed,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.typed_events import from_cloud_event
from tests.app.models import Customer, Folder, Item, ItemProxy, Parcel, ParcelPacked, SpecialItem
from tests.publishers.statements import statements
from tests.support.databases import ANY
from tests.support.routing import OneDatabase

from .outbox import clear, published

if TYPE_CHECKING:
    from pytest_django import Settings


@pytest.fixture
def outbox(database: str, settings: Settings) -> str:
    """The database of the models and of the outbox."""
    settings.DATABASE_ROUTERS = [OneDatabase(database)]
    return database


def test_created_objects_publish_their_declared_fields(outbox: str) -> None:
    """The data are the declared fields and the primary key; key and subject are set."""
    customer = Customer.objects.create(name="Ada")
    item = Item.objects.create(customer=customer, price="1.5", note="private")
    (event,) = published()
    assert event.event_type == "item.created"
    assert event.source == "/tests/items"
    assert (event.subject, event.partition_key) == (str(item.pk), str(customer.pk))
    assert event.data == {
        "id": item.pk,
        "customer": customer.pk,
        "status": "new",
        "price": "1.50",
    }


def test_the_key_of_an_object_without_one_is_its_primary_key(outbox: str) -> None:
    """So the events of each object stay in order."""
    item = Item.objects.create()
    assert published()[0].partition_key == str(item.pk)


def _saved(item: Item) -> None:
    item.status = "paid"
    item.save()


def _saved_in_part(item: Item) -> None:
    item.status, item.price = "paid", Decimal(99)
    item.save(update_fields=["status"])


def _saved_without_loading(item: Item) -> None:
    Item(pk=item.pk, status="paid", price=2).save()


def _saved_after_it_was_refreshed(item: Item) -> None:
    found = Item.objects.get(pk=item.pk)
    Item.objects.filter(pk=item.pk)._update([(Item._meta.get_field("status"), None, "other")])  # type: ignore[attr-defined]
    found.refresh_from_db()
    found.status = "paid"
    found.save()


def _saved_deferred(item: Item) -> None:
    found = Item.objects.only("note").get(pk=item.pk)
    found.status = "paid"
    found.save()


def _saved_as_proxy(item: Item) -> None:
    found = ItemProxy.objects.get(pk=item.pk)
    found.status = "paid"
    found.save()


def _updated(item: Item) -> None:
    assert Item.objects.filter(status="new").update(status="paid") == 1


def _updated_as_proxy(item: Item) -> None:
    assert ItemProxy.objects.update(status="paid") == 1


def _updated_by_async_code(item: Item) -> None:
    async def update() -> None:
        await Item.objects.aupdate(status="paid")

    async_to_sync(update)()


def _updated_in_bulk(item: Item) -> None:
    item.status = "paid"
    assert Item.objects.bulk_update([item], ["status", "note"]) == 1


def _updated_or_created(item: Item) -> None:
    Item.objects.update_or_create(pk=item.pk, defaults={"status": "paid"})


@pytest.mark.parametrize(
    "change",
    [
        _saved,
        _saved_in_part,
        _saved_without_loading,
        _saved_after_it_was_refreshed,
        _saved_deferred,
        _saved_as_proxy,
        _updated,
        _updated_as_proxy,
        _updated_by_async_code,
        _updated_in_bulk,
        _updated_or_created,
    ],
)
def test_a_changed_field_is_published_with_the_values_of_the_row(
    outbox: str, change: Callable[[Item], None]
) -> None:
    """However it was changed; one event, with what the database has afterwards."""
    item = Item.objects.create(price=2)
    clear()
    change(item)
    (event,) = published()
    assert event.event_type == "item.updated"
    assert event.data == {"id": item.pk, "customer": None, "status": "paid", "price": "2.00"}


def _noted(item: Item) -> None:
    item.note = "changed"
    item.save()


def _noted_in_part(item: Item) -> None:
    item.status, item.note = "paid", "changed"
    item.save(update_fields=["note"])


@pytest.mark.parametrize(
    "change",
    [
        _noted,
        _noted_in_part,
        lambda item: item.save(),
        lambda item: Item.objects.update(note="changed"),
        lambda item: Item.objects.update(status="new"),
        lambda item: Item.objects.bulk_update([item], ["status", "note"]),
        lambda item: Item.objects.filter(pk=0).update(status="paid"),
        lambda item: Item.objects.none().update(status="paid"),
        lambda item: Item.objects.filter(pk=0).delete(),
        lambda item: Item.objects.bulk_create([]),
        lambda item: Item.objects.get_or_create(pk=item.pk),
    ],
)
def test_a_change_of_no_declared_field_publishes_nothing(
    outbox: str, change: Callable[[Item], object]
) -> None:
    """Other fields, and equal values, are no update."""
    item = Item.objects.create()
    clear()
    change(item)
    assert published() == []


def test_an_overwritten_change_of_another_process_is_published(outbox: str) -> None:
    """The row is compared, not the copy that this object was loaded with."""
    stale = Item.objects.create(status="new")
    Item.objects.update(status="paid")
    clear()
    stale.save()
    assert [(each.event_type, each.data["status"]) for each in published()] == [
        ("item.updated", "new")
    ]


def test_expressions_are_published_as_their_results(outbox: str) -> None:
    """In `save`, in `update` and in `bulk_update`."""
    item = Item.objects.create(price=1)
    item.price = F("price") + 1
    item.save()
    Item.objects.update(price=F("price") * 2)
    found = Item.objects.get()
    found.price = F("price") + 3  # type: ignore[assignment]
    Item.objects.bulk_update([found], ["price"])
    assert [each.data["price"] for each in published()] == ["1.00", "2.00", "4.00", "7.00"]


def test_an_update_publishes_only_rows_that_change(outbox: str) -> None:
    """A condition on the field that is updated works, and rows with the new value are left out."""
    items = Item.objects.bulk_create([Item(status=status) for status in ("new", "paid", "new")])
    clear()
    assert Item.objects.exclude(status="sent").order_by("-pk").update(status="paid") == 3
    assert [each.data["id"] for each in published()] == [items[0].pk, items[2].pk]


def test_an_update_evaluates_its_conditions_once(outbox: str) -> None:
    """However many rows meet them, and even if the first of these decides about the others."""
    customer = Customer.objects.create(name="Ada")
    states = ["new", *["waiting"] * 600]
    Item.objects.bulk_create([Item(customer=customer, status=status) for status in states])
    clear()
    assert Item.objects.filter(customer__item__status="new").update(status="paid") == 601
    assert set(Item.objects.values_list("status", flat=True)) == {"paid"}
    assert len(published()) == 601


def test_primary_keys_of_other_types_are_updated(outbox: str) -> None:
    """Such as UUIDs, which databases store differently."""
    parcels = Parcel.objects.bulk_create([Parcel(kilos=1), Parcel(kilos=2)])
    clear()
    assert Parcel.objects.update(kilos=2) == 2
    assert [each.subject for each in published()] == [str(parcels[0].pk)]


class WaitingQuerySet(PublishingQuerySet[Item]):
    """A queryset of a project."""

    def waiting(self) -> WaitingQuerySet:
        """Return some of the rows."""
        return self.filter(status="waiting")


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_manager_can_have_a_queryset_of_the_project(outbox: str) -> None:
    """Its methods are those of the manager, and its changes publish."""
    manager: Any = PublishingManager.from_queryset(WaitingQuerySet)()
    manager.model = Item
    manager.bulk_create([Item(), Item(status="waiting")])
    clear()
    assert manager.waiting().update(status="paid") == 1
    assert manager.all().waiting().count() == 0
    assert [each.event_type for each in published()] == ["item.updated"]


def test_bulk_operations_take_a_statement_per_chunk(outbox: str) -> None:
    """The events of 600 rows take an insert, two for `update`, which reads in chunks of 500."""
    with transaction.atomic(outbox), statements() as run:
        Item.objects.bulk_create([Item() for _ in range(600)], batch_size=600)
        assert len(published()) == 600
        clear()
        assert Item.objects.update(status="paid") == 600
        assert len(published()) == 600
        clear()
        assert Item.objects.all().delete()[0] == 600
    events = published()
    assert {each.event_type for each in events} == {"item.deleted"}
    assert events[0].data["status"] == "paid"
    assert len(events) == 600
    assert len([each for each in run if each.startswith("SELECT")]) < 30
    if connections[outbox].vendor != "sqlite":  # a statement per row there
        assert len([each for each in run if "INSERT INTO" in each and "outbox" in each]) == 4


def _delete_customer(item: Item) -> None:
    Customer.objects.get().delete()


@pytest.mark.parametrize(
    "delete",
    [
        lambda item: item.delete(),
        lambda item: Item.objects.filter(status="new").delete(),
        lambda item: Item.objects.only("note").get().delete(),
        lambda item: Item.objects.only("note").delete(),
        lambda item: ItemProxy.objects.get().delete(),
        lambda item: ItemProxy.objects.all().delete(),
        lambda item: Customer.objects.all().delete(),
        _delete_customer,
    ],
)
def test_deletions_publish_the_last_values_of_the_row(
    outbox: str, delete: Callable[[Item], object]
) -> None:
    """Also by cascades; never values that were not saved."""
    customer = Customer.objects.create(name="Ada")
    item = Item.objects.create(customer=customer)
    pk, item.status = item.pk, "not saved"
    clear()
    delete(item)
    (event,) = published()
    assert event.event_type == "item.deleted"
    assert event.data == {"id": pk, "customer": customer.pk, "status": "new", "price": "0.00"}
    assert not Item.objects.exists()


@pytest.mark.parametrize(
    "delete",
    [
        lambda root: root.delete(),
        lambda root: Folder.objects.filter(pk=root.pk).delete(),
        lambda root: Folder.objects.filter(parent=None).delete(),
        lambda root: Folder.objects.exclude(name="child").delete(),
        lambda root: Folder.objects.all().delete(),
    ],
)
def test_cascades_to_rows_of_the_same_model_are_published(
    outbox: str, delete: Callable[[Folder], object]
) -> None:
    """Once each, whether the queryset has them or the cascade finds them."""
    root = Folder.objects.create(name="root")
    child = Folder.objects.create(name="child", parent=root)
    Folder.objects.create(name="grandchild", parent=child)
    delete(root)
    assert Counter(each.data["name"] for each in published()) == {
        "root": 1,
        "child": 1,
        "grandchild": 1,
    }
    assert not Folder.objects.exists()


def test_changes_of_async_code_are_published(outbox: str) -> None:
    """Each awaited call is a transaction with its events."""

    async def change() -> None:
        item = await Item.objects.acreate()
        item.status = "paid"
        await item.asave()
        await Item.objects.abulk_update([item], ["status"])
        await item.adelete()

    async_to_sync(change)()
    assert [each.event_type for each in published()] == [
        "item.created",
        "item.updated",
        "item.deleted",
    ]


def test_changes_of_related_objects_are_published(outbox: str) -> None:
    """By the methods of the related manager; `add` needs `Meta.base_manager_name`."""
    customer = Customer.objects.create(name="Ada")
    item = customer.item_set.create()
    customer.item_set.remove(item)
    customer.item_set.add(item)
    customer.item_set.clear()
    assert [(each.event_type, each.data["customer"]) for each in published()] == [
        ("item.created", customer.pk),
        ("item.updated", None),
        ("item.updated", customer.pk),
        ("item.updated", None),
    ]


def test_an_object_that_is_gone_already_is_not_deleted_twice(outbox: str) -> None:
    """The second deletion finds no row."""
    item, same = Item.objects.create(), Item.objects.get()
    clear()
    item.delete()
    same.delete()
    assert [each.event_type for each in published()] == ["item.deleted"]


def test_an_object_that_was_not_loaded_publishes_its_deletion(outbox: str) -> None:
    """Also if its primary key has a default, by which a save would take it as new."""
    parcel = Parcel.objects.create(kilos=1)
    clear()
    Parcel(pk=parcel.pk).delete()
    (event,) = published()
    assert event.event_type == "parcel.deleted"
    assert event.data == {"parcel_id": str(parcel.pk), "weight": "1.000"}


def test_a_child_publishes_the_events_of_its_parent(outbox: str) -> None:
    """Its row is a row of the parent's table, too."""
    child = SpecialItem.objects.create(extra="x")
    child.status = "paid"
    child.save()
    SpecialItem.objects.update(status="sent")
    SpecialItem.objects.update(extra="y")
    child.delete()
    assert [(each.event_type, each.data["status"]) for each in published()] == [
        ("item.created", "new"),
        ("item.updated", "paid"),
        ("item.updated", "sent"),
        ("item.deleted", "sent"),
    ]


def test_a_child_of_an_existing_row_updates_it(outbox: str) -> None:
    """The parent's row is not new."""
    item = Item.objects.create()
    clear()
    SpecialItem(item_ptr=item, status="special").save()
    assert [(each.event_type, each.data["status"]) for each in published()] == [
        ("item.updated", "special")
    ]


def test_a_child_of_an_existing_row_does_not_create_it(
    outbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the parent declares `created` alone, for which a save of it reads no row before."""
    (declared,) = model_events.of(Item)
    monkeypatch.setattr(declared, "updated", None)
    item = Item.objects.create()
    clear()
    SpecialItem(item_ptr=item, status="special").save()
    assert published() == []
    SpecialItem.objects.create()
    assert [each.event_type for each in published()] == ["item.created"]


def test_a_declared_class_validates_and_names_its_event(outbox: str) -> None:
    """Type, source, key and version come from the class."""
    parcel = Parcel.objects.create(kilos="1.2")
    (event,) = published()
    assert (event.event_type, event.source) == ("parcel.packed", "/tests/parcels")
    assert event.extensions["dataversion"] == 1
    assert (event.subject, event.partition_key) == (str(parcel.pk), str(parcel.pk))
    assert event.data == {"parcel_id": str(parcel.pk), "weight": "1.200", "packed_at": ""}
    packed = ParcelPacked(parcel_id=parcel.pk, weight=Decimal("1.200"))
    assert from_cloud_event(ParcelPacked, event) == packed


def test_an_object_that_brings_its_primary_key_is_not_looked_for(outbox: str) -> None:
    """Its save inserts a row. If the caller forces an update, the event is always published."""
    with transaction.atomic(outbox), statements() as run:
        parcel = Parcel.objects.create(kilos=1)
    assert len(run) == 3, run
    clear()
    Parcel(pk=parcel.pk, kilos=1).save(force_update=True)
    (event,) = published()
    assert event.event_type == "parcel.changed"
    assert event.data == {"parcel_id": str(parcel.pk), "weight": "1.000"}


def test_primary_keys_can_be_given_as_text(outbox: str) -> None:
    """As values of forms and files are; the events have them as the database does."""
    pk = uuid4()
    Parcel.objects.bulk_create([Parcel(pk=str(pk), kilos="1.5")])
    Item.objects.bulk_create([Item(pk="7")])
    assert [each.subject for each in published()] == [str(pk), "7"]
    assert published()[1].data["id"] == 7
    item = Item(pk="7", status="paid")
    Item.objects.bulk_update([item], ["status"])
    item.save()
    item.delete()
    assert [each.event_type for each in published()[2:]] == ["item.updated", "item.deleted"]


@pytest.mark.parametrize("conflicts", ["ignore", "update"])
def test_a_bulk_create_that_may_skip_rows_is_refused(outbox: str, conflicts: str) -> None:
    """Before any SQL: which rows are new is not known, so their events are not either."""
    options: dict[str, Any] = {f"{conflicts}_conflicts": True}
    if conflicts == "update":
        options |= {"update_fields": ["kilos"]}
        if connections[outbox].features.supports_update_conflicts_with_target:
            options |= {"unique_fields": ["id"]}
    parcels = [Parcel(kilos=1)]
    with statements() as run, pytest.raises(NotSupportedError, match=r"suppressed\(\)"):
        Parcel.objects.bulk_create(parcels, **options)
    assert run == []
    with suppressed(Parcel):
        Parcel.objects.bulk_create(parcels, **options)
    assert Parcel.objects.count() == 1
    assert published() == []


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_bulk_create_that_may_update_rows_is_refused(
    outbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if only `updated` is declared; other fields may be updated, and rows ignored."""
    monkeypatch.setattr(model_events.of(Item)[0], "created", None)
    item = Item.objects.create()
    same = [Item(pk=item.pk, status="paid", note="changed")]

    def update(field: str) -> None:
        Item.objects.bulk_create(
            same, update_conflicts=True, update_fields=[field], unique_fields=["id"]
        )

    with pytest.raises(NotSupportedError, match=r"suppressed\(\)"):
        update("status")
    update("note")
    Item.objects.bulk_create(same, ignore_conflicts=True)
    found = Item.objects.get()
    assert (found.status, found.note) == ("new", "changed")
    assert published() == []


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_a_bulk_create_without_returned_keys_is_refused(
    outbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on MySQL; objects that bring their own keys are created."""
    features = connections[outbox].features
    monkeypatch.setattr(type(features), "can_return_rows_from_bulk_insert", False)
    with pytest.raises(NotSupportedError, match="set their primary keys"):
        Item.objects.bulk_create([Item()])
    Parcel.objects.bulk_create([Parcel(kilos=1)])
    assert [each.event_type for each in published()] == ["parcel.packed"]


CHANGES: list[Callable[[], Any]] = [
    lambda: Item.objects.create(status="x" * 20),
    lambda: Item.objects.bulk_create([Item(status="x" * 20)]),
    lambda: Item.objects.update(status="x" * 20),
    lambda: Item.objects.get().delete(),
    lambda: Item.objects.all().delete(),
    lambda: Item(status="x" * 20).save(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_neither_change_nor_event_without_the_other(
    outbox: str, change: Callable[[], Any], settings: Settings
) -> None:
    """If the event can't be written, the change is rolled back, even if the error is caught."""
    Item.objects.create(price=5)
    clear()
    settings.OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "django_broadcaster.backends.LocMemBackend",
            "OPTIONS": {"max_message_bytes": 10},
        }
    }
    with transaction.atomic(outbox):
        with pytest.raises(InvalidEvent):
            change()
        assert connections[outbox].needs_rollback
    with pytest.raises(InvalidEvent):
        change()
    assert [(each.status, each.price) for each in Item.objects.all()] == [("new", 5)]
    assert published() == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_rollback_removes_the_events_of_all_changes(
    outbox: str, change: Callable[[], Any]
) -> None:
    """They are in the transaction of the change."""
    Item.objects.create()
    clear()
    with transaction.atomic(outbox):
        change()
        assert len(published()) == 1
        transaction.set_rollback(True, using=outbox)
    assert published() == []


@pytest.mark.parametrize("change", CHANGES)
def test_suppressed_changes_publish_nothing(outbox: str, change: Callable[[], Any]) -> None:
    """Whatever the change."""
    with suppressed():
        Item.objects.create()
        change()
    assert published() == []


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_fixtures_publish_nothing(outbox: str) -> None:
    """`loaddata` saves raw objects, in the order of the file and before their relations."""
    (loaded,) = serializers.deserialize(
        "json", '[{"model": "tests_app.item", "pk": 7, "fields": {"status": "old"}}]'
    )
    loaded.save(using=outbox)
    assert Item.objects.get().status == "old"
    assert published() == []


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_an_object_can_be_pickled_between_its_changes(outbox: str) -> None:
    """No state of a save remains on it."""
    item = Item.objects.create()
    item.status = "paid"
    item.save()
    assert pickle.loads(pickle.dumps(item)) == item  # noqa: S301
    assert [name for name in vars(item._state) if "broadcaster" in name] == []


def test_bulk_update_changes_at_most_500_rows_at_once(outbox: str) -> None:
    """The statement of a larger batch would compare each row with more values."""
    items = Item.objects.bulk_create([Item() for _ in range(501)])
    clear()
    for item in items:
        item.status = "paid"
    with transaction.atomic(outbox), statements() as run:
        assert Item.objects.bulk_update(items, ["status", "price", "note"], 100_000) == 501
    changes = [each for each in run if each.startswith("UPDATE")]
    assert {each.count(" WHEN ") // 3 for each in changes} <= set(range(1, 501))
    assert len(published()) == 501


@pytest.mark.parametrize("database", ANY, indirect=True)
def test_the_outbox_is_in_the_database_of_the_change(
    outbox: str, settings: Settings, database: str
) -> None:
    """The alias of the change is that of the event, whatever the router says of the outbox."""
    settings.DATABASE_ROUTERS = []
    Item.objects.using(database).create()
    assert OutboxEvent.objects.using(database).count() == 1
