"""Where NATS is and how to log in: the options that the backend and the consumer share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import urlsplit

from ..credentials import Login
from ..errors import mapped, unavailable
from ..options import OptionReader
from .connection import Connection

DEFAULT_SERVERS: Final = "nats://localhost:4222"

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_ENCRYPTED: Final = frozenset({"tls", "wss"})


class Address:
    """The options that say how to connect; raises the reader's error for a wrong one."""

    def __init__(
        self,
        read: OptionReader,
        *,
        servers: str | Sequence[str],
        timeout: float,
        username: str | None,
        password: str | None,
        token: str | None,
        user_credentials: str | None,
        nkeys_seed: str | None,
        nkeys_seed_str: str | None,
        inbox_prefix: str | None,
        tls: bool | Mapping[str, Any] | SSLContext,
        tls_hostname: str | None,
        tls_handshake_first: bool,
    ) -> None:
        self.servers = read.one_or_more("servers", servers, "a URL")
        parts = [read.url("servers", each, _SCHEMES) for each in self.servers]
        self.timeout = read.seconds("timeout", timeout)
        login = read.login(username, password, {"servers": parts}, needs=("username", "password"))
        if len({each.netloc.rpartition("@")[0] for each in parts}) > 1:
            login = Login()  # each server has its own, which the client reads in the URL
        if login.password is None and token is None:
            token = login.username  # a URL with one word has a token in it
        given = {
            "token": token,
            "user_credentials": user_credentials,
            "nkeys_seed": nkeys_seed,
            "nkeys_seed_str": nkeys_seed_str,
            "inbox_prefix": inbox_prefix,
            "tls_hostname": tls_hostname,
        }
        for option, value in given.items():
            read.text(option, value, optional=True)
        self._client_options = {
            **given,
            "user": None if login.password is None else login.username,
            "password": login.password,
            "tls_handshake_first": read.flag("tls_handshake_first", tls_handshake_first),
        }
        by_url = any(each.scheme in _ENCRYPTED for each in parts)
        self._tls = read.tls(tls, context=True, by_url=by_url)
        read.together("tls_hostname", tls_hostname, "tls", self._tls)
        read.together("tls_handshake_first", tls_handshake_first, "tls", self._tls)

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or MissingClient.

        Args:
            within: Seconds that each wait may take; the option `timeout` may allow less.
        """
        given = {**self._client_options, "servers": list(self.servers)}
        options: dict[str, Any] = {
            name: value for name, value in given.items() if value not in (None, False)
        }
        if self._tls is not None:
            with mapped(lambda error: unavailable(f"NATS at {self.place}: TLS: {error}")):
                options["tls"] = self._tls.context()
        connection = Connection(
            options,
            place=self.place,
            timeout=min(self.timeout, within),
            encrypted=self._tls is not None,
        )
        try:
            connection.open()
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def place(self) -> str:
        """Where the servers are, without credentials."""
        parts = [urlsplit(url) for url in self.servers]
        return ", ".join(f"{part.scheme}://{part.netloc.rpartition('@')[2]}" for part in parts)
