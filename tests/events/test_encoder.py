"""OUTBOX_JSON_ENCODER: data of the project's own kinds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from pydantic import BaseModel

from django_broadcaster import events
from django_broadcaster.events import CloudEvent, encode_data
from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.events.samples import refused


@dataclasses.dataclass
class Item:
    """A dataclass, which orjson would encode by itself."""

    name: str
    price: Decimal


class Order(BaseModel):
    """A model of pydantic."""

    number: int
    day: date


class Money:
    """What neither JSON nor Django knows, as the classes of other packages."""

    def __init__(self, amount: str, currency: str) -> None:
        self.amount = amount
        self.currency = currency


class Encoder(DjangoJSONEncoder):
    """A project's encoder."""

    def default(self, value: Any) -> Any:
        """Return what JSON has instead."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if isinstance(value, Money):
            return {"amount": value.amount, "currency": value.currency}
        if isinstance(value, datetime):
            return "noon"
        return super().default(value)


ENCODER = override_settings(OUTBOX_JSON_ENCODER=f"{__name__}.Encoder")
VALUES = [
    (Item("cup", Decimal("1.50")), {"name": "cup", "price": "1.50"}),
    (Order(number=1, day=date(2030, 1, 2)), {"number": 1, "day": "2030-01-02"}),
    (Money("9.90", "EUR"), {"amount": "9.90", "currency": "EUR"}),
    (datetime(2030, 1, 1, tzinfo=UTC), "noon"),
]


@pytest.mark.parametrize(
    ("value", "encoded"), VALUES, ids=("dataclass", "pydantic", "object", "own")
)
@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda value: value, lambda data: data),
        (lambda value: {"a": [value]}, lambda data: data["a"][0]),
        (lambda value: {"a": SimpleLazyObject(lambda: value)}, lambda data: data["a"]),
    ],
    ids=("alone", "inside", "lazy"),
)
def test_encoder_decides_what_is_not_plain_json(
    database: str, value: Any, encoded: Any, wrap: Any, unwrap: Any
) -> None:
    """The project's encoder is asked about it at any depth, before Django's own rules."""
    with ENCODER:
        event = publisher.publish_event("a", "/s", wrap(value), using=database)
    assert unwrap(event.data) == encoded
    assert unwrap(OutboxEvent.objects.using(database).get().data) == encoded


def test_encoder_is_asked_when_an_event_is_written_as_json() -> None:
    """`CloudEvent.to_json` goes through the same encoder as the publish call."""
    with ENCODER:
        raw = CloudEvent("a", "/s", Money("1", "EUR")).to_json()
    assert CloudEvent.from_json(raw).data == {"amount": "1", "currency": "EUR"}


@pytest.mark.parametrize("value", [item[0] for item in VALUES[:3]])
def test_without_an_encoder_it_is_refused_with_its_place(value: Any) -> None:
    """The typed error names the data and the path, before and after the setting is there."""
    for settings in ({}, {"OUTBOX_JSON_ENCODER": "django.core.serializers.json.DjangoJSONEncoder"}):
        with override_settings(**settings):
            error = refused(lambda: encode_data({"a": [value]}))  # type: ignore[misc]
        assert (error.field, "data['a'][0]" in error.message) == ("data", True)


def test_what_an_encoder_returns_is_judged_too() -> None:
    """NaN that an encoder hands over is refused as if it had been in the data."""
    with ENCODER, pytest.raises(InvalidEvent):
        encode_data(Money(float("nan"), "EUR"))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["no.such.Encoder", "decimal.Decimal"])
def test_wrong_encoder_is_a_configuration_error(path: str) -> None:
    """A publish call that needs a wrong encoder names the setting; plain data does not need it."""
    with override_settings(OUTBOX_JSON_ENCODER=path):
        assert encode_data({"a": 1}) == '{"a":1}'
        with pytest.raises(ImproperlyConfigured, match=r"OUTBOX_JSON_ENCODER: '.+' "):
            encode_data({"a": Decimal(1)})


def test_encoding_needs_no_settings() -> None:
    """A program without Django settings encodes dates and decimals as Django does."""
    code = """
from datetime import date
from django.conf import settings
from django_broadcaster.events import encode_data
assert encode_data({"a": date(2030, 1, 2)}) == '{"a":"2030-01-02"}'
assert not settings.configured
"""
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = str(Path(events.__file__).parents[2])
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
