"""The declarations of events: decorators of classes, and the registry of what they declare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any, Final, Generic, TypeVar

from django.db import Error

from django_broadcaster.events import (
    CloudEvent,
    check_data_schema,
    check_identifier,
    check_source,
    check_string,
)
from django_broadcaster.exceptions import DeliveryError, InvalidEvent, Rejected, TransientError
from django_broadcaster.setting_rules import Rule

from .codec import Codec, Mismatch
from .decoders import dump
from .plain import codec_of

__all__ = ["VERSION", "EventType", "EventTypes", "event_types", "typed_event", "upcasts"]

VERSION: Final = "dataversion"
"""The extension with the version of the data. An event without it has version 1."""

T = TypeVar("T")
Upcaster = Callable[[dict[str, Any]], Mapping[str, Any]]
U = TypeVar("U", bound=Upcaster)
EventClass = TypeVar("EventClass", bound="type[Any]")

VERSIONS: Final = Rule(
    "a positive integer", lambda value: type(value) is int and 1 <= value < 2**31
)
_OF_PATTERNS: Final = frozenset("*?[")


def check_type(argument: str, given: object) -> str:
    """Return an event type; raises InvalidEvent, or ValueError for characters of patterns."""
    found = check_string(argument, given)
    if _OF_PATTERNS.intersection(found):
        raise ValueError(f"{argument}: must not have characters of patterns (* ? [), not {found!r}")
    return found


class EventType(Generic[T]):
    """A declared event: its class, its attributes, and the functions that read older versions.

    Args:
        event_class: The class.
        type: The attribute `type`.
        source: The attribute `source`.
        version: The version of the data, 1 or more.
        key: The partition key: the name of a field, or a function of the event.
        subject: The attribute `subject`, as for `key`.
        data_schema: The attribute `dataschema`; empty for none.

    Raises:
        InvalidEvent: An attribute breaks the CloudEvents specification; `field` names it.
        ValueError: An argument is out of range, or names no field.
        TypeError: The class is of another kind, or a field has a type that is not supported.
    """

    def __init__(
        self,
        event_class: type[T],
        type: str,
        source: str,
        *,
        version: int = 1,
        key: str | Callable[[Any], object] | None = None,
        subject: str | Callable[[Any], object] | None = None,
        data_schema: str = "",
    ) -> None:
        self.event_class = event_class
        self.type = check_type("type", type)
        self.source = check_source(source)
        if not VERSIONS.accepts(version):
            raise ValueError(f"version: must be {VERSIONS.wanted}, not {version!r}")
        self.version = version
        self.data_schema = check_data_schema(data_schema) if data_schema else ""
        self._codec = _codec_of(event_class)
        with suppress(NameError):  # a class that follows in the module; the first use resolves it
            self._codec.prepare()
        self.key, self.subject = key, subject
        self._key_of = self._function_of("key", key)
        self._subject_of = self._function_of("subject", subject)
        self._upcasters: dict[int, Upcaster] = {}

    def __repr__(self) -> str:
        return f"<EventType {self.type!r} version {self.version}: {self.path}>"

    @property
    def path(self) -> str:
        """The dotted path of the class."""
        return f"{self.event_class.__module__}.{self.event_class.__qualname__}"

    @property
    def fields(self) -> Collection[str]:
        """The names of the fields."""
        return self._codec.fields()

    @property
    def required_fields(self) -> Collection[str]:
        """The names, in JSON, of the fields that have no default."""
        return self._codec.required()

    def prepare(self) -> None:
        """Resolve the types of the fields; raises NameError or TypeError."""
        self._codec.prepare()

    def is_instance(self, event: object) -> bool:
        """Return True for an event of the class, or for a dictionary if it is a `TypedDict`."""
        return self._codec.is_instance(event)

    def of_values(self, values: Mapping[str, Any]) -> T:
        """Return the event of Python values, such as those of a model.

        Raises:
            InvalidEvent: They do not fit the class; `field` is the path to the value.
        """
        try:
            return self._codec.load(dump(values, codec_of))
        except Mismatch as error:
            raise InvalidEvent(error.field, str(error)) from error

    def data_of(self, event: T) -> Any:
        """Return the data of an event as JSON values, which `decode` accepts.

        Raises:
            InvalidEvent: The event does not fit its class; `field` is the path to the value.
        """
        try:
            data = self._codec.dump(event)
            self._codec.load(data, known_fields_only=True)
        except Mismatch as error:
            raise InvalidEvent(error.field, str(error)) from error
        return data

    def key_of(self, event: T) -> str | None:
        """Return the partition key of an event; None if it has none. Raises InvalidEvent."""
        key = self._key_of(event)
        return None if key in (None, "") else check_identifier("partition_key", key)

    def subject_of(self, event: T) -> str:
        """Return the subject of an event; empty if it has none. Raises InvalidEvent."""
        subject = self._subject_of(event)
        return "" if subject in (None, "") else check_identifier("subject", subject)

    def decode(self, event: CloudEvent) -> T:
        """Return the event of a CloudEvent, whose data may have an older version.

        Raises:
            Rejected: The data do not fit the class; the text names the field.
            TransientError: The version is newer than that of the class, which a deployment changes.
            DeliveryError: An upcaster raised it, such as `Retry`.
            django.db.Error: An upcaster raised it.
        """
        try:
            return self._codec.load(self._current(event))
        except Mismatch as error:
            failure = self._rejected(error.field, str(error))
            if error.path and error.path[0] in self.fields:
                failure.reason = f"the field {error.path[0]!r} does not fit {self.path}"
            raise failure from error

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the data.

        Raises:
            ImportError: The class is a dataclass or a `TypedDict`, and neither msgspec nor pydantic
                is installed.
            TypeError: A field has a type without a JSON Schema.
        """
        return self._codec.schema()

    def add_upcaster(self, from_version: int, function: Upcaster) -> None:
        """Use a function to read data of a version as data of the next one; raises ValueError."""
        if from_version not in range(1, self.version):
            raise ValueError(
                f"from_version: must be a version before {self.version}, the version of "
                f"{self.event_class.__name__}, not {from_version!r}"
            )
        if from_version in self._upcasters:
            raise ValueError(
                f"from_version: {self.event_class.__name__} has another upcaster from version "
                f"{from_version}"
            )
        self._upcasters[from_version] = function

    def versions_without_upcaster(self) -> list[int]:
        """Return the older versions whose data can't be read."""
        return [each for each in range(1, self.version) if each not in self._upcasters]

    def _current(self, event: CloudEvent) -> Any:
        """Return the data of an event in the version of the class."""
        data = event.data
        if isinstance(data, bytes | bytearray | memoryview):
            raise self._rejected("data", "must be JSON, not bytes")
        version = self._version_of(event)
        if version == self.version:
            return data
        if version > self.version:
            raise TransientError(
                f"{VERSION}: is {version}, newer than version {self.version} of {self.path}; "
                "deploy the release that has it"
            )
        data = deepcopy(data)  # it belongs to all handlers of the event
        for each in range(version, self.version):
            upcast = self._upcasters.get(each)
            if upcast is None:
                raise self._rejected(VERSION, f"is {version}, and version {each} has no upcaster")
            try:
                found: Any = upcast(data)
                data = dict(found) if isinstance(found, Mapping) else found
            except (DeliveryError, Error):
                raise  # the cause is not the data, or the upcaster decides by itself
            except Exception as error:
                text = f"can't be read as version {each + 1}: {type(error).__name__}: {error}"
                failure = self._rejected("data", text)
                failure.unforeseen = error
                raise failure from error
        return data

    def _version_of(self, event: CloudEvent) -> int:
        given = event.extensions.get(VERSION, 1)
        try:
            version = int(given)  # text, where the protocol has only text
        except ValueError:
            version = 0
        if version < 1 or isinstance(given, bool):
            raise self._rejected(VERSION, f"must be a positive integer, not {given!r}")
        return version

    def _rejected(self, field: str, problem: str) -> Rejected:
        error = Rejected(f"{field}: {problem} ({self.path})")
        error.reason = f"the data do not fit {self.path}"
        return error

    def _function_of(
        self, argument: str, given: str | Callable[[Any], object] | None
    ) -> Callable[[T], object]:
        """Return the function of an argument that is a field's name or a function."""
        if given is None:
            return lambda event: None
        if callable(given):
            return given
        if not self._codec.has_value(given):
            known = ", ".join(self.fields)
            raise ValueError(
                f"{argument}: must be a field of {self.event_class.__name__}, or a function of an "
                f"event, not {given!r}; the fields are {known}"
            )
        return lambda event: self._codec.value(event, given)


class EventTypes:
    """The declared events, in the order of their declaration; iterable, with a length."""

    def __init__(self) -> None:
        self._by_type: dict[str, EventType[Any]] = {}
        self._by_class: dict[type[Any], EventType[Any]] = {}

    def __iter__(self) -> Iterator[EventType[Any]]:
        return iter(tuple(self._by_type.values()))

    def __len__(self) -> int:
        return len(self._by_type)

    def add(self, declared: EventType[Any]) -> None:
        """Add an event. It replaces one of the same path, such as a module that is run again.

        Raises:
            ValueError: Another class has the type, or the class has another type.
        """
        known = self._by_type.get(declared.type) or self._by_class.get(declared.event_class)
        if known is not None:
            if (known.path, known.type) != (declared.path, declared.type):
                raise ValueError(
                    f"type: must be unique, but {known.path} is declared as {known.type!r}"
                )
            self.remove(known.event_class)
        self._by_type[declared.type] = self._by_class[declared.event_class] = declared

    def remove(self, event_class: type[Any]) -> None:
        """Forget a class; raises KeyError if it is not declared."""
        declared = self._by_class.pop(event_class)
        del self._by_type[declared.type]

    def find(self, event_class: type[T]) -> EventType[T] | None:
        """Return the event of a class, not of its subclasses; None if it is not declared."""
        return self._by_class.get(event_class)

    def find_type(self, event_type: str) -> EventType[Any] | None:
        """Return the event with a type; None if no class has it."""
        return self._by_type.get(event_type)

    def of(self, event_class: type[T]) -> EventType[T]:
        """Return the event of a class; raises TypeError if it is not declared."""
        declared = self.find(event_class)
        if declared is None:
            raise TypeError(
                f"{event_class.__module__}.{event_class.__qualname__} must be declared as an "
                "event; decorate it with @typed_event(...)"
            )
        return declared


event_types = EventTypes()
"""The declared events of this process."""


def typed_event(
    type: str,
    *,
    source: str,
    key: str | Callable[[Any], object] | None = None,
    subject: str | Callable[[Any], object] | None = None,
    version: int = 1,
    data_schema: str = "",
) -> Callable[[EventClass], EventClass]:
    """Return a decorator that declares a class as an event, and returns it unchanged.

    The class is a dataclass, a `TypedDict`, a pydantic model or a msgspec struct. `@typed_event` is
    above `@dataclass`. A subclass is another event, which needs a declaration of its own.

    Args:
        type: The event type. A type has one class.
        source: The event's source, a URI reference.
        key: The partition key: the name of a field, or a function of the event. None for events
            without a key, and for one whose key is None.
        subject: The subject, as for `key`.
        version: The version of the data. Increase it if the class can't decode the data of
            published events, and read these with `upcasts`.
        data_schema: The absolute URI of the schema of the data.

    Raises:
        InvalidEvent: An attribute breaks the CloudEvents specification.
        ValueError: An argument is invalid, or another class has the type.
        TypeError: The class is of another kind, or a field has a type that is not supported.
    """

    def declare(event_class: EventClass) -> EventClass:
        event_types.add(
            EventType(
                event_class,
                type,
                source,
                version=version,
                key=key,
                subject=subject,
                data_schema=data_schema,
            )
        )
        return event_class

    return declare


def upcasts(event_class: type[Any], *, from_version: int) -> Callable[[U], U]:
    """Return a decorator for a function that reads the data of an older version.

    The function gets the data of this version, a dictionary that it may change, and returns
    those of the next version. Several functions lead from an old version to the class's.

    An error of the function rejects the event, which becomes a dead letter. Database errors, and
    errors such as `Retry`, are handled as if the handler had raised them.

    Args:
        event_class: A declared class.
        from_version: The version of the data that the function gets.

    Raises:
        TypeError: The class is not declared.
        ValueError: The version is not before that of the class, or has an upcaster.
    """
    declared = event_types.of(event_class)

    def add(function: U) -> U:
        declared.add_upcaster(from_version, function)
        return function

    return add


def _codec_of(event_class: type[T]) -> Codec[T]:
    given: Any = event_class
    codec = codec_of(given) if isinstance(given, type) else None
    if codec is None:
        name = getattr(event_class, "__qualname__", repr(event_class))
        raise TypeError(
            f"{name} must be a dataclass, a TypedDict, a pydantic model or a msgspec struct; write "
            "@typed_event above @dataclass"
        )
    return codec
