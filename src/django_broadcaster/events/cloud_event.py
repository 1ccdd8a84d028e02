"""The event itself: immutable, validated when made, equal by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from reprlib import repr as shortened
from types import MappingProxyType
from typing import Any, ClassVar, Self

import orjson
import uuid_utils

from django_broadcaster.exceptions import InvalidEvent

from .absent import ABSENT, Absent
from .attributes import JSON_NAMES, SPEC_VERSION, check_data_schema, check_source, check_string
from .content_type import check_content
from .extensions import check_extensions
from .json_format import envelope, parse_json, read_members
from .payload import encode_data
from .sdk import read_sdk_event
from .timestamps import check_time


class CloudEvent:
    """One CloudEvents 1.0 event; equal by value, hashed by its identity (`source`, `id`).

    type, source: non-empty; `source` is a URI reference (RFC 3986).
    id: non-empty, unique within `source`; a new UUIDv7 unless given.
    data: anything DjangoJSONEncoder can encode, `str` for a content type that is not JSON, or
        bytes. It is neither copied nor encoded here (see `encode_data`): do not change it later.
    subject: what the event is about; an empty one counts as None.
    time: aware datetime or RFC 3339 text, kept in UTC with microseconds; now unless given, and an
        explicit None leaves it out.
    data_content_type: media type (RFC 2046); for data without one application/json, which the
        specification implies, or application/octet-stream for bytes, which need not be JSON.
    data_schema: absolute URI. A fragment is let through, though RFC 3986 section 4.3 has none:
        schemas inside a document are named by one.
    extensions: names of `[a-z0-9]{1,20}`; values bool, int of 32 bits, str, bytes (kept as base64
        text) or aware datetime (kept as RFC 3339 text). None means unset, so it is dropped.

    Raises InvalidEvent naming the field.
    """

    __slots__ = ("_data", "extensions", *JSON_NAMES)

    type: str
    source: str
    id: str
    subject: str | None
    time: datetime | None
    data_content_type: str | None
    data_schema: str | None
    extensions: Mapping[str, bool | int | str]
    _data: Any
    specversion: ClassVar[str] = SPEC_VERSION

    def __init__(
        self,
        *,
        type: str,
        source: str,
        id: str | None = None,
        data: Any = ABSENT,
        subject: str | None = None,
        time: datetime | str | Absent | None = ABSENT,
        data_content_type: str | None = None,
        data_schema: str | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        data, data_content_type = check_content(data, data_content_type)
        put = object.__setattr__
        put(self, "type", check_string("event_type", type))
        put(self, "source", check_source(source))
        put(self, "id", str(uuid_utils.uuid7()) if id is None else check_string("event_id", id))
        put(self, "_data", data)
        put(self, "subject", None if subject in (None, "") else check_string("subject", subject))
        put(self, "time", datetime.now(UTC) if time is ABSENT else check_time(time))
        put(self, "data_content_type", data_content_type)
        put(self, "data_schema", None if data_schema is None else check_data_schema(data_schema))
        put(self, "extensions", check_extensions(extensions))

    @property
    def has_data(self) -> bool:
        """Whether the event has data, be it None: tells JSON null and absent apart."""
        return self._data is not ABSENT

    @property
    def data(self) -> Any:
        """The payload; None where there is none (see `has_data`)."""
        return None if self._data is ABSENT else self._data

    @property
    def partition_key(self) -> str | None:
        """The `partitionkey` extension: events of one key are delivered in publish order."""
        key = self.extensions.get("partitionkey")
        return key if isinstance(key, str) else None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some of the constructor's arguments changed, and validated again."""
        extensions = self.extensions
        if "extensions" in changes:
            extensions = check_extensions(changes.pop("extensions"))
        return self._build({**self._fields(), **changes}, extensions)

    def to_dict(self) -> dict[str, Any]:
        """Return the members of the JSON event format; `data` is the same object, not encoded."""
        members: dict[str, Any] = orjson.loads(self._envelope(None))
        if self.has_data and not isinstance(self._data, bytes):
            members["data"] = self._data
        return members

    def to_json(self) -> bytes:
        """Return the event as application/cloudevents+json, in UTF-8.

        Raises InvalidEvent("data") where `encode_data` does.
        """
        encoded = not self.has_data or isinstance(self._data, bytes)
        return self._envelope(None if encoded else encode_data(self._data))

    def _envelope(self, data_json: str | None) -> bytes:
        fields = self._fields()
        data = fields.pop("data")
        binary = data if isinstance(data, bytes) else None
        return envelope(
            **fields, extensions=self.extensions, data_json=data_json, data_binary=binary
        )

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> Self:
        """Read the members of the JSON event format; the opposite of `to_dict`.

        An attribute that is None counts as unset. Longer extension names than one may publish are
        let through, because the specification only advises against them.
        """
        attributes, data = read_members(members)
        return cls._from_attributes(attributes, data, longest=None)

    @classmethod
    def from_json(cls, raw: bytes | bytearray | memoryview | str) -> Self:
        """Read application/cloudevents+json (UTF-8); raises InvalidEvent naming the field."""
        return cls.from_dict(parse_json(raw))

    @classmethod
    def from_sdk(cls, event: object) -> Self:
        """Read an event of the official `cloudevents` SDK, 1.x (http, pydantic, abstract) or 2.x.

        The SDK cannot tell null from absent data: None becomes absent. Raises TypeError for
        anything else than an SDK event, InvalidEvent for one that breaks the specification.
        """
        return cls._from_attributes(*read_sdk_event(event))

    @classmethod
    def _from_attributes(
        cls, attributes: dict[str, Any], data: Any, longest: int | None = 20
    ) -> Self:
        version = attributes.pop("specversion", None)
        if version != SPEC_VERSION:
            raise InvalidEvent("specversion", f'must be "{SPEC_VERSION}", not {shortened(version)}')
        fields = {name: attributes.pop(key, None) for name, key in JSON_NAMES.items()}
        if fields["id"] is None:
            fields["id"] = ""  # refused by the constructor, where None would make a new one
        return cls._build({**fields, "data": data}, check_extensions(attributes, longest))

    @classmethod
    def _build(cls, fields: Mapping[str, Any], extensions: Mapping[str, Any]) -> Self:
        """Construct from `_fields` and extensions that are checked already."""
        event = cls(**fields)
        object.__setattr__(event, "extensions", MappingProxyType(dict(extensions)))
        return event

    def _fields(self) -> dict[str, Any]:
        return {"data": self._data, **{name: getattr(self, name) for name in JSON_NAMES}}

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can be neither pickled nor deep-copied.
        return self._build, (self._fields(), dict(self.extensions))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudEvent):
            return NotImplemented
        return self._fields() == other._fields() and self.extensions == other.extensions

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __repr__(self) -> str:
        # Without the data, which may be large or confidential.
        name = self.__class__.__name__
        return f"{name}(type={self.type!r}, source={self.source!r}, id={self.id!r})"

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"CloudEvent is immutable; use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError("CloudEvent is immutable")


def as_cloud_event(event: object) -> CloudEvent:
    """Return `event` itself if it is ours, else read it with `CloudEvent.from_sdk`."""
    return event if isinstance(event, CloudEvent) else CloudEvent.from_sdk(event)
