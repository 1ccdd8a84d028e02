"""Read a file of `FileArchive`."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from django_broadcaster.encryption import unseal
from django_broadcaster.events import CloudEvent
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import InvalidEvent

_CHUNK: Final = 1 << 16
_GZIP: Final = 16 + zlib.MAX_WBITS


class Archived(NamedTuple):
    """A line of an archive: the event, and its other columns in the outbox."""

    event: CloudEvent
    outbox: Mapping[str, Any]


def read_archive(path: str | Path) -> Iterator[Archived]:
    """Yield the events of a file of `FileArchive`, in the order in which they were purged.

    If the writer of a file was killed or is still writing, the last line may be incomplete. It is
    skipped, because its event was not deleted from the outbox.

    Args:
        path: The path of the file.

    Raises:
        OSError: The file can't be read, or is damaged.
        InvalidEvent: A line has no event.
        CannotUnseal: No key of OUTBOX_ENCRYPTION_KEYS decrypts an event's data.
    """
    with Path(path).open("rb") as file:
        for line in _lines(file):
            found = parse_json(line)
            if not (isinstance(found, dict) and {"event", "outbox"} <= found.keys()):
                raise InvalidEvent("event", f"{path}: a line was not written by FileArchive")
            yield Archived(_event_of(found), found["outbox"])


def _event_of(found: Any) -> CloudEvent:
    event = CloudEvent.from_dict(found["event"])
    sealed = found["outbox"].get("sealed")
    if sealed is None:
        return event
    text, binary = unseal(sealed.encode())
    return event.replace(data=binary if text is None else parse_json(text))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    for data in _decompressed(file):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """Yield the data of the members, including an incomplete last one.

    For the standard library's reader, a file that ends in a member's header is damaged.
    """
    member = zlib.decompressobj(_GZIP)
    while data := file.read(_CHUNK):
        while data:
            try:
                yield member.decompress(data)
            except zlib.error as error:
                raise gzip.BadGzipFile(f"{file.name}: {error}") from error
            data = member.unused_data
            if member.eof:
                member = zlib.decompressobj(_GZIP)
