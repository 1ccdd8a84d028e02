"""Declarations are checked when a module is imported, and are kept in one registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import orjson
import pytest

from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.typed_events import (
    EventTypes,
    event_types,
    to_cloud_event,
    typed_event,
    upcasts,
)
from django_broadcaster.typed_events.declarations import EventType

from .classes import ALL_KINDS, KINDS, DataclassOrder, arguments, order


@dataclass(frozen=True)
class Sample:
    """A class that the tests below declare."""

    order_id: int | str | None

    @property
    def key(self) -> str:
        """A partition key that is made of a field."""
        return f"order-{self.order_id}"

    def method(self) -> str:
        """Return the property."""
        return self.key


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget what a test declares."""
    known = list(event_types)
    yield
    for each in event_types:
        if each not in known:
            event_types.remove(each.event_class)


def test_the_declared_events_are_a_list() -> None:
    """A catalogue shows class, type, source and version of each."""
    found = {each.event_class: each for each in event_types}
    declared = found[DataclassOrder]
    assert set(KINDS) <= set(found)
    assert len(event_types) == len(found)
    assert (declared.type, declared.source, declared.version) == ("order.dataclass", "/shop", 3)
    assert (declared.key, declared.subject) == ("order_id", "token")
    assert repr(declared) == (
        "<EventType 'order.dataclass' version 3: tests.typed_events.classes.DataclassOrder>"
    )


@ALL_KINDS
def test_the_schema_is_that_of_the_data(kind: type[Any]) -> None:
    """Published data are valid by the JSON Schema, and other data are not."""
    schema = event_types.of(kind).schema()
    data = orjson.loads(to_cloud_event(*arguments(order(kind))).to_json())["data"]
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "order_id": "seven"}, schema)


def test_a_schema_without_a_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dataclasses need one of two libraries for their schema, and for nothing else."""
    for name in ("msgspec", "msgspec.json", "pydantic"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install msgspec"):
        event_types.of(DataclassOrder).schema()


def declare(**changes: Any) -> Any:
    """Declare the sample."""
    arguments = {"type": "sample", "source": "/tests", **changes}
    return typed_event(arguments.pop("type"), **arguments)(Sample)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("order_id", "7"),
        ("key", "order-7"),
        (lambda event: event.order_id + 1, "8"),
        (lambda event: None, None),
        (lambda event: "", None),
        (None, None),
    ],
)
def test_the_key_is_a_field_or_a_function(key: Any, expected: str | None) -> None:
    """Events whose key is None have none. The subject is declared in the same way."""
    declare(key=key, subject=key)
    event = to_cloud_event(Sample(7))
    assert event.partition_key == expected
    assert event.subject == (expected or "")


def test_a_key_that_is_not_text_is_refused() -> None:
    """A key is text, an integer or a UUID."""
    declare(key=lambda event: 0.5)
    with pytest.raises(InvalidEvent, match=r"^partition_key: must be a string"):
        to_cloud_event(Sample(7))


def test_the_schema_of_the_declaration_is_in_the_event() -> None:
    """For consumers it is informational; the version is an extension."""
    declare(data_schema="https://example.com/sample.json", version=2)
    event = to_cloud_event(Sample(7))
    assert event.data_schema == "https://example.com/sample.json"
    assert event.extensions == {"dataversion": 2}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"type": ""}, InvalidEvent, "type: must be a non-empty string"),
        ({"type": "order.*"}, ValueError, "type: must not have characters of patterns"),
        ({"type": "order.dataclass"}, ValueError, "type: must be unique, but .*DataclassOrder is"),
        ({"source": "my shop"}, InvalidEvent, "source: 'my shop' is not a URI reference"),
        ({"version": 0}, ValueError, "version: must be a positive integer, not 0"),
        ({"version": True}, ValueError, "version: must be a positive integer, not True"),
        ({"key": "id"}, ValueError, "key: must be a field of Sample.*the fields are order_id"),
        ({"key": "method"}, ValueError, "key: must be a field of Sample"),
        ({"subject": "id"}, ValueError, "subject: must be a field of Sample"),
        ({"data_schema": "sample.json"}, InvalidEvent, "data_schema: .* is not an absolute URI"),
    ],
)
def test_a_wrong_declaration_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the argument and the rule."""
    with pytest.raises(error, match=f"^{message}"):
        declare(**changes)
    assert event_types.find(Sample) is None


@ALL_KINDS
@pytest.mark.parametrize("name", ["items", "copy", "__init__"])
def test_a_method_is_not_a_key(kind: type[Any], name: str) -> None:
    """Each event would be refused: a method is neither a value nor a field."""
    declared = event_types.of(kind)
    with pytest.raises(ValueError, match=f"^key: must be a field of {kind.__name__}, .*{name}"):
        EventType(kind, declared.type, declared.source, key=name)


class Plain:
    """A class of no kind that can be an event."""


@pytest.mark.parametrize("kind", [Plain, int, dict, len])
def test_a_class_of_another_kind_is_refused(kind: Any) -> None:
    """The order of the decorators is the usual mistake."""
    with pytest.raises(TypeError, match=r"must be a dataclass, .*; write @typed_event above @data"):
        typed_event("sample", source="/tests")(kind)


def test_a_module_that_is_run_again_declares_its_classes_again() -> None:
    """The new class takes the place of the old one; another type for it is refused."""
    declared = [EventType(Sample, "sample", "/tests") for _ in range(2)]
    types = EventTypes()
    for each in declared:
        types.add(each)
    assert list(types) == declared[1:]
    with pytest.raises(ValueError, match="is declared as 'sample'"):
        types.add(EventType(Sample, "other", "/tests"))


@pytest.mark.parametrize(
    ("add", "error", "message"),
    [
        (lambda: upcasts(Plain, from_version=1), TypeError, "must be declared as an event"),
        (lambda: upcasts(DataclassOrder, from_version=3)(dict), ValueError, "before 3"),
        (lambda: upcasts(DataclassOrder, from_version=0)(dict), ValueError, "before 3"),
        (lambda: upcasts(DataclassOrder, from_version=1)(dict), ValueError, "has another upcast"),
    ],
)
def test_a_wrong_upcaster_is_refused(
    add: Callable[[], object], error: type[Exception], message: str
) -> None:
    """The versions before that of the class have one upcaster each."""
    with pytest.raises(error, match=message):
        add()
