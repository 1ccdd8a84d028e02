"""A declaration is checked when its module is imported; system checks find what it can't see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from django.db import models
from django.test.utils import isolate_apps

from django_broadcaster.checks.model_events import check_model_events
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.model_events import (
    PublishingManager,
    PublishingModel,
    model_events,
    publishes,
)
from django_broadcaster.typed_events import event_types, typed_event
from tests.app.models import Item, ParcelPacked
from tests.typed_events.classes import ALL_KINDS


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Forget the models that a test declares."""
    known = {each.model for each in model_events}
    with isolate_apps("tests.app"):
        yield
    for each in model_events:
        if each.model not in known:
            model_events.remove(each.model)


def box(**options: Any) -> type[models.Model]:
    """Return a model with some kinds of fields."""
    meta = type("Meta", (), {"app_label": "tests_app", **options})
    fields = {"label": models.CharField(max_length=9), "others": models.ManyToManyField("self")}
    return type("Box", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


@dataclass
class Undeclared:
    """A class that is no event."""


class Later(TypedDict):
    """An event with a field of a type that is not imported."""

    at: Missing  # type: ignore[name-defined]  # noqa: F821


EVENT: dict[str, Any] = {"created": "box.created", "source": "/tests", "fields": ["label"]}


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"created": None}, ValueError, "created, updated, deleted: must not all be None"),
        ({"created": ""}, InvalidEvent, "created: "),
        ({"updated": "box.*"}, ValueError, "updated: must not have characters of patterns"),
        ({"deleted": 5}, InvalidEvent, "deleted: "),
        ({"deleted": Undeclared}, TypeError, "decorate it with @typed_event"),
        ({"source": None}, InvalidEvent, "source: must be given"),
        ({"source": "a b"}, InvalidEvent, "source: "),
        ({"fields": ["lable"]}, ValueError, "not 'lable'; these are id, label"),
        ({"fields": ["others"]}, ValueError, "fields: .* not 'others'"),
        ({"fields": {"name": "lable"}}, ValueError, "not 'lable'"),
        ({"fields": "label"}, TypeError, "fields: must be a list of names, not the text 'label'"),
        ({"fields": [], "updated": "box.updated"}, ValueError, "fields: must not be empty"),
        ({"key": "owner_id"}, ValueError, "key: .* not 'owner_id'"),
    ],
)
def test_a_wrong_declaration_is_refused(
    changed: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The error names the argument, and nothing is declared."""
    count = len(model_events)
    with pytest.raises(error, match=text):
        publishes(**{**EVENT, **changed})(box())
    assert len(model_events) == count


def _proxy() -> type[models.Model]:
    meta = type("Meta", (), {"app_label": "tests_app", "proxy": True})
    return type("BoxProxy", (box(),), {"__module__": __name__, "Meta": meta})


def _composite() -> type[models.Model]:
    class Pair(PublishingModel):
        pk = models.CompositePrimaryKey("left", "label")
        left = models.IntegerField()
        label = models.CharField(max_length=9)

        class Meta:
            app_label = "tests_app"

    return Pair


def _declared() -> type[models.Model]:
    return publishes(**EVENT)(box())


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: box(abstract=True), "is abstract; decorate the models that inherit from it"),
        (_proxy, "is a proxy; decorate the model with the table"),
        (_composite, "has a composite primary key"),
        (_declared, "has @publishes already; use it once"),
        (lambda: Undeclared, "must decorate a model"),
    ],
)
def test_a_model_that_cannot_be_declared_is_refused(
    model: Callable[[], type[models.Model]], text: str
) -> None:
    """The error says which model to decorate instead."""
    found = model()
    with pytest.raises(TypeError, match=text):
        publishes(**EVENT)(found)


def test_a_declaration_needs_no_source_if_all_events_are_classes() -> None:
    """The class has one."""
    publishes(created=ParcelPacked, fields={"parcel_id": "pk"})(box())


def test_the_declarations_are_listed() -> None:
    """In their order, with the model and its fields."""
    declared = next(each for each in model_events if each.model is Item)
    assert declared.updated == "item.updated"
    assert list(declared.fields) == ["customer", "status", "price"]
    assert repr(declared) == "<ModelEvents of tests_app.Item>"


def test_the_models_of_the_tests_have_no_warnings() -> None:
    """A PublishingModel has the manager."""
    assert check_model_events() == []


def test_changes_of_models_that_cannot_be_seen_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager without the queryset, also of a child, and fields that a deletion changes."""

    @publishes(updated="box.updated", source="/tests", fields=["owner", "label"])
    class Box(PublishingModel):
        owner = models.ForeignKey("self", models.SET_NULL, null=True, related_name="+")
        other = models.ForeignKey("self", models.SET_NULL, null=True, related_name="+")
        label = models.ForeignKey("self", models.CASCADE, related_name="+")

        class Meta:
            app_label = "tests_app"

    class BigBox(Box):
        objects = PublishingManager()
        plain = models.Manager()

        class Meta:
            app_label = "tests_app"
            proxy = True

    @publishes(deleted="crate.deleted", source="/tests", fields=[])
    class Crate(PublishingModel):
        objects = models.Manager()

        class Meta:
            app_label = "tests_app"

    found_models = [Box, BigBox, Crate]
    monkeypatch.setattr("django.apps.apps.get_models", lambda: found_models)
    of_field, of_manager = check_model_events()
    assert (of_field.id, of_manager.id) == (
        "django_broadcaster.W014",
        "django_broadcaster.W013",
    )
    assert "Box.owner has on_delete=SET_NULL" in of_field.msg
    assert "BigBox.plain has no PublishingQuerySet" in of_manager.msg
    assert "plain = PublishingManager()" in (of_manager.hint or "")


@ALL_KINDS
def test_a_class_with_a_required_field_that_gets_no_value_is_found(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Django starts, and not when the first object is saved."""
    model = publishes(created=kind, fields={"order_id": "pk", "token": "label"})(box())
    monkeypatch.setattr("django.apps.apps.get_models", lambda: [model])
    problems = [each for each in check_model_events() if each.id == "django_broadcaster.E056"]
    assert [each.msg.partition("publishes ")[2] for each in problems] == [
        f"{kind.__name__}, but its field 'at' has no value.",
        f"{kind.__name__}, but its field 'lines' has no value.",
    ]


def test_a_class_with_an_unknown_type_is_left_to_its_own_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its fields can't be read here either."""
    typed_event("box.later", source="/tests")(Later)
    model = publishes(created=Later, fields=[])(box())
    monkeypatch.setattr("django.apps.apps.get_models", lambda: [model])
    try:
        assert [each.id for each in check_model_events()] == ["django_broadcaster.W013"]
    finally:
        event_types.remove(Later)


@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="this Django has no such cascade")
def test_rows_that_the_database_deletes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If their deletion is an event."""
    cascade: Any = models.DB_CASCADE  # type: ignore[attr-defined]

    @publishes(deleted="leaf.deleted", source="/tests", fields=[])
    class Leaf(PublishingModel):
        parent = models.ForeignKey("self", cascade, null=True)

        class Meta:
            app_label = "tests_app"

    @publishes(updated="bud.updated", source="/tests", fields=["parent"])
    class Bud(PublishingModel):
        parent = models.ForeignKey("self", cascade, null=True)

        class Meta:
            app_label = "tests_app"

    monkeypatch.setattr("django.apps.apps.get_models", lambda: [Leaf, Bud])
    (problem,) = check_model_events()
    assert problem.id == "django_broadcaster.W014"
    assert "Leaf.parent has on_delete=DB_CASCADE" in problem.msg
