"""The options of the backend, read. No error here repeats a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from django_broadcaster.backends.credentials import TLS, Login
from django_broadcaster.backends.options import OptionReader

from .addresses import AddressRules
from .signatures import Signer

# https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
# What the backend or HTTP itself decides.
_OURS: Final = re.compile(
    r"webhook-.*|ce-.*|content-(type|length|encoding)|host|connection|transfer-encoding|expect"
    r"|accept-encoding|te|trailer|upgrade",
    re.IGNORECASE,
)

SecretsFor = Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """The options of `WebhookBackend`, each of them valid; `headers` include the credentials."""

    url: str | None = field(repr=False)
    event_urls: bool
    allow_http: bool
    headers: Mapping[str, str] = field(repr=False)
    signer: Signer
    secrets_for: SecretsFor | str | None
    request_origin: str | None
    handshake: bool
    timeout: float
    connect_timeout: float
    max_in_flight: int
    max_response_bytes: int
    keep_response: bool
    disable_after: float
    rules: AddressRules
    tls: TLS


def read_headers(read: OptionReader, headers: object, login: Login) -> dict[str, str]:
    """Return the headers of every request; raises the reader's error."""
    read.mapping("headers", headers, optional=True)
    assert headers is None or isinstance(headers, Mapping)
    within = read.within("headers")
    for name, value in (headers or {}).items():
        if not _TOKEN.fullmatch(name):
            within.refuse(name, "must be the name of a header")
        if _OURS.fullmatch(name):
            within.refuse(name, "is set by the backend")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            within.refuse(name, "must be printable ASCII text")
        if login and name.lower() == "authorization":
            read.refuse("username", f"can't be combined with {name!r} in 'headers'")
    return {**(headers or {}), **login.as_header()}


def read_networks(read: OptionReader, allow_private: bool, networks: Sequence[str]) -> AddressRules:
    """Return the rules for addresses; raises the reader's error."""
    read.flag("allow_private", allow_private)
    read.strings("allowed_networks", networks)
    try:
        return AddressRules(allow_private=allow_private, allowed_networks=networks)
    except ValueError as error:
        read.refuse("allowed_networks", f"must be networks such as '10.1.0.0/16': {error}")


def read_secrets(read: OptionReader, secrets: Sequence[str]) -> Signer:
    """Return what signs; raises the reader's error."""
    read.strings("secrets", secrets)
    try:
        return Signer(secrets)
    except ValueError as error:
        read.refuse("secrets", str(error))


def read_origin(read: OptionReader, origin: str | None) -> str | None:
    """Return `request_origin`; raises the reader's error."""
    holds = isinstance(origin, str) and _HOST.fullmatch(origin) is not None
    rule = "a DNS name such as 'events.example.com'"
    return read.require("request_origin", origin, holds, rule, optional=True)
