"""The content type of data: its default, and the data that it allows."""

from __future__ import annotations

from reprlib import repr as shortened
from typing import Any

from django_broadcaster.exceptions import InvalidEvent

from .absent import ABSENT
from .attributes import check_media_type
from .grammar import is_json_type

_BINARY = (bytes, bytearray, memoryview)
_JSON = "application/json"


def check_content(data: Any, content_type: str | None) -> tuple[Any, str]:
    """Return the validated data and their content type, with its default.

    The type is empty for an event without data that states none.
    Raises InvalidEvent("data_content_type").
    """
    if content_type and content_type != _JSON:  # which is valid, and most frequent
        content_type = check_media_type(content_type)
    content_type = content_type or ""
    if data is ABSENT:
        return data, content_type
    if isinstance(data, _BINARY):
        return bytes(data), content_type or "application/octet-stream"
    if content_type in ("", _JSON) or isinstance(data, str) or is_json_type(content_type):
        return data, content_type or _JSON
    raise InvalidEvent(
        "data_content_type",
        f"{shortened(content_type)} is not JSON, so the data must be str or bytes, "
        f"not {data.__class__.__name__}; use application/json or encode the data",
    )
