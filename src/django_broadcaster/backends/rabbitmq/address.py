"""Where an AMQP server is and how to log in: https://www.rabbitmq.com/docs/uri-spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ssl import CERT_NONE
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

LOGIN_METHODS: Final = frozenset({"AMQPLAIN", "EXTERNAL", "PLAIN"})
SSL_OPTIONS: Final = frozenset({
    "ca_certs", "cert_reqs", "certfile", "ciphers", "keyfile", "server_hostname", "ssl_version",
    "tls_maximum_version", "tls_minimum_version",
})  # fmt: skip
PORTS: Final = {"amqp": 5672, "amqps": 5671}


class Address:
    """The options of a backend that say how to connect. Nothing in it is shown with a password."""

    def __init__(
        self,
        *,
        url: str,
        userid: str | None,
        password: str | None,
        login_method: str,
        ssl: Mapping[str, Any] | None,
    ) -> None:
        self._url, self._ssl = url, ssl
        self._login = {"userid": userid, "password": password}
        self._login_method = login_method

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the option and what is wrong with it, without a piece of a password."""
        if self._login_method not in LOGIN_METHODS:
            yield "login_method", f"must be one of {', '.join(sorted(LOGIN_METHODS))}"
        try:
            parts = urlsplit(self._url)
            # Behind an unescaped /, ? or # in a password stands no host, and it would be shown.
            well_formed = parts.port != 0 and "@" not in "".join(parts[2:])
        except (AttributeError, TypeError, ValueError):
            well_formed = False
        if not well_formed or not isinstance(self._url, str):
            yield "url", "has a malformed host or port; percent-encode what is in the password"
            return
        yield from self._url_problems(parts)
        if self._ssl is not None:
            yield from self._ssl_problems(parts)

    def _url_problems(self, parts: SplitResult) -> Iterator[tuple[str, str]]:
        if parts.scheme not in PORTS:
            yield "url", "must begin with amqp:// or amqps://"
        if parts.query or parts.fragment:
            yield "url", "must have no query: what stands there is an option of the backend"
        if "/" in parts.path[1:]:
            yield "url", "names a virtual host with a slash; write %2F for it"
        if parts.username is not None and any(self._login.values()):
            yield "url", "give 'userid' and 'password' in it or beside it, but not both"

    def _ssl_problems(self, parts: SplitResult) -> Iterator[tuple[str, str]]:
        if not isinstance(self._ssl, Mapping) or not self._ssl.keys() <= SSL_OPTIONS:
            yield "ssl", f"must be a dictionary of {', '.join(sorted(SSL_OPTIONS))}"
        elif parts.scheme == "amqp":
            yield "ssl", "has no effect without TLS: write an amqps:// url"

    @property
    def place(self) -> str:
        """The URL without credentials."""
        parts = urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of py-amqp's connection."""
        parts = urlsplit(self._url)
        host = parts.hostname or "localhost"
        port = parts.port or PORTS[parts.scheme]
        login = {"userid": "guest", "password": "guest"}
        for name, in_url in (("userid", parts.username), ("password", parts.password)):
            value = self._login[name] if in_url is None else unquote(in_url)
            if value is not None:
                login[name] = value
        return {
            **login,
            "login_method": self._login_method,
            "host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "virtual_host": unquote(parts.path[1:]) or "/",
            "ssl": self._tls(host) if parts.scheme == "amqps" else False,
        }

    def _tls(self, host: str) -> dict[str, Any]:
        """Return py-amqp's options: it compares the certificate with a name only if given one."""
        tls = {"server_hostname": host, **(self._ssl or {})}
        if tls.get("cert_reqs") == CERT_NONE:
            tls["server_hostname"] = None
        return tls
