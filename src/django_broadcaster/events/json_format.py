"""The JSON event format: attributes and encoded data to JSON, and JSON to members."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from django_broadcaster.exceptions import InvalidEvent

from .absent import ABSENT
from .attributes import SPEC_VERSION
from .timestamps import rfc3339

_ORJSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
_LONG_INTEGER: Final = b"0" * 19
_DIGITS: Final = bytes(48 if 48 <= each < 58 else 32 for each in range(256))
"""A table for `bytes.translate`: every digit is `0`, and anything else a space."""


def envelope(
    *,
    id: str,
    source: str,
    event_type: str,
    time: datetime | None,
    subject: str,
    data_content_type: str,
    data_schema: str,
    extensions: Mapping[str, Any],
    data_json: str | bytes | None,
    data_binary: bytes | memoryview | None,
) -> bytes:
    """Return the JSON event format of valid attributes and encoded data.

    `data_json` is JSON text and is copied unchanged: the relay never decodes it. With neither
    `data_json` nor `data_binary` the event has no data. A naive `time` is in UTC.
    """
    members: dict[str, Any] = {"specversion": SPEC_VERSION, "id": id, "source": source}
    members["type"] = event_type
    if subject:
        members["subject"] = subject
    if time is not None:
        members["time"] = time if time.tzinfo in (UTC, None) else time.astimezone(UTC)
    if data_content_type:
        members["datacontenttype"] = data_content_type
    if data_schema:
        members["dataschema"] = data_schema
    members.update(extensions)
    if data_json is not None:
        members["data"] = orjson.Fragment(data_json)
    elif data_binary is not None:
        members["data_base64"] = b64encode(data_binary).decode()
    return orjson.dumps(members, rfc3339, _ORJSON_OPTIONS)


def parse_json(raw: bytes | bytearray | memoryview | str) -> Any:
    """Return the value of JSON in UTF-8, with integers exact; raises InvalidEvent("event")."""
    try:
        decoded = orjson.loads(raw)
        octets = raw.encode() if isinstance(raw, str) else bytes(raw)
        # orjson rounds integers over 64 bits to floats; the standard library keeps them.
        return json.loads(octets) if _LONG_INTEGER in octets.translate(_DIGITS) else decoded
    except (ValueError, RecursionError) as exc:
        raise InvalidEvent("event", f"is not valid JSON in UTF-8: {exc}") from exc


def read_members(members: object) -> tuple[dict[str, Any], Any]:
    """Return the unvalidated attributes of a JSON object, and its data (ABSENT without any)."""
    if not isinstance(members, Mapping):
        raise InvalidEvent("event", f"must be a JSON object, not {members.__class__.__name__}")
    attributes = dict(members)
    data = attributes.pop("data", ABSENT)
    encoded = attributes.pop("data_base64", None)
    if encoded is not None:
        if data is not ABSENT:
            raise InvalidEvent("data", "has both data and data_base64; send one of them")
        data = _from_base64(encoded)
    if data is not ABSENT and encoded is None and attributes.get("datacontenttype") is None:
        attributes["datacontenttype"] = "application/json"  # implied for JSON, not for bytes
    return attributes, data


def _from_base64(text: object) -> bytes:
    try:
        return b64decode(text, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        raise InvalidEvent("data", f"data_base64 is not base64 text (RFC 4648): {exc}") from exc
