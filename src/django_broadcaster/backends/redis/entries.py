"""Events as XADD commands, packed as they are sent.

https://redis.io/docs/latest/develop/reference/protocol-spec/

Packing them here takes a third of the time that redis-py's pipeline takes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Final

from ..base import Message
from ..bindings import WireMessage
from .fields import Further

_STRUCTURED: Final = (  # after its head
    b"%b$8\r\nevent_id\r\n$%d\r\n%b\r\n$10\r\nevent_type\r\n$%d\r\n%b\r\n$6\r\nsource\r\n$%d\r\n%b\r\n"
    b"$9\r\ntimestamp\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
)
_PAIRS: Final = 5


@lru_cache(maxsize=4096)
def head(stream: str, max_len: int | None, pairs: int) -> bytes:
    """Return the packed XADD up to its fields, which are `pairs` pairs of a name and a value."""
    # Approximate trimming: Redis drops whole nodes of the stream, which costs next to nothing.
    trim = [] if max_len is None else ["MAXLEN", "~", str(max_len)]
    arguments = [argument.encode() for argument in ("XADD", stream, *trim, "*")]
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments)
    return b"*%d\r\n%b" % (len(arguments) + 2 * pairs, packed)


def structured(
    stream: str,
    max_len: int | None,
    message: Message,
    body: bytes,
    body_field: bytes,
    more: Further,
) -> bytes:
    """Return the packed XADD of an event in structured mode; `body` is the event in JSON."""
    event_id, event_type = message.event_id.encode(), message.event_type.encode()
    source, time = message.source.encode(), timestamp(message.time)
    command = _STRUCTURED % (
        head(stream, max_len, _PAIRS + more.pairs), len(event_id), event_id,
        len(event_type), event_type, len(source), source, len(time), time,
        len(body_field), body_field, len(body), body,
    )  # fmt: skip
    return command + more.packed if more.pairs else command


def binary(
    stream: str,
    max_len: int | None,
    message: Message,
    wire: WireMessage,
    body_field: str,
    more: Further,
) -> bytes:
    """Return the packed XADD of an event in binary mode."""
    content_type, body = wire.content_type, wire.body
    texts = [message.event_id, message.event_type, message.source, *wire.headers.values()]
    if content_type:
        texts.append(content_type)
    values = [*map(str.encode, texts)]
    values.insert(3, wire.headers.get("ce_time", "").encode())
    if body is not None:
        values.append(body)
    data = None if body is None else body_field
    names = _binary_names(
        stream, max_len, tuple(wire.headers), bool(content_type), data, more.pairs
    )
    # All in C: a loop over a dozen fields takes twice as long.
    sizes = map(_SIZES.__getitem__, map(len, values))
    pairs = chain.from_iterable(zip(names, sizes, values, strict=True))
    return b"".join(chain(pairs, _END, (more.packed,)))


class _Sizes(dict[int, bytes]):
    """The line that states a size; most are made only once."""

    def __missing__(self, size: int) -> bytes:
        return b"$%d\r\n" % size


_SIZES = _Sizes((size, b"$%d\r\n" % size) for size in range(1024))
_END: Final = (b"\r\n",)


@lru_cache(maxsize=4096)
def _binary_names(
    stream: str,
    max_len: int | None,
    attributes: tuple[str, ...],
    typed: bool,
    data: str | None,
    further: int,
) -> list[bytes]:
    """Return the packed XADD cut where the values belong: what ends with the name of each."""
    names = ["event_id", "event_type", "source", "timestamp", *attributes]
    names += ["content_type"] * typed + ([] if data is None else [data])
    first, *others = [b"$%d\r\n%b\r\n" % (len(name), name.encode()) for name in names]
    return [
        head(stream, max_len, len(names) + further) + first,
        *(b"\r\n" + each for each in others),
    ]


def timestamp(time: datetime | None) -> bytes:
    """Return RFC 3339 in UTC; a naive time is in UTC."""
    if time is None:
        return b""
    if time.tzinfo not in (UTC, None):
        time = time.astimezone(UTC)
    return (time.isoformat().removesuffix("+00:00") + "Z").encode()
