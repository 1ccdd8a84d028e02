"""Mask secrets in texts: the values of secret options become `***`.

Broker clients quote passwords and whole URLs in their errors. The log, `last_error`, the admin and
the terminal show these errors. The settings have the secrets, so each of them is replaced in a
text, in every spelling that a client may use.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from traceback import format_exception
from typing import Any, Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from .conf import conf
from .exceptions import BroadcasterError

MASK: Final = "***"

SHORT_DIGEST: Final = 8
"""Characters of an endpoint's digest that are shown."""

_HOST: Final = socket.gethostname()

LOGGERS: Final = (
    "django_broadcaster",
    "django_broadcaster.backends",
    "django_broadcaster.consumers",
    "django_broadcaster.operations",
    "django_broadcaster.receiver",
    "django_broadcaster.relay",
    "django_broadcaster.relay.errors",
    "django_broadcaster.tracing",
)
"""Every logger of this package. The filter of a logger does not apply to its child loggers."""

SECRET_NAME: Final = re.compile(
    r"(?:^|[._-]) ( passw(or)?d | passphrase | pwd | pass | secrets? | token | credentials?"
    r" | authorization | cookie | user[._-]info | seed([._-]str)? | (ssl[._-])?key[._-]pem"
    r" | (api|access|private|account|shared|signing|encryption|session)[._-]?key"
    r" | (?<![._-])key ) $",
    re.IGNORECASE | re.VERBOSE,
)
"""Names of options, headers and parameters whose values are secret.

The pattern matches librdkafka's `sasl.password` and `ssl.key.pem`, boto3's `aws_secret_access_key`,
nats-py's `nkeys_seed_str` and headers such as `X-Api-Key`. It does not match `routing_key` or a
path (`ssl.key.location`).
"""

_NO_SECRETS: Final = frozenset({"user_credentials", "nkeys_seed"})
"""Options of nats-py that are paths of files."""

_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*://)([^\s/?#'\"]+)@", re.IGNORECASE)
_LEAST_WORD: Final = 4
_PLAIN_LENGTH: Final = 8
"""The length from which a secret is masked everywhere.

A shorter secret may be an ordinary word. It is masked in a URL, and after the name of an option.
"""

_NAME: Final = (
    "(?:passw(?:or)?d|passphrase|pwd|pass|secrets?|token|credentials?|authorization|cookie|seed"
    "|key)"
)


def masked(text: str) -> str:
    """Return a text with `***` for each secret of the settings and each login in a URL."""
    text = _URL.sub(lambda found: f"{found[1]}{MASK}@", text)
    return _without(text, _of_settings(repr((*_with_secrets(), conf.ENCRYPTION_KEYS))))


def place_of(url: str) -> str:
    """Return a URL without the part after the host, which is often a key."""
    return _BEHIND_HOST.sub(rf"\1/{MASK}", url)


def endpoint_identity(backend: str, url: str) -> str:
    """Return a digest of an endpoint's URL, which distinguishes endpoints of one host."""
    return sha256(f"{backend}\0{url}".encode()).hexdigest()


def endpoint_name(backend: str, url: str) -> str:
    """Return the beginning of the digest, which is shown beside the host."""
    return endpoint_identity(backend, url)[:SHORT_DIGEST]


_BEHIND_HOST = re.compile(r"^(https?://[^/?#]*)[/?#].+", re.IGNORECASE | re.DOTALL)


def without(text: str, values: set[str]) -> str:
    """Return a text with `***` for these values, in upper or lower case."""
    return _without(text, _patterns(values))


def _without(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub(_mask, text)
    return text


def _mask(found: re.Match[str]) -> str:
    return (found.groupdict().get("name") or "") + MASK


@lru_cache(maxsize=8)
def _of_settings(_: str) -> Sequence[re.Pattern[str]]:
    """Return the patterns of the settings' secrets, cached by a text of the settings.

    A batch of failed events needs them thousands of times.
    """
    return [_whole(secret) for secret in sorted(secrets(), key=len, reverse=True)]


def _whole(secret: str) -> re.Pattern[str]:
    """Return a pattern that matches a secret of the settings, but not an ordinary word."""
    escaped = re.escape(secret)
    if len(secret) < _PLAIN_LENGTH:
        named = rf"(?P<name>{_NAME}['\"]?\s{{0,2}}[=:]\s{{0,2}}b?['\"]?){escaped}(?!\w)"
        return re.compile(rf"{named}|(?<=:){escaped}(?=@)", re.IGNORECASE)
    return re.compile(escaped, re.IGNORECASE)


def _patterns(values: set[str]) -> Sequence[re.Pattern[str]]:
    """Return patterns of the values, the longest first."""
    return [_pattern(value) for value in sorted(values, key=len, reverse=True)]


def _pattern(value: str) -> re.Pattern[str]:
    escaped = re.escape(value)
    if len(value) < _PLAIN_LENGTH:
        escaped = rf"(?<!\w){escaped}(?!\w)"
    return re.compile(escaped, re.IGNORECASE)


def secrets() -> set[str]:
    """Return every spelling of the settings' secrets."""
    keys: Any = conf.ENCRYPTION_KEYS
    values = [*_secret_values(_with_secrets()), keys]
    return {form for text in _texts(values) for whole in _wholes(text) for form in _forms(whole)}


def _with_secrets() -> tuple[object, ...]:
    """Return the settings that have secrets among other values."""
    return conf.PUBLISHERS, conf.CONSUMERS, conf.ARCHIVE


def spellings(value: object) -> set[str]:
    """Return the spellings of a value, escaped and unescaped, and its words.

    Use this for values of which no part may be shown: a parser's error quotes a part of its input.
    """
    found: set[str] = set()
    for text in _texts(value):
        rest = text.partition("://")[2] or text  # a scheme is not secret
        found.update(re.findall(rf"\w{{{_LEAST_WORD},}}", f"{rest} {unquote(rest)}"), _forms(text))
    return found


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of a value at every depth.

    Short numbers are omitted, because they are limits or numbers of databases, and too common.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        if text and not (isinstance(value, bool | int | float) and len(text) < _LEAST_WORD):
            yield text


def _wholes(text: str) -> set[str]:
    """Return a secret, with and without a prefix such as `Bearer`."""
    return {text, _KIND.sub("", text)}


_KIND: Final = re.compile(r"^(?:[A-Za-z]+\s+|whs[ek]c?_)(?=\S{8})")


def _forms(text: str) -> set[str]:
    """Return a text unchanged, escaped and unescaped."""
    forms = {text, unquote(text), repr(text)[1:-1], json.dumps(text)[1:-1]}
    return (forms | {quote(text, safe=""), quote_plus(text)}) - {""}


def _secret_values(value: object) -> Iterator[object]:
    """Yield the secret values of settings, at every depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if _is_secret(name):
                yield inner
            else:
                yield from _secret_values(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _secret_values(inner)
    elif isinstance(value, str) and "://" in value:
        yield from _of_url(value)


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and name not in _NO_SECRETS and bool(SECRET_NAME.search(name))


def _of_url(text: str) -> Iterator[str]:
    """Yield the secrets of a URL: a password, a token in place of a user, and parameters."""
    try:
        parts = urlsplit(text)
    except ValueError:  # the text before the host may be a login
        yield from (found[2] for found in _URL.finditer(text))
        return
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield password or user
    yield from (value for name, value in parse_qsl(parts.query) if _is_secret(name))


# --- Errors --------------------------------------------------------------------------------------


def error_text(error: BaseException, longest: int = 2000, *, has_details: bool = True) -> str:
    """Return an error's text for a row: masked, shortened, and valid in every database.

    The details of a `DeliveryError` follow on a line of their own, unless `has_details` is False.
    """
    details = getattr(error, "details", "") if has_details else ""
    whole = f"{type(error).__name__}: {error}" + (f"\n{details}" if details else "")
    return text_for_row(whole, longest)


def text_for_row(whole: str, longest: int) -> str:
    """Return text masked, shortened, and valid in every database."""
    text = masked(whole)[:longest].replace("\0", "\ufffd")
    return text.encode(errors="replace").decode()  # UTF-8 can't encode a lone surrogate


def mask_error(error: BroadcasterError) -> None:
    """Mask an error's text, and remove causes that would show a secret in a traceback."""
    text = str(error)
    if (shown := masked(text)) != text:
        error.args = (shown,)
    if any(map(_reveals, _causes(error))):
        error.__cause__ = error.__context__ = None
        error.__suppress_context__ = True


def _reveals(error: BaseException) -> bool:
    try:
        text = str(error)
    except Exception:  # a foreign class may fail; the traceback then has no text either
        return False
    return masked(text) != text


@contextmanager
def masking_errors() -> Iterator[None]:
    """Mask the errors of this package that a block raises."""
    try:
        yield
    except BroadcasterError as error:
        mask_error(error)
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a traceback shows before this one."""
    seen = {id(error)}
    following = error.__cause__ or error.__context__
    while following is not None and id(following) not in seen:
        yield following
        seen.add(id(following))
        following = following.__cause__ or following.__context__


# --- The log -------------------------------------------------------------------------------------


class SecretsFilter(logging.Filter):
    """Masks the text of a record, and replaces a traceback with a secret by its masked text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record, and return True."""
        try:
            text = record.getMessage()
        except Exception:  # the handler reports the error
            return True
        if (shown := masked(text)) != text:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(format_exception(record.exc_info[1])).rstrip("\n")
            if (shown := masked(trace)) != trace:
                record.exc_text, record.exc_info = shown, None
        return True


def name_process(record: logging.LogRecord) -> bool:
    """Give a record the host and the process, as the admin names a relay; let it pass."""
    record.relay_process = f"{_HOST}:{os.getpid()}"
    return True


def mask_logs() -> None:
    """Add the filter to every logger of this package, once."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, SecretsFilter) for each in logger.filters):
            logger.addFilter(SecretsFilter())
            logger.addFilter(name_process)
