"""How an event is written for SQS and SNS: a body, and message attributes.

There is no CloudEvents binding for either, so the names are those of the Kafka binding:

    structured   body = the whole event in the JSON format; `content-type` says so
    binary       body = the data as text; `content-type` is its media type, `ce_id`, `ce_source`,
                 ... are the attributes

A body must not be empty, holds the characters of XML 1.0 only, and has room for ten attributes
beside it, none of them empty. An event in binary mode that does not fit in there goes structured:
one without data, with bytes that are not such text, with too many attributes or an empty one, or
with an event as its data. Bytes are base64 then (`data_base64`). Readers tell the modes apart by
`content-type`.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Any, Final

from ..base import Message
from ..bindings import AWS, STRUCTURED_TYPE, ContentMode
from ..names import percent_encoded

MAX_ATTRIBUTES: Final = 10
ID_LENGTH: Final = 128
"""Characters in the id of a group or a deduplication, the most."""

# Whatever else SQS is given it refuses, or replaces by U+FFFD and says nothing.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What orjson does not escape of it.
_NONCHARACTERS: Final = str.maketrans({"\ufffe": "\\ufffe", "\uffff": "\\uffff"})
_IS_ID: Final = re.compile(r"[!-~]+").fullmatch


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a batch call; `index` is its place in the relay's batch, `size` in bytes."""

    index: int
    destination: str
    fields: dict[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    """A message as the service takes it: `attributes` in the API's terms, `size` in bytes."""

    body: str
    attributes: dict[str, dict[str, str]]
    size: int


def write(message: Message, mode: ContentMode) -> Written:
    """Return body and attributes; raises Rejected for data that can't be written."""
    if mode == "binary":
        written = _binary(message)
        if written is not None:
            return written
    encoded = message.to_json()
    body = encoded.decode()
    if not body.isascii() and ("\ufffe" in body or "\uffff" in body):
        body = body.translate(_NONCHARACTERS)
        encoded = body.encode()
    return Written(body, _STRUCTURED, len(encoded) + _STRUCTURED_SIZE)


def _size(attributes: dict[str, str]) -> int:
    """Return the bytes that count towards the limit: of names, types and values."""
    return sum(len(f"{name}String{value}".encode()) for name, value in attributes.items())


def _values(attributes: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return attributes in the terms of the API."""
    return {
        name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
    }


def group_id(message: Message) -> str:
    """Return the FIFO group: the key, or a group of its own for an event without one.

    The key is percent-encoded as far as the API has to, and a digest where that is too long.
    """
    if not message.partition_key:
        return deduplication_id(message)
    group = percent_encoded(message.partition_key)
    return group if len(group) <= ID_LENGTH else sha256(group.encode()).hexdigest()


def deduplication_id(message: Message) -> str:
    """Return the event's id, `.`, and a digest of its source; or one digest of both.

    The id alone would not do, because events of two sources may have the same. The second would
    be taken for a repetition and be lost.
    """
    readable = f"{message.event_id}.{_digest(message.source)}"
    if len(readable) <= ID_LENGTH and _IS_ID(readable):
        return readable
    return sha256(f"{len(message.source)} {message.source}{message.event_id}".encode()).hexdigest()


@lru_cache(maxsize=1024)  # most events are of a few sources
def _digest(source: str) -> str:
    return blake2b(source.encode(), digest_size=12).hexdigest()


def _binary(message: Message) -> Written | None:
    """Return body and attributes, or None if the service could not hold them."""
    if AWS.is_structured(message, "binary"):
        return None
    wire = AWS.encode(message, "binary")
    attributes = dict(wire.headers)
    if wire.content_type:
        attributes["content-type"] = wire.content_type
    if not wire.body or len(attributes) > MAX_ATTRIBUTES:
        return None
    try:
        body = wire.body.decode()
    except UnicodeDecodeError:
        return None
    if not all(attributes.values()) or any(map(_FORBIDDEN.search, (body, *attributes.values()))):
        return None
    return Written(body, _values(attributes), len(wire.body) + _size(attributes))


_STRUCTURED: Final = _values({"content-type": STRUCTURED_TYPE})
_STRUCTURED_SIZE: Final = _size({"content-type": STRUCTURED_TYPE})
