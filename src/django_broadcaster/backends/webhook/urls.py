"""The address of an endpoint: what it may be, and what of it may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit

from django_broadcaster.backends.options import OptionReader

LONGEST_URL = 2000
"""Characters; the limit of the table of endpoints that fail."""


def read_url(read: OptionReader, url: object, *, allow_http: bool) -> None:
    """Judge the URL of an endpoint, without showing it; raises the reader's error."""
    if isinstance(url, str) and len(url) > LONGEST_URL:
        read.refuse("url", f"must have no more than {LONGEST_URL} characters")
    read.url("url", url, ("https", "http") if allow_http else ("https",), credentials=False)


def place_of(url: str) -> str:
    """Return what may be shown of a URL: a path or a query is often the key to an endpoint."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def keys_of(url: str) -> set[str]:
    """Return the parts of a URL that may be the key to an endpoint: its path and its query."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return {part for part in (target, parts.path, parts.query) if len(part) > 1}


def target_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
