"""The address of an endpoint: what is wrong with it, and what of it may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit

LONGEST_URL = 2000
"""Characters; what the table of endpoints in trouble holds."""


def problem_of(url: object, *, allow_http: bool) -> str:
    """Return what is wrong with a URL, without repeating it; empty if nothing is."""
    if not isinstance(url, str) or not url:
        return "must be a URL and not empty"
    if len(url) > LONGEST_URL:
        return f"must have no more than {LONGEST_URL} characters"
    if any(character.isspace() or not character.isprintable() for character in url):
        return "must have no spaces, line breaks or control characters"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "has a malformed host or port"
    if parts.scheme not in (("http", "https") if allow_http else ("https",)):
        return "must begin with https://" + (" or http://" if allow_http else "")
    if not host:
        return "must name a host"
    if "@" in parts.netloc:
        return "must have no user and password in it: set an Authorization header in 'headers'"
    return ""


def place_of(url: str) -> str:
    """Return what may be shown of a URL: a path or a query is often the key to an endpoint."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def target_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
