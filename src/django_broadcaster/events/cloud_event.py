"""The event: immutable, validated when it is created, equal by value."""

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

from .absent import ABSENT, JSON_NULL, Absent
from .attributes import (
    JSON_NAMES,
    SPEC_VERSION,
    check_data_schema,
    check_identifier,
    check_source,
    check_string,
)
from .content_type import check_content
from .extensions import check_extensions
from .json_format import envelope, parse_json, read_members
from .lazy import resolved
from .messages import Headers, read_amqp, read_http, read_kafka, read_mqtt, read_nats
from .payload import encode_data
from .sdk import read_sdk_event
from .timestamps import check_time

_PLAIN = [name for name in JSON_NAMES if name != "data_content_type"]
"""The attributes that are stored under their own names."""


class CloudEvent:
    """One CloudEvents 1.0 event; equal by value, hashed by its identity (`source`, `id`).

    Args:
        event_type: The attribute `type`, not empty. It can be read as `type`, too.
        source: A URI reference (RFC 3986), not empty.
        data: Anything that OUTBOX_JSON_ENCODER encodes, `str` for a content type that is not JSON,
            or bytes. None is an event without data, `JSON_NULL` the payload null. The data are
            neither copied nor encoded here (see `encode_data`). Do not change them later.
        subject: The subject within the source; also an integer or a UUID. Empty or None: not set.
        data_content_type: Media type (RFC 2046). None or empty: `application/json`, which the
            specification implies, and `application/octet-stream` for bytes, which need not be JSON.
        data_schema: Absolute URI. Empty or None: not set. A fragment is accepted,
            which RFC 3986 section 4.3 excludes, because it names a schema inside a document.
        spec_version: The version of the specification, which can only be `1.0`.
        id: Not empty, unique within `source`; also an integer or a UUID. A new UUIDv7 unless given.
        time: Aware datetime or RFC 3339 text, kept in UTC with microseconds; by default
            now. An explicit None omits it.
        extensions: Names of `[a-z0-9]{1,20}`; values bool, int of 32 bits, str, UUID, bytes (kept
            as base64 text) or aware datetime (kept as RFC 3339 text). None means unset and is
            omitted.

    Raises:
        InvalidEvent: An argument breaks the specification; `field` is its name.
    """

    __slots__ = ("_data", "_stated_content_type", "extensions", *_PLAIN)

    event_type: str
    source: str
    id: str
    subject: str
    time: datetime | None
    data_schema: str
    extensions: Mapping[str, bool | int | str]
    _data: Any
    _stated_content_type: str
    spec_version: ClassVar[str] = SPEC_VERSION

    def __init__(
        self,
        event_type: str,
        source: str,
        data: Any = None,
        subject: str | None = "",
        data_content_type: str | None = None,
        data_schema: str | None = "",
        spec_version: str = SPEC_VERSION,
        *,
        id: str | None = None,
        time: datetime | str | Absent | None = ABSENT,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        if spec_version != SPEC_VERSION:
            raise InvalidEvent(
                "spec_version", f'must be "{SPEC_VERSION}", not {shortened(spec_version)}'
            )
        self._fill(
            event_type,
            source,
            str(uuid_utils.uuid7()) if id is None else check_identifier("event_id", id),
            _payload(data),
            "" if subject in (None, "") else check_identifier("subject", subject),
            datetime.now(UTC) if time is ABSENT else time,
            data_content_type,
            data_schema,
            check_extensions(extensions),
        )

    def _fill(
        self,
        event_type: object,
        source: object,
        event_id: str,
        data: Any,
        subject: str,
        time: object,
        data_content_type: str | None,
        data_schema: object,
        extensions: Mapping[str, bool | int | str],
    ) -> None:
        """Set the attributes; `event_id`, `subject` and `extensions` are valid, others are checked.

        `data` is ABSENT for none, and None for JSON's null.
        """
        data, content_type = check_content(data, data_content_type)
        put = object.__setattr__
        put(self, "event_type", check_string("event_type", event_type))
        put(self, "source", check_source(source))
        put(self, "id", event_id)
        put(self, "_data", data)
        put(self, "subject", subject)
        put(self, "time", check_time(time))
        put(self, "_stated_content_type", content_type)
        put(
            self, "data_schema", "" if data_schema in (None, "") else check_data_schema(data_schema)
        )
        put(self, "extensions", extensions)

    @property
    def type(self) -> str:
        """The event type, by its name in the specification."""
        return self.event_type

    @property
    def data_content_type(self) -> str:
        """The media type of the data; `application/json` if the event states none.

        https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#datacontenttype
        Received bytes without a media type have none, because they need not be JSON.
        """
        if isinstance(self._data, bytes):
            return self._stated_content_type
        return self._stated_content_type or "application/json"

    @property
    def stated_content_type(self) -> str:
        """The attribute `datacontenttype` as it is sent; empty if the event has none."""
        return self._stated_content_type

    @property
    def has_data(self) -> bool:
        """Whether the event has data, which may be JSON's null."""
        return self._data is not ABSENT

    @property
    def data(self) -> Any:
        """The payload; None if there is none (see `has_data`)."""
        return None if self._data is ABSENT else self._data

    @property
    def partition_key(self) -> str | None:
        """The `partitionkey` extension: events of one key are delivered in publish order."""
        key = self.extensions.get("partitionkey")
        return key if isinstance(key, str) else None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some of the constructor's arguments changed, and validated again."""
        if "data" in changes:
            changes["data"] = _payload(changes["data"])
        extensions = self.extensions
        if "extensions" in changes:
            extensions = check_extensions(changes.pop("extensions"), known=extensions)
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

        An attribute that is None counts as unset. Longer extension names than in the constructor
        are accepted, because the specification only advises against them. Bytes without a content
        type stay without one. The other methods that read an event do the same.
        """
        return cls._from_attributes(*read_members(members))

    @classmethod
    def from_json(cls, raw: bytes | bytearray | memoryview | str) -> Self:
        """Read application/cloudevents+json (UTF-8); raises InvalidEvent naming the field."""
        return cls.from_dict(parse_json(raw))

    @classmethod
    def from_sdk(cls, event: object) -> Self:
        """Read an event of the official `cloudevents` SDK, 1.x (http, pydantic, abstract) or 2.x.

        The SDK has one value for null and for absent data: None becomes absent. Raises TypeError
        for anything but an SDK event, InvalidEvent for one that breaks the specification.
        """
        return cls._from_attributes(*read_sdk_event(event))

    @classmethod
    def from_http(cls, headers: Headers, body: bytes) -> Self:
        """Read a request or a response of HTTP in either content mode.

        Args:
            headers: A mapping, or pairs of a name and a value; Django's `request.headers`.
            body: The body as received, `request.body`.

        In binary mode, as for all protocols, extensions arrive as text. The content type decides
        about the data: JSON is decoded, text becomes `str`, anything else bytes. An empty body
        means absent data if its content type is JSON or missing.

        Raises:
            InvalidEvent: The message is not a CloudEvent, or breaks the specification.
        """
        return cls._from_attributes(*read_http(headers, body))

    @classmethod
    def from_kafka(cls, headers: Headers, body: bytes | None) -> Self:
        """Read a record in either content mode; `body` is its value, None for an event without
        data. The rest is as for `from_http`.
        """
        return cls._from_attributes(*read_kafka(headers, body))

    @classmethod
    def from_nats(cls, headers: Headers, body: bytes) -> Self:
        """Read a message of NATS in either content mode, as `from_http` does."""
        return cls._from_attributes(*read_nats(headers, body))

    @classmethod
    def from_amqp(cls, headers: Headers, body: bytes, content_type: str | None = None) -> Self:
        """Read a message of RabbitMQ or AMQP 1.0 in either content mode.

        Args:
            headers: The application's headers, or properties. The prefixes `ce-`, `cloudEvents_`
                and `cloudEvents:` are understood.
            body: The body as received.
            content_type: The property `content_type` of the message.

        The rest is as for `from_http`.
        """
        return cls._from_attributes(*read_amqp(headers, body, content_type))

    @classmethod
    def from_mqtt(cls, headers: Headers, body: bytes, content_type: str | None = None) -> Self:
        """Read a message of MQTT in either content mode.

        Args:
            headers: The user properties. A message of MQTT 3 has none and is always structured.
            body: The payload as received.
            content_type: The property `Content Type` of the message.

        The rest is as for `from_http`.
        """
        return cls._from_attributes(*read_mqtt(headers, body, content_type))

    @classmethod
    def _from_attributes(cls, attributes: dict[str, Any], data: Any) -> Self:
        version = attributes.pop("specversion", None)
        if version != SPEC_VERSION:
            raise InvalidEvent("specversion", f'must be "{SPEC_VERSION}", not {shortened(version)}')
        take = attributes.pop
        event_id = check_string("event_id", take("id", None))  # None would create a new one
        subject = take("subject", None)
        event = cls.__new__(cls)
        content_type = take("datacontenttype", None)
        event._fill(
            take("type", None),
            take("source", None),
            event_id,
            _payload(JSON_NULL if data is None else data),
            "" if subject in (None, "") else check_string("subject", subject),
            take("time", None),
            content_type,
            take("dataschema", None),
            check_extensions(attributes, None),
        )
        if not content_type:
            event._unstate_content_type()
        return event

    @classmethod
    def _stored(cls, *, extensions: Mapping[str, Any], **fields: Any) -> Self:
        """Return an event of the outbox from the constructor's arguments, without its defaults."""
        event = cls(**fields)
        if extensions:
            object.__setattr__(event, "extensions", check_extensions(extensions, None))
        if not fields["data_content_type"]:
            event._unstate_content_type()
        return event

    @classmethod
    def _build(cls, fields: Mapping[str, Any], extensions: Mapping[str, Any]) -> Self:
        """Return an event from `_fields` and validated extensions."""
        data = JSON_NULL if fields["data"] is None else fields["data"]
        event = cls(**{**fields, "data": data})
        object.__setattr__(event, "extensions", MappingProxyType(dict(extensions)))
        if not fields["data_content_type"]:
            event._unstate_content_type()
        return event

    def _unstate_content_type(self) -> None:
        """Remove the media type that the constructor sets for bytes: none was stated."""
        if isinstance(self._data, bytes):
            object.__setattr__(self, "_stated_content_type", "")

    def _fields(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in _PLAIN}
        fields["data"] = self._data
        fields["data_content_type"] = self._stated_content_type
        return fields

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
        return f"{name}(event_type={self.event_type!r}, source={self.source!r}, id={self.id!r})"

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"CloudEvent is immutable; use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError("CloudEvent is immutable")


def as_cloud_event(event: object) -> CloudEvent:
    """Return a `CloudEvent` as it is; read any other event with `CloudEvent.from_sdk`."""
    return event if isinstance(event, CloudEvent) else CloudEvent.from_sdk(event)


def _payload(data: Any) -> Any:
    """Return the constructor's `data` as it is stored: ABSENT for none, None for JSON's null."""
    data = resolved(data)
    if data is None:
        return ABSENT
    return None if data is JSON_NULL else data
