"""Data as JSON text, and the errors for data that JSON or a database can't store."""

from __future__ import annotations

import re
from math import isfinite
from reprlib import repr as shortened
from typing import Any, Final

import orjson

from django_broadcaster.exceptions import InvalidEvent

from .encoder import EventJSONEncoder

MAX_DEPTH: Final = 99  # arrays and objects; MySQL's JSON holds 100 levels, a scalar being one
MAX_DIGITS: Final = 308  # of an integer in data; more overflow the doubles most readers parse into

_NESTED: Final = (dict, list, tuple)
# check_circular is not worth its time: without it a cycle ends in RecursionError.
_encoder: Final = EventJSONEncoder(
    allow_nan=False, check_circular=False, ensure_ascii=False, separators=(",", ":")
)
_SPARSE_DIGITS: Final = re.compile(r"[0-9]{15}")


def encode_data(data: Any) -> str:
    """Return `data` as compact JSON text.

    OUTBOX_JSON_ENCODER, by default DjangoJSONEncoder, encodes values that are not plain JSON.
    Raises InvalidEvent("data") with the path to a value that JSON, UTF-8 or a supported database
    can't store, because an error in the INSERT would break the caller's transaction.
    """
    text = _plain(data)
    if text is not None:
        return text
    try:
        text = _encoder.encode(data)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidEvent("data", _problem(data) or str(exc)) from exc
    if _suspect(text, data) and (problem := _problem(data)):
        raise InvalidEvent("data", problem)
    return text


def _plain(data: Any) -> str | None:
    """Return the text of data that is certainly plain JSON, else None.

    orjson is several times as fast, but accepts values that `_encoder` rejects, such as NaN. So its
    text is used only if it decodes to equal data. Subclasses go to `_encoder`, because they may
    mean something else, such as Django's QueryDict. Integers have 64 bits here, far below
    `MAX_DIGITS`.
    """
    try:
        raw = orjson.dumps(data, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
        same = orjson.loads(raw) == data
    except (TypeError, ValueError):
        return None
    if b"\\u0000" in raw or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        return None
    return raw.decode() if same else None


def _suspect(text: str, data: Any) -> bool:
    """Return True if JSON text needs the slow, exact check of `_problem`; never wrongly False."""
    if "\\u0000" in text or not (text.isascii() or _is_utf8(text)):
        return True
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper(data, MAX_DEPTH):
        return True
    # Of over 308 digits in a row, 15 are at twentieth positions: checking these is 20 times faster.
    return len(text) > MAX_DIGITS and _SPARSE_DIGITS.search(text[::20]) is not None


def is_deeper(data: Any, levels: int) -> bool:
    """Return True if data has more than `levels` levels of arrays and objects."""
    level = [data]
    for _ in range(levels + 1):
        boxes = [item for item in level if isinstance(item, _NESTED)]
        level = [item for box in boxes for item in (box.values() if isinstance(box, dict) else box)]
    return bool(boxes)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(value: Any, path: str = "", depth: int = 0) -> str | None:
    """Return the error for the first part of `value` that can't be stored, with its path."""
    where = f" at data{path}" if path else ""
    if isinstance(value, _NESTED):
        if depth == MAX_DEPTH:
            return f"is nested over {MAX_DEPTH} levels deep, or contains itself; flatten it"
        return _problem_inside(value, path, depth + 1)
    if isinstance(value, str):
        if "\0" in value:
            return f"has the character U+0000{where}, which PostgreSQL's jsonb refuses; remove it"
        return None if _is_utf8(value) else f"has a lone surrogate{where}; it is not UTF-8 text"
    if isinstance(value, float):
        return None if isfinite(value) else f"has {value}{where}; JSON has none, send None or text"
    if isinstance(value, int):
        fits = abs(value) < 10**MAX_DIGITS
        return None if fits else f"has an integer over {MAX_DIGITS} digits{where}; send it as text"
    if value is None:
        return None
    try:
        return _problem(_encoder.default(value), path, depth)
    except (TypeError, ValueError) as exc:
        return f"cannot be encoded{where}: {exc}"


def _problem_inside(value: Any, path: str, depth: int) -> str | None:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if not isinstance(key, str | int | float | None):
            return f"has a key of type {key.__class__.__name__} at data{path}; JSON's keys are text"
        inside = f"{path}[{shortened(key)}]"
        if problem := _problem(key, inside) or _problem(item, inside, depth):
            return problem
    return None
