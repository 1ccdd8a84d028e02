"""Payloads encrypted at rest, by the keys of OUTBOX_ENCRYPTION_KEYS.

The publish call encrypts the data of an event before it sends them to the database, and the relay
decrypts them for delivery. So the table, its backups and the database's log have encrypted data
only. The first key encrypts; all keys decrypt: https://cryptography.io/en/latest/fernet/

Attributes, extensions and the key are not encrypted, because the relay, routes and the admin use
them.
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
"""The first byte of a decrypted payload: the data are JSON text, or bytes."""


def is_on() -> bool:
    """Return True if new payloads are encrypted."""
    return bool(conf.ENCRYPTION_KEYS)


def seal(data_json: str | None, data_binary: bytes | None) -> bytes | None:
    """Return data encrypted with the first key; None for an event without data.

    Raises:
        BackendConfigurationError: OUTBOX_ENCRYPTION_KEYS has an invalid key.
        MissingClient: The library `cryptography` is not installed.
    """
    if data_binary is not None:
        return _keys().encrypt(_BINARY + data_binary)
    return None if data_json is None else _keys().encrypt(_JSON + data_json.encode())


def unseal(sealed: bytes | memoryview) -> tuple[str | None, bytes | None]:
    """Return decrypted data as JSON text and None, or as None and bytes.

    Raises:
        CannotUnseal: No key decrypts the payload.
        BackendConfigurationError: OUTBOX_ENCRYPTION_KEYS has an invalid key.
        MissingClient: The library `cryptography` is not installed.
    """
    data = _decrypt(bytes(sealed))
    return (None, data[1:]) if data[:1] == _BINARY else (data[1:].decode(), None)


def reseal(sealed: bytes | memoryview) -> bytes | None:
    """Return data encrypted with the first key, or None if they are already; raise as `unseal`."""
    first = _one(_listed()[0])
    from cryptography.fernet import InvalidToken

    token = bytes(sealed)
    try:
        first.decrypt(token)
    except InvalidToken:
        return first.encrypt(_decrypt(token))
    return None


def key_problem(key: object) -> str:
    """Return why a key is invalid, without the key, or an empty string."""
    if not isinstance(key, str | bytes):
        return f"must be text, not {type(key).__name__}"
    try:
        _fernet(key)
    except ValueError:
        return "must be 32 bytes in URL-safe base64; make one with Fernet.generate_key()"
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
    fernets = [_one(key) for key in keys]  # raises MissingClient without the library
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
