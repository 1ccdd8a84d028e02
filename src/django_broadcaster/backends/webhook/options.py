"""What is wrong with the options of the backend. No text here repeats a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from .addresses import AddressRules
from .signatures import Signer
from .urls import problem_of

if TYPE_CHECKING:
    from .backend import WebhookBackend

# https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
# What the backend or HTTP itself decides.
_OURS: Final = re.compile(
    r"webhook-.*|ce-.*|content-(type|length|encoding)|host|connection|transfer-encoding|expect"
    r"|accept-encoding|te|trailer|upgrade",
    re.IGNORECASE,
)

Problem = tuple[str, str]
"""An option, and what is wrong with it."""


def problems(backend: WebhookBackend) -> Iterator[Problem]:
    """Yield what is wrong with the options that a backend was given."""
    yield from _url_problems(backend)
    yield from _number_problems(backend)
    yield from _header_problems(backend.headers)
    secrets_for: object = backend.secrets_for
    if not (isinstance(secrets_for, str | None) or callable(secrets_for)):
        yield "secrets_for", "must be a function or its dotted path"
    origin: object = backend.request_origin
    if origin is not None and not (isinstance(origin, str) and _HOST.fullmatch(origin)):
        yield "request_origin", f"must be a DNS name, such as 'events.example.com', not {origin!r}"
    handshake: object = backend.handshake
    if not isinstance(handshake, bool):
        yield "handshake", "must be True or False"
    elif handshake and origin is None:
        yield "handshake", "has no effect without 'request_origin'"
    if backend.tls["keyfile"] and not backend.tls["certfile"]:
        yield "ssl_keyfile", "has no effect without 'ssl_certfile'"


def _url_problems(backend: WebhookBackend) -> Iterator[Problem]:
    if backend.url is None:
        if not backend.event_urls:
            yield "url", "is missing: give it, or 'event_urls' where events name their own"
    elif problem := problem_of(backend.url, allow_http=True):
        yield "url", problem
    if backend.allow_http and not backend.event_urls:
        yield "allow_http", "has no effect without 'event_urls'"


def _number_problems(backend: WebhookBackend) -> Iterator[Problem]:
    for option in ("timeout", "connect_timeout", "disable_after"):
        value = getattr(backend, option)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            yield option, f"must be seconds above 0, not {value!r}"
    for option in ("max_in_flight", "max_response_bytes"):
        value = getattr(backend, option)
        if type(value) is not int or value < 1:
            yield option, f"must be a whole number from 1 on, not {value!r}"


def _header_problems(headers: object) -> Iterator[Problem]:
    if not isinstance(headers, Mapping):
        yield "headers", "must be a dict"
        return
    for name, value in headers.items():
        if problem := _header_problem(name, value):
            yield "headers", problem


def _header_problem(name: object, value: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        return f"{name!r} is no name of a header"
    if _OURS.fullmatch(name):
        return f"{name!r} is set by the backend"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return f"the value of {name!r} must be printable ASCII text"
    return ""


def read_networks(allow_private: bool, networks: Sequence[str]) -> AddressRules:
    """Return the rules for addresses; raises ValueError for what is no network."""
    if isinstance(networks, str):
        raise ValueError("must be a list of networks, such as ['10.1.0.0/16']")
    return AddressRules(allow_private=allow_private, allowed_networks=networks)


def read_secrets(secrets: Sequence[str]) -> Signer:
    """Return what signs; raises ValueError for what is no list of secrets."""
    if isinstance(secrets, str | bytes | Mapping) or not isinstance(secrets, Sequence):
        raise ValueError("must be a list of secrets")
    return Signer(secrets)
