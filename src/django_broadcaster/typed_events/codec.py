"""The contract of codecs, which turn events of one class into JSON values and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Mismatch(ValueError):
    """Data do not fit a class; `path` leads to the wrong part, through fields, indexes and keys.

    Neither the path nor the text may be logged, as a key, and a text of the class, may be data.
    """

    def __init__(self, problem: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(problem)
        self.path = path

    def inside(self, step: str | int) -> Self:
        """Add the field or index that leads to the value with this error."""
        self.path = (step, *self.path)
        return self

    @property
    def field(self) -> str:
        """The path as text, such as `data.lines[0].price`."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return f"data{''.join(steps)}"


class Codec(ABC, Generic[T]):
    """Turns events of a class into JSON values and back. Instances are thread-safe."""

    def __init__(self, event_class: type[T]) -> None:
        self.event_class = event_class

    @abstractmethod
    def prepare(self) -> None:
        """Resolve the types of the fields, which the first call would do otherwise.

        Raises:
            NameError: A type of a field is not defined yet.
            TypeError: A field has a type that is not supported.
        """

    @abstractmethod
    def fields(self) -> Collection[str]:
        """Return the names of the fields."""

    @abstractmethod
    def required(self) -> Collection[str]:
        """Return the names, in JSON, of the fields that have no default."""

    @abstractmethod
    def dump(self, event: T) -> Any:
        """Return JSON values, without validating the event; raises Mismatch where there are none.

        Values that are not plain JSON may remain in it for OUTBOX_JSON_ENCODER.
        """

    @abstractmethod
    def load(self, data: Any, *, known_fields_only: bool = False) -> T:
        """Return the event of JSON values.

        Args:
            data: The values, which are not changed.
            known_fields_only: Whether an unknown field is an error; otherwise the class decides.

        Raises:
            Mismatch: The values do not fit the class.
        """

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the data.

        Raises:
            ImportError: Neither pydantic nor msgspec is installed, and the class needs one.
            TypeError: A field has a type without a JSON Schema.
        """

    def is_instance(self, event: object) -> bool:
        """Return True if the codec can dump an object."""
        return isinstance(event, self.event_class)

    def has_value(self, name: str) -> bool:
        """Return True if `value` finds this name in events: a field or a property, not a method."""
        found = self.event_class
        return name in self.fields() or (
            hasattr(found, name) and not callable(getattr(found, name))
        )

    def value(self, event: T, field: str) -> object:
        """Return the value of a field or a property of an event."""
        return getattr(event, field)
