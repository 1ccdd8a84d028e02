"""Formats for values in the admin: labels, moments, texts and bytes. The result is escaped."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import (
    get_current_timezone_name,
    is_aware,
    localtime,
    make_aware,
    now,
)
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_broadcaster.amounts import duration

NOTHING = "-"
LONGEST_TEXT = 100_000  # characters of a payload that a page shows
BINARY_HEAD = 256  # bytes of a binary payload that a page shows


def label(name: str, text: Any) -> SafeString:
    """Return a short text on the colour that `admin.css` defines for the name."""
    return format_html('<span class="broadcaster-label broadcaster-label-{}">{}</span>', name, text)


def text_block(text: Any) -> SafeString:
    """Return a text unchanged, but cut off where it would make the page unusable."""
    # The block scrolls, so the keyboard must be able to focus it.
    return format_html('<pre class="broadcaster-text" tabindex="0">{}</pre>', shortened(text))


def shortened(text: Any, longest: int = LONGEST_TEXT) -> str:
    """Return a text, cut off after `longest` characters.

    A lone surrogate, which JSON may have and a page can't, is shown as its escape sequence.
    """
    whole = str(text).encode(errors="backslashreplace").decode()
    if len(whole) <= longest:
        return whole
    more = _("… %(count)d more characters") % {"count": len(whole) - longest}
    return f"{whole[:longest]}\n{more}"


def moment(value: datetime | None) -> str:
    """Return a moment with its seconds, which Django's formats omit, and the time zone."""
    if value is None:
        return NOTHING
    local = localtime(value) if is_aware(value) else value
    return f"{local:%Y-%m-%d %H:%M:%S} {get_current_timezone_name()}"


def age(value: datetime) -> SafeString:
    """Return how long ago a moment was, and the moment under the cursor."""
    local = value if is_aware(value) else make_aware(value)
    seconds = max(0, int((now() - local).total_seconds()))
    text = _("%(duration)s ago") % {"duration": duration(seconds)}
    return format_html('<time title="{}">{}</time>', moment(value), text)


def dump(data: bytes) -> str:
    """Return the size of binary data and its first bytes, as `hexdump -C` shows them."""
    size = ngettext("%(size)d byte", "%(size)d bytes", len(data)) % {"size": len(data)}
    more = ["…"] if len(data) > BINARY_HEAD else []
    return "\n".join([size, *_hex_lines(data[:BINARY_HEAD]), *more])


def _hex_lines(data: bytes) -> list[str]:
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  |{readable}|")
    return lines
