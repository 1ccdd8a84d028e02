"""Standard Webhooks: the three headers by which a receiver knows who sent a request.

    webhook-id           the event's id, the same each time that the event is sent
    webhook-timestamp    when this attempt was made, in seconds since 1970
    webhook-signature    signatures of `{id}.{timestamp}.{body}`, one for each secret, by spaces

`Signer` makes them, and `Verifier` checks those of a request.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from django_broadcaster.backends.names import percent_encoded
from django_broadcaster.exceptions import MissingClient

Sign = Callable[[bytes], bytes]
Check = Callable[[bytes, bytes], bool]

_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z_-]+")
_HMAC: Final = "whsec_"
_ED25519: Final = "whsk_"
_PUBLIC: Final = "whpk_"
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")

MOST_SIGNATURES: Final = 10
"""The signatures of a request that are tried; each costs time."""


class InvalidSignature(Exception):
    """A request was not signed by who knows the secret, or too long ago."""


class Verifier:
    """Checks the signature of requests by several secrets, so that they can be changed.

    Args:
        secrets: `whsec_...` for HMAC-SHA256, `whpk_...` for the public key of ed25519.
        tolerance: The most seconds between the time of the signature and now.

    Raises:
        ValueError: A secret is invalid. The text does not repeat it.
        MissingClient: `cryptography` is needed and not installed.
    """

    def __init__(self, secrets: Sequence[str], tolerance: float) -> None:
        keys = [_parse(secret, verifies=True) for secret in secrets]
        self._checks = [(version, _CHECKS[version](key)) for version, key in keys]
        self._tolerance = tolerance

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """Raise InvalidSignature unless one of the secrets signed the request lately.

        Args:
            headers: The request's headers; names in any case.
            body: The body, as it was received.
            now: Seconds since 1970.
        """
        wire_id = headers.get("webhook-id", "")
        timestamp = headers.get("webhook-timestamp", "")
        signatures = headers.get("webhook-signature", "")
        if not (wire_id and timestamp and signatures):
            raise InvalidSignature("webhook-id, webhook-timestamp or webhook-signature is missing")
        if "." in wire_id:  # a part of the body could pass for a part of it
            raise InvalidSignature("webhook-id has a dot; a signature needs one without")
        if not _TIMESTAMP.fullmatch(timestamp):
            raise InvalidSignature("webhook-timestamp is not a whole number of seconds since 1970")
        if abs(now - int(timestamp)) > self._tolerance:
            raise InvalidSignature(
                f"webhook-timestamp is over {self._tolerance:g} s away from the present time"
            )
        content = b"%b.%b.%b" % (wire_id.encode(), timestamp.encode(), body)
        for each in signatures.split()[:MOST_SIGNATURES]:
            version, _, text = each.partition(",")
            signature = _decoded(text)
            if any(known == version and check(content, signature) for known, check in self._checks):
                return
        raise InvalidSignature("webhook-signature does not match")


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


def _parse(secret: object, *, verifies: bool = False) -> tuple[str, bytes]:
    """Return the version of a secret's signatures, and its key: to sign with, or to verify."""
    text = secret if isinstance(secret, str) else ""
    if verifies and text.startswith(_PUBLIC):
        key = _decoded(text.removeprefix(_PUBLIC))
        if len(key) == 32:
            return "v1a", key
    if verifies and not text.startswith(_HMAC):
        raise ValueError(
            "a secret is 'whsec_' and 24 to 64 bytes in base64, or 'whpk_' and an ed25519 public "
            "key in base64"
        )
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


def _checks_ed25519(key: bytes) -> Check:
    try:
        from cryptography.exceptions import InvalidSignature as NotSigned
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingClient("cryptography", "webhook") from error
    public = Ed25519PublicKey.from_public_bytes(key)

    def check(content: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, content)
        except NotSigned:
            return False
        return True

    return check


def _checks_sha256(key: bytes) -> Check:
    sign = _sha256(key)
    return lambda content, signature: hmac.compare_digest(sign(content), signature)


_SIGNS: Final = {"v1": _sha256, "v1a": _ed25519}
_CHECKS: Final = {"v1": _checks_sha256, "v1a": _checks_ed25519}
