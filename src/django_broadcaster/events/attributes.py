"""The attributes of the specification: their names, and the validation of strings."""

from __future__ import annotations

import re
from reprlib import repr as shortened
from typing import Final
from uuid import UUID

import uuid_utils

from django_broadcaster.exceptions import InvalidEvent

from .grammar import is_media_type, is_uri, is_uri_reference
from .lazy import resolved

SPEC_VERSION: Final = "1.0"

JSON_NAMES: Final = {  # constructor's name -> the specification's
    "id": "id",
    "source": "source",
    "event_type": "type",
    "subject": "subject",
    "time": "time",
    "data_content_type": "datacontenttype",
    "data_schema": "dataschema",
}

# CloudEvents' String: no control characters, surrogates or noncharacters.
_DISALLOWED: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufdd0-\\ufdef"
    + "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17))
    + "]"
)


def character_problem(value: str) -> str | None:
    """Return the error in the characters of a CloudEvents String, or None."""
    if value.isascii() and value.isprintable():
        return None
    found = _DISALLOWED.search(value)
    return f"has the disallowed character U+{ord(found[0]):04X}; remove it" if found else None


def check_string(field: str, value: object) -> str:
    """Return a non-empty String as plain `str`; otherwise raise InvalidEvent(field)."""
    if type(value) is str and value and value.isascii() and value.isprintable():
        return value  # the usual case
    value = resolved(value)
    if not isinstance(value, str) or not value:
        given = "an empty one" if value == "" else value.__class__.__name__
        raise InvalidEvent(field, f"must be a non-empty string, not {given}")
    if problem := character_problem(value):
        raise InvalidEvent(field, problem)
    return str.__str__(value)  # a plain str, also for members of an Enum and SafeString


def check_identifier(field: str, value: object) -> str:
    """Return a non-empty String, also of an integer or a UUID; raises InvalidEvent(field)."""
    if type(value) is not str:
        value = resolved(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = int.__repr__(value)  # the number, also for members of an Enum
        elif isinstance(value, UUID | uuid_utils.UUID):
            value = str(value)
        elif not isinstance(value, str):
            given = value.__class__.__name__
            raise InvalidEvent(field, f"must be a string, an integer or a UUID, not {given}")
    return check_string(field, value)


def check_source(value: object) -> str:
    """Return a URI reference; otherwise raise InvalidEvent("source")."""
    text = check_string("source", value)
    if not is_uri_reference(text):
        raise InvalidEvent(
            "source",
            f"{shortened(text)} is not a URI reference (RFC 3986), such as 'user-service', "
            "'/shop/orders' or 'https://example.com/shop'; percent-encode spaces and characters "
            "outside ASCII",
        )
    return text


def check_data_schema(value: object) -> str:
    """Return an absolute URI; otherwise raise InvalidEvent("data_schema")."""
    text = check_string("data_schema", value)
    if not is_uri(text):
        raise InvalidEvent(
            "data_schema",
            f"{shortened(text)} is not an absolute URI (RFC 3986), such as "
            "'https://example.com/schemas/order.json'",
        )
    return text


def check_media_type(value: object) -> str:
    """Return a media type; otherwise raise InvalidEvent("data_content_type")."""
    text = check_string("data_content_type", value)
    if not is_media_type(text):
        raise InvalidEvent(
            "data_content_type",
            f"{shortened(text)} is not a media type (RFC 2046), such as 'application/json' or "
            "'text/plain; charset=utf-8'",
        )
    return text
