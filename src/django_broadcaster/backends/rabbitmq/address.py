"""Where an AMQP server is and how to log in: https://www.rabbitmq.com/docs/uri-spec.

The backend and the consumer of RabbitMQ read these options alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ssl import CERT_NONE, CERT_REQUIRED
from typing import Any, Final
from urllib.parse import SplitResult, unquote

from ..credentials import TLS, Login
from ..options import OptionReader

LOGIN_METHODS: Final = ("PLAIN", "AMQPLAIN", "EXTERNAL")
EXTRA_TLS: Final = frozenset({
    "ciphers", "server_hostname", "ssl_version", "tls_maximum_version", "tls_minimum_version",
})  # fmt: skip
"""The keys of `tls` that are py-amqp's own."""

PORTS: Final = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and how to log in. Nothing in it is shown with a password."""

    parts: SplitResult
    login: Login
    login_method: str
    tls: TLS | None

    @property
    def place(self) -> str:
        """The URL without credentials."""
        netloc = self.parts.netloc.rpartition("@")[2]
        return self.parts._replace(netloc=netloc).geturl()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of py-amqp's connection."""
        host = self.parts.hostname or "localhost"
        port = self.parts.port or PORTS[self.parts.scheme]
        return {
            "userid": self.login.username or "guest",
            "password": self.login.password or "guest",
            "login_method": self.login_method,
            "host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "virtual_host": unquote(self.parts.path[1:]) or "/",
            "ssl": False if self.tls is None else _tls(self.tls, host),
        }


def _tls(tls: TLS, host: str) -> dict[str, Any]:
    """Return py-amqp's options: it compares the certificate with a name only if given one."""
    return {
        "ca_certs": tls.ca_file,
        "certfile": tls.cert_file,
        "keyfile": tls.key_file,
        "cert_reqs": CERT_REQUIRED if tls.verify else CERT_NONE,
        "server_hostname": host,
        **tls.extra,
        **({} if tls.checks_hostname else {"server_hostname": None}),
    }


def read_address(
    read: OptionReader,
    *,
    url: str | None,
    username: str | None,
    password: str | None,
    login_method: str,
    tls: bool | Mapping[str, Any],
) -> Address:
    """Return the address that these options give; raises the reader's error."""
    encryption = read.tls(tls, extra=EXTRA_TLS)
    parts = _read_url(read, url, encryption)
    return Address(
        parts,
        read.login(username, password, {"url": [parts]}),
        read.choice("login_method", login_method, LOGIN_METHODS),
        encryption or (TLS() if parts.scheme == "amqps" else None),
    )


def _read_url(read: OptionReader, url: str | None, tls: TLS | None) -> SplitResult:
    default = "amqp://localhost" if tls is None else "amqps://localhost"
    parts = read.url("url", default if url is None else url, PORTS, needs_host=False)
    if parts.query or parts.fragment:
        problem = "must not contain a query string; use the backend's options instead"
        read.refuse("url", problem)
    if "/" in parts.path[1:]:
        read.refuse("url", "must have %2F for a slash in the name of a virtual host")
    if tls and parts.scheme == "amqp":
        read.refuse("url", "must begin with amqps://, because 'tls' is set")
    return parts
