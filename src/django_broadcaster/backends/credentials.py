"""How a backend logs in and encrypts: the options `username`, `password` and `tls`, read.

Every backend that connects to a server takes these three, and puts them into its client's terms.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TLS_KEYS: Final = frozenset({"ca_file", "cert_file", "check_hostname", "key_file", "verify"})
"""The keys that `tls` may have in every backend."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password; each is None if it is not set."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.username is not None or self.password is not None

    def as_header(self) -> dict[str, str]:
        """Return the header of HTTP's Basic authentication; none if nothing is set."""
        if not self:
            return {}
        pair = f"{self.username or ''}:{self.password or ''}".encode()
        return {"Authorization": f"Basic {b64encode(pair).decode()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How a connection is encrypted.

    Args:
        ca_file: The certificates of the authorities to trust, instead of the system's.
        cert_file: The client's own certificate.
        key_file: Its private key, if that is in a file of its own.
        verify: Whether the server must have a certificate of an authority that is trusted.
        check_hostname: Whether that certificate must be for the host that is connected to.
        extra: Keywords of the client's own.
        own_context: A context that the project has made, used instead of all that.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    check_hostname: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    own_context: ssl.SSLContext | None = None

    @property
    def checks_hostname(self) -> bool:
        """Whether the name in the server's certificate counts."""
        return self.verify and self.check_hostname

    def check_files(self) -> None:
        """Raise OSError for a file that can't be read."""
        for name in filter(None, (self.ca_file, self.cert_file, self.key_file)):
            with open(name, "rb"):
                pass

    def context(self, key_password: str | None = None) -> ssl.SSLContext:
        """Return a context for a client.

        Args:
            key_password: The password of the private key.

        Raises:
            OSError: A file can't be read, or is not a certificate or key.
        """
        if self.own_context is not None:
            return self.own_context
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = self.checks_hostname
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file, key_password or "")
        return context
