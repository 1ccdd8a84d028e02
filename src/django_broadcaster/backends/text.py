"""Text as brokers take it."""

from __future__ import annotations


def is_utf8(text: str) -> bool:
    """Return True if UTF-8 can hold a text: it has no lone surrogates."""
    return text.encode(errors="ignore").decode() == text
