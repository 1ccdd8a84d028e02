"""Payloads encrypted at rest, by the keys of OUTBOX_ENCRYPTION_KEYS.

The data of an event is encrypted as it is published, before it goes to the database, and decrypted
by the relay that sends it: the table, its backups and the database's log hold what nobody reads
without a key. What is delivered is the same. The first key encrypts, all of them decrypt:
https://cryptography.io/en/latest/fernet/

Attributes, extensions and the key are not encrypted: the relay, routes and the admin go by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from .conf import conf
from .exceptions import BackendConfigurationError, CannotUnseal, MissingClient

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

_JSON: Final = b"j"
_BINARY: Final = b"b"
"""What a sealed payload begins with, beside its data: JSON text, or bytes."""


def is_on() -> bool:
    """Whether payloads are encrypted that are published now."""
    return bool(conf.ENCRYPTION_KEYS)


def seal(data_json: str | None, data_binary: bytes | None) -> bytes | None:
    """Return data encrypted with the first key; None for an event without data.

    Raises BackendConfigurationError for a key that is none, MissingClient without the library.
    """
    if data_binary is not None:
        return _keys().encrypt(_BINARY + data_binary)
    return None if data_json is None else _keys().encrypt(_JSON + data_json.encode())


def unseal(sealed: bytes | memoryview) -> tuple[str | None, bytes | None]:
    """Return data as JSON text or as bytes; raises CannotUnseal, and what `seal` raises."""
    data = _decrypt(bytes(sealed))
    return (None, data[1:]) if data[:1] == _BINARY else (data[1:].decode(), None)


def reseal(sealed: bytes | memoryview) -> bytes | None:
    """Return data encrypted with the first key, or None if it is already; raises as `unseal`."""
    first = _one(_listed()[0])
    from cryptography.fernet import InvalidToken

    token = bytes(sealed)
    try:
        first.decrypt(token)
    except InvalidToken:
        return first.encrypt(_decrypt(token))
    return None


def key_problem(key: object) -> str:
    """Return what is wrong with a key, without repeating it, or nothing."""
    if not isinstance(key, str | bytes):
        return f"is a {type(key).__name__}, and a key is text"
    try:
        _fernet(key)
    except ValueError:
        return "is no key: 32 bytes in URL-safe base64, which Fernet.generate_key() makes"
    return ""


def _decrypt(token: bytes) -> bytes:
    if not conf.ENCRYPTION_KEYS:
        raise CannotUnseal("OUTBOX_ENCRYPTION_KEYS is empty, and the payload is encrypted")
    keys = _keys()
    from cryptography.fernet import InvalidToken

    try:
        return keys.decrypt(token)
    except InvalidToken as error:
        raise CannotUnseal(
            "no key of OUTBOX_ENCRYPTION_KEYS decrypts the payload; add the one it was "
            "published with"
        ) from error


def _keys() -> MultiFernet:
    return _multi(_listed())


def _listed() -> tuple[Any, ...]:
    keys: Any = conf.ENCRYPTION_KEYS
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        raise BackendConfigurationError("OUTBOX_ENCRYPTION_KEYS must be a list of keys")
    return tuple(keys)


@lru_cache(maxsize=8)
def _multi(keys: tuple[Any, ...]) -> MultiFernet:
    fernets = [_one(key) for key in keys]  # which says what to install, if that is missing
    from cryptography.fernet import MultiFernet

    return MultiFernet(fernets)


@lru_cache(maxsize=64)
def _one(key: Any) -> Fernet:
    if problem := key_problem(key):
        raise BackendConfigurationError(f"OUTBOX_ENCRYPTION_KEYS: a key {problem}")
    return _fernet(key)


def _fernet(key: str | bytes) -> Fernet:
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise MissingClient(error.name or "cryptography", "encryption") from error
    return Fernet(key)
