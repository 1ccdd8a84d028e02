"""Standard Webhooks: the three headers by which a receiver knows who sent a request.

    webhook-id           the event's id, the same each time that the event is sent
    webhook-timestamp    when this attempt was made, in seconds since 1970
    webhook-signature    signatures of `{id}.{timestamp}.{body}`, one for each secret, by spaces

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
A secret begins with what it is: `whsec_` for HMAC-SHA256 (`v1`), `whsk_` for ed25519 (`v1a`).
The package `standardwebhooks` signs text only, and with HMAC only; the tests verify with it.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import Final

from django_broadcaster.backends.names import percent_encoded
from django_broadcaster.exceptions import MissingClient

Sign = Callable[[bytes], bytes]

_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z_-]+")
_HMAC: Final = "whsec_"
_ED25519: Final = "whsk_"


class Signer:
    """Signs with each of the secrets, so that they can be changed without a gap.

    Raises:
        ValueError: A secret is invalid. The text does not repeat it.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_parse(secret) for secret in secrets]
        self._signs: list[tuple[str, Sign]] | None = None

    def load(self) -> None:
        """Get ready to sign; raises MissingClient where `cryptography` is needed and not there."""
        if self._signs is None:
            self._signs = [(version, _SIGNS[version](key)) for version, key in self._keys]

    def headers(self, event_id: str, seconds: int, body: bytes) -> dict[str, str]:
        """Return the headers of a request that is sent at `seconds` since 1970."""
        # The id must have no dot, or a part of the body could pass for a part of it.
        wire_id = event_id
        if not _PLAIN_ID.fullmatch(event_id):
            wire_id = percent_encoded(event_id).replace(".", "%2E")
        headers = {"webhook-id": wire_id, "webhook-timestamp": str(seconds)}
        self.load()
        if self._signs:
            content = b"%b.%d.%b" % (wire_id.encode(), seconds, body)
            signatures = [f"{version},{_base64(sign(content))}" for version, sign in self._signs]
            headers["webhook-signature"] = " ".join(signatures)
        return headers


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _parse(secret: object) -> tuple[str, bytes]:
    """Return the version of a secret's signatures, and its key."""
    text = secret if isinstance(secret, str) else ""
    if text.startswith(_HMAC):
        key = _decoded(text.removeprefix(_HMAC))
        if 24 <= len(key) <= 64:
            return "v1", key
    elif text.startswith(_ED25519):
        # The seed, or the seed and the public key behind it, as several libraries keep it.
        key = _decoded(text.removeprefix(_ED25519))
        if len(key) in (32, 64):
            return "v1a", key[:32]
    raise ValueError(
        "a secret is 'whsec_' and 24 to 64 bytes in base64, or 'whsk_' and an ed25519 private key "
        "in base64"
    )


def _decoded(text: str) -> bytes:
    """Return the bytes of base64, with padding or without; empty for anything else."""
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _ed25519(seed: bytes) -> Sign:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise MissingClient("cryptography", "webhook") from error
    return Ed25519PrivateKey.from_private_bytes(seed).sign


def _sha256(key: bytes) -> Sign:
    return lambda content: hmac.digest(key, content, "sha256")


_SIGNS: Final = {"v1": _sha256, "v1a": _ed25519}
