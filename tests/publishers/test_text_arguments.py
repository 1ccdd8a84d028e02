"""Arguments that are text: numbers, UUIDs and lazy objects are taken as the text that they mean."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
import uuid_utils
from django.db import models
from django.utils.functional import SimpleLazyObject, lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import InvalidEvent, UnknownBackend
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher

NUMBER = UUID("0197b0f0-0000-7000-8000-000000000001")
IDENTIFIERS = ("subject", "event_id", "partition_key")
TEXTS = {
    **dict.fromkeys(("event_type", *IDENTIFIERS), "abc"),
    "source": "/shop/orders",
    "data_content_type": "application/problem+json",
    "data_schema": "https://example.com/order.json",
}


class Size(IntEnum):
    """An integer with a name."""

    LARGE = 3


class Choice(models.TextChoices):
    """Text with a label."""

    ABC = "abc", "The alphabet"


LAZY: list[Callable[[str], Any]] = [
    lambda text: SimpleLazyObject(lambda: text),
    lambda text: SimpleLazyObject(lambda: SimpleLazyObject(lambda: text)),
    lazystr,
    gettext_lazy,
    mark_safe,
]


def published(database: str, **arguments: Any) -> OutboxEvent:
    """Publish an event with these arguments, and read its row back."""
    call = {"event_type": "order.placed", "source": "/shop", **arguments}
    event = publisher.publish_event(**call, using=database)
    return OutboxEvent.objects.using(database).get(pk=event.pk)


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("lazy", LAZY, ids=("lazy", "twice", "lazystr", "gettext", "safe"))
def test_lazy_text_is_the_text_that_it_stands_for(
    database: str, field: str, lazy: Callable[[str], Any]
) -> None:
    """Every argument that is text takes Django's lazy objects."""
    row = published(database, **{field: lazy(TEXTS[field])})
    assert getattr(row, field) == TEXTS[field]


@pytest.mark.parametrize("field", IDENTIFIERS)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (42, "42"),
        (0, "0"),
        (-7, "-7"),
        (Size.LARGE, "3"),
        (NUMBER, str(NUMBER)),
        (uuid_utils.UUID(str(NUMBER)), str(NUMBER)),
        (SimpleLazyObject(lambda: 42), "42"),
        (SimpleLazyObject(lambda: NUMBER), str(NUMBER)),
        (Choice.ABC, "abc"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_identifiers_take_numbers_and_uuids(
    database: str, field: str, value: Any, text: str
) -> None:
    """`subject=order.number`, `partition_key=order.pk` and `event_id=uuid4()` work as they are."""
    assert getattr(published(database, **{field: value}), field) == text


def test_event_id_that_is_a_uuid_is_the_same_event_as_its_text(database: str) -> None:
    """Published once as a UUID and once as text, the event is written once."""
    assert published(database, event_id=NUMBER) == published(database, event_id=str(NUMBER))


@pytest.mark.parametrize("field", TEXTS)
def test_lazy_object_of_another_kind_names_the_argument(database: str, field: str) -> None:
    """What is no text, such as a user, is a typed error that names the argument."""
    with pytest.raises(InvalidEvent) as caught:
        published(database, **{field: SimpleLazyObject(object)})
    assert caught.value.field == field
    assert "not object" in str(caught.value)


def test_other_arguments_take_lazy_objects(database: str) -> None:
    """The backend, the database, the retries and the extensions are resolved, too."""
    lazy = SimpleLazyObject
    row = publisher.publish_event(
        "order.placed",
        "/shop",
        backend=lazy(lambda: "default"),
        max_retries=lazy(lambda: 2),
        extensions={"tenant": lazy(lambda: "t1"), "order": NUMBER, "page": lazystr("5")},
        using=lazy(lambda: database),
    )
    row = OutboxEvent.objects.using(database).get(pk=row.pk)
    assert (row.publisher_backend, row.max_retries) == ("default", 2)
    assert row.extensions == {"tenant": "t1", "order": str(NUMBER), "page": "5"}
    with pytest.raises(UnknownBackend):
        published(database, backend=lazy(lambda: 5))


def test_publish_events_takes_the_same(database: str) -> None:
    """A dictionary of publish_events and a CloudEvent take what publish_event takes."""
    of_keywords = {"event_type": "a", "source": "/s", "subject": 5, "event_id": NUMBER}
    event = CloudEvent("a", "/s", id=7, subject=SimpleLazyObject(lambda: 6))
    publisher.publish_events([of_keywords, event], using=database)
    rows = OutboxEvent.objects.using(database).order_by("pk")
    assert [(row.event_id, row.subject) for row in rows] == [(str(NUMBER), "5"), ("7", "6")]


@pytest.mark.parametrize("field", ["subject", "data_schema"])
def test_empty_text_is_not_set(database: str, field: str) -> None:
    """An empty subject or schema is the same as none."""
    row = published(database, **{field: ""})
    assert getattr(row, field) == ""
    assert field.replace("_", "") not in row.to_cloud_event()


@pytest.mark.parametrize(("member", "field"), [("id", "event_id"), ("subject", "subject")])
def test_events_that_are_read_stay_strict(member: str, field: str) -> None:
    """In an event that comes from elsewhere a number is not text: the specification says so."""
    members = {"specversion": "1.0", "id": "1", "type": "a", "source": "/s", member: 5}
    with pytest.raises(InvalidEvent) as caught:
        CloudEvent.from_dict(members)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "data",
    [
        SimpleLazyObject(lambda: {"user": "user-1"}),
        {"user": SimpleLazyObject(lambda: "user-1")},
        SimpleLazyObject(lambda: {"user": SimpleLazyObject(lambda: lazystr("user-1"))}),
    ],
)
def test_lazy_data_is_what_it_stands_for(database: str, data: Any) -> None:
    """Lazy objects in the data, and as the data, are encoded as what they stand for."""
    assert published(database, data=data).data == {"user": "user-1"}
