"""Event types that models publish without a class, in the catalogue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.test import Client
from django.test.utils import isolate_apps
from django.urls import reverse
from jsonschema import Draft202012Validator

from django_broadcaster.catalogue.document import asyncapi_document
from django_broadcaster.events import encode_data
from django_broadcaster.model_events import model_events, publishes
from django_broadcaster.registry import event_registry
from tests.support.javascript import run_javascript

from .conftest import EventsModule, catalogue

if TYPE_CHECKING:
    from pytest_django import Settings

HERE = os.path.relpath(__file__)
MODEL = f"{__name__}.orders.<locals>.Order"


@pytest.fixture(autouse=True)
def project(events: EventsModule, settings: Settings) -> Iterator[None]:
    """A project without events, whose models are those of a test."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}
    }
    with isolate_apps("tests.app"):
        yield


def line_of(text: str) -> str:
    """Return the place of the last line of this file that contains a text."""
    lines = Path(__file__).read_text().splitlines()
    number = max(number for number, line in enumerate(lines, 1) if line.strip() == text)
    return f"{HERE}:{number}"


@isolate_apps("tests.app")
def orders(**changed: Any) -> type[models.Model]:
    """Declare a model with events, of which a test changes an argument."""

    class Order(models.Model):
        """An order of a customer."""

        product = models.CharField(max_length=100)
        total = models.DecimalField(max_digits=8, decimal_places=2, null=True)
        status = models.CharField(max_length=9)
        at = models.DateTimeField()

        class Meta:
            app_label = "app"

        def __str__(self) -> str:
            return str(self.pk)

    arguments = {
        "created": "order.created",
        "deleted": "order.deleted",
        "source": "/shop/orders",
        "fields": {"product": "product", "sum": "total"},
    }
    return publishes(**{**arguments, **changed})(Order)  # type: ignore[arg-type]


def test_event_types_of_a_model_are_in_the_document() -> None:
    """The document has each event type, with the fields and types that the model has."""
    orders()
    document = asyncapi_document("shop", "1.0.0")
    assert [*document["x-events"]] == ["order.created", "order.deleted"]
    assert document["x-events"]["order.created"] == {
        "class": MODEL,
        "description": "An order of a customer.",
        "version": 1,
        "upcasters": [],
        "source": "/shop/orders",
        "sent": True,
        "model": True,
        "schema": {"$ref": "#/components/schemas/order.created"},
    }
    assert document["components"]["schemas"]["order.created"] == {
        "title": "Order",
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "product": {"type": "string"},
            "sum": {"type": ["string", "null"]},
        },
        "required": ["id", "product", "sum"],
    }
    message = document["components"]["messages"]["publisher.default.order.created"]
    assert message["summary"] == "An order of a customer."
    assert "dataversion" not in json.dumps(message)


def test_the_parser_of_asyncapi_accepts_the_document() -> None:
    """The official parser finds no error."""
    orders()
    found = json.loads(run_javascript("parseAsyncAPI", json.dumps(asyncapi_document("a", "1"))))
    assert [each for each in found["problems"] if each["severity"] < 2] == []


def test_schema_is_a_file_and_is_on_the_page(tmp_path: Path, admin_client: Client) -> None:
    """`--output` writes a schema for each, and the admin's page shows it."""
    orders()
    assert catalogue("--output", str(tmp_path)) == (0, f"Wrote 3 files to {tmp_path}.\n")
    schema = json.loads((tmp_path / "schemas" / "order.created.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["x-event"]["class"] == MODEL
    page = admin_client.get(reverse("admin:django_broadcaster_outboxdashboard_catalogue"))
    assert "order.created" in page.content.decode()
    assert MODEL.replace("<", "&lt;").replace(">", "&gt;") in page.content.decode()


def test_event_is_sent_although_its_handlers_are_those_of_consumers() -> None:
    """A typed event whose handlers all name consumers is of others; one of a model is not."""
    orders()
    event_registry.register("order.created", consumer="orders")(print)
    assert asyncapi_document("shop", "1")["x-events"]["order.created"]["sent"] is True


def test_event_type_of_two_models_allows_the_data_of_both() -> None:
    """Two models may publish the same event type, with other fields and sources."""
    orders()
    orders(source="/archive", fields=["status"])
    document = asyncapi_document("shop", "1")
    schema = document["components"]["schemas"]["order.created"]
    assert [[*each["properties"]] for each in schema["anyOf"]] == [
        ["id", "product", "sum"],
        ["id", "status"],
    ]
    assert document["x-events"]["order.created"]["source"] == "/shop/orders or /archive"


def leave(model: type[models.Model]) -> None:
    """Do nothing: the arguments of `orders` make the change."""


def make_total_required(model: type[models.Model]) -> None:
    """Let a field be required that may be null."""
    model._meta.get_field("total").null = False


def make_product_a_number(model: type[models.Model]) -> None:
    """Give a field another type."""
    field: Any = model._meta.get_field("product")
    field.__class__ = models.IntegerField


CHANGES: list[tuple[dict[str, Any], Callable[[type[models.Model]], None], str, str]] = [
    ({"fields": ["product"]}, leave, "class Order(models.Model):", "sum was removed"),
    (
        {"fields": {"product": "product", "sum": "total", "status": "status"}},
        leave,
        "status = models.CharField(max_length=9)",
        "status is new, and has no default",
    ),
    (
        {},
        make_total_required,
        "total = models.DecimalField(max_digits=8, decimal_places=2, null=True)",
        "sum no longer allows null",
    ),
    (
        {},
        make_product_a_number,
        "product = models.CharField(max_length=100)",
        "product no longer allows string",
    ),
    ({"source": "/orders"}, leave, "class Order(models.Model):", "has source '/orders'"),
    ({"created": None}, leave, "", "order.created was removed"),
]


@pytest.mark.parametrize(("arguments", "change", "line", "problem"), CHANGES)
def test_change_of_a_model_that_breaks_consumers_is_found(
    tmp_path: Path,
    arguments: dict[str, Any],
    change: Callable[[type[models.Model]], None],
    line: str,
    problem: str,
) -> None:
    """`--check` names the line of the model's field, and a fix without versions."""
    model = orders()
    assert catalogue("--output", str(tmp_path))[0] == 0
    assert catalogue("--check", str(tmp_path)) == (0, "The catalogue is up to date.\n")
    model_events.remove(model)
    change(orders(**arguments))
    status, output = catalogue("--check", str(tmp_path))
    assert status == 1
    found = next(each for each in output.splitlines() if problem in each)
    place = line_of(line) if line else HERE
    assert found.startswith(f"{place}: ")
    assert "upcasts" not in output


def test_moment_without_a_time_zone_has_no_format(settings: Settings) -> None:
    """Without USE_TZ, moments lack the time zone that the format `date-time` has."""
    schemas = []
    for use_tz in (True, False):
        settings.USE_TZ = use_tz
        model = orders(created="a", fields=["at"])
        schemas.append(asyncapi_document("shop", "1")["components"]["schemas"]["a"])
        model_events.remove(model)
    with_zone, without = (each["properties"]["at"] for each in schemas)
    assert (with_zone, without) == (
        {"type": "string", "format": "date-time"},
        {"type": "string"},
    )


class Reversed(models.CharField):  # type: ignore[type-arg]
    """A project's own field, whose values in events nobody knows."""

    def get_prep_value(self, value: Any) -> Any:
        """Return a list of characters."""
        return [*value]


VALUES: list[tuple[models.Field[Any, Any], Any]] = [
    (models.BooleanField(), True),
    (models.PositiveSmallIntegerField(), 7),
    (models.BigIntegerField(), 2**60),
    (models.FloatField(), 1.5),
    (models.DecimalField(max_digits=5, decimal_places=2), Decimal("1.50")),
    (models.DateTimeField(), datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)),
    (models.DateField(), date(2026, 5, 6)),
    (models.TimeField(), time(7, 8, 9)),
    (models.DurationField(), timedelta(days=1, seconds=2)),
    (models.UUIDField(), UUID(int=7)),
    (models.SlugField(), "tea"),
    (models.EmailField(), "ada@example.com"),
    (models.TextField(), "tea"),
    (models.FileField(), "tea.png"),
    (models.GenericIPAddressField(), "127.0.0.1"),
    (models.JSONField(), {"any": ["value"]}),
    (ArrayField(models.IntegerField()), [1, 2]),
    (models.ForeignKey("app.Customer", models.CASCADE), 7),
    (Reversed(max_length=9), "tea"),
]
"""A field of each kind, and a value as the database has it."""


@pytest.mark.parametrize(
    ("field", "value"), VALUES, ids=[type(field).__name__ for field, _ in VALUES]
)
@pytest.mark.parametrize("is_null", [False, True])
def test_data_of_every_kind_of_field_fit_their_schema(
    field: models.Field[Any, Any], value: Any, is_null: bool
) -> None:
    """What is published is valid by the schema, and another type is not."""
    field = field.clone()
    field.null = is_null

    class Customer(models.Model):
        class Meta:
            app_label = "app"

        def __str__(self) -> str:
            return str(self.pk)

    body = {"value": field, "__module__": __name__, "Meta": type("Meta", (), {"app_label": "app"})}
    model = type("Thing", (models.Model,), body)
    publishes(created="thing.created", source="/shop", fields=["value"])(model)
    (declared,) = model_events
    row = {"id": 1, model._meta.get_field("value").attname: value}  # type: ignore[union-attr]
    data = json.loads(encode_data(declared.event("thing.created", row)["data"]))
    schema = asyncapi_document("shop", "1")["components"]["schemas"]["thing.created"]
    checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    checker.validate(data)
    is_known = schema["properties"]["value"] != {}
    assert is_known is not isinstance(field, models.JSONField | Reversed)
    assert checker.is_valid({"id": 1, "value": None}) is (is_null or not is_known)
    assert checker.is_valid({"id": 1, "value": {"other": 1}}) is not is_known
