"""The stored details of a failed request: its duration, and the beginning of the response."""

from __future__ import annotations

from typing import Final

from django_broadcaster.redaction import masked, without

KEPT: Final = 500
"""Bytes of a response that are stored."""

READ_AHEAD: Final = 4 * KEPT
"""Bytes that are looked at: a secret across the end of what is stored is masked as a whole."""


def details_of(seconds: float, body: bytes, secret: set[str]) -> str:
    """Return the time that a request took and its response, with `***` for what is secret."""
    took = f"Took {seconds:.2f} s."
    text = body.decode(errors="replace")
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    shown = without(masked(text), secret).encode()[:KEPT].decode(errors="ignore")
    return f"{took} Response: {shown}" if shown else took
