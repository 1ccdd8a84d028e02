"""Where an MQTT server is, and how to log in: the backend and the consumer read this alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Final

from ..credentials import TLS, Login
from ..options import OptionReader
from .packets import LONGEST_TEXT

EXTRA_TLS: Final = frozenset({"alpn_protocols", "ciphers", "keyfile_password"})
"""The keys of `tls` that are paho's own."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and how to log in."""

    host: str
    port: int
    login: Login
    tls: TLS | None

    @property
    def place(self) -> str:
        """The server, for error messages."""
        return f"MQTT server at {self.host}:{self.port}"


def read_address(
    read: OptionReader,
    *,
    host: str,
    port: int | None,
    username: str | None,
    password: str | None,
    tls: bool | Mapping[str, Any] | SSLContext,
) -> Address:
    """Return the address that these options give; raises the reader's error."""
    encryption = read.tls(tls, extra=EXTRA_TLS, context=True)
    return Address(
        read.text("host", host, plain=True),
        read.port("port", port, optional=True) or (1883 if encryption is None else 8883),
        read.login(username, password, most=LONGEST_TEXT, needs=("username",)),
        encryption,
    )
