"""Where Redis is and how to log in: one server, the master that sentinels know, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from django_broadcaster.exceptions import MissingClient

from ..credentials import TLS, Login
from ..options import OptionReader
from .errors import unavailable

CLIENT: Final = ("redis", "redis")
"""The client library, and the extra that it comes with."""


class Node(NamedTuple):
    """A server of a cluster."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The node as a URL names it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


SCHEMES: Final = ("redis", "rediss", "unix")
_DEFAULT_PLACE: Final = ("localhost", 6379)


@dataclass(frozen=True, kw_only=True)
class Address:
    """The options that say how to connect. Nothing in it is shown with a password."""

    host: str
    port: int
    db: int
    url: str | None = field(repr=False)
    login: Login
    tls: TLS | None
    sentinels: Sequence[tuple[str, int]]
    sentinel_master: str | None
    sentinel_login: Login
    cluster: bool
    startup_nodes: Sequence[tuple[str, int]]

    @classmethod
    def read(
        cls,
        read: OptionReader,
        *,
        host: str,
        port: int,
        db: int,
        url: str | None,
        username: str | None,
        password: str | None,
        tls: bool | Mapping[str, Any],
        sentinels: Sequence[tuple[str, int]],
        sentinel_master: str | None,
        sentinel_username: str | None,
        sentinel_password: str | None,
        cluster: bool,
        startup_nodes: Sequence[tuple[str, int]],
    ) -> Address:
        """Read the options of a backend or a consumer; raises the reader's error."""
        parts = None if url is None else read.url("url", url, SCHEMES, needs_host=False)
        address = cls(
            host=read.text("host", host),
            port=read.port("port", port),
            db=read.integer("db", db, 0),
            url=url,
            login=read.login(username, password, {"url": [parts] if parts else []}),
            tls=read.tls(tls, by_url=parts is not None and parts.scheme == "rediss"),
            sentinels=read.addresses("sentinels", sentinels),
            sentinel_master=read.text("sentinel_master", sentinel_master, optional=True),
            sentinel_login=Login(
                read.text("sentinel_username", sentinel_username, optional=True),
                read.text("sentinel_password", sentinel_password, optional=True),
            ),
            cluster=read.flag("cluster", cluster),
            startup_nodes=read.addresses("startup_nodes", startup_nodes),
        )
        address._check(read, parts)
        return address

    # --- Clients -----------------------------------------------------------------------------

    def client(self, timeout: float, connect_timeout: float, node: Node | None = None) -> Any:
        """Return a client of redis-py, not yet connected, for a node of a cluster if given one.

        Raises:
            MissingClient: redis-py is not installed.
            BackendUnavailable: An option in the URL does not work.
        """
        redis = library()
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": connect_timeout,
            # The relay decides when to try again. redis-py would repeat whatever failed, an XADD
            # too, which makes duplicates, and hold up a health check for many seconds.
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            # RESP3 has nothing for a publisher, and brings unrequested messages.
            "protocol": 2,
            **_tls(self.tls),
        }
        if self.sentinels:
            return self._client_of_master(options)
        options.update(_login(self.login))
        if self.url is None:
            host, port = node or (self.host, self.port)
            is_encrypted = self.tls is not None
            return redis.Redis(host=host, port=port, db=self.db, ssl=is_encrypted, **options)
        try:
            return redis.Redis.from_url(self._url_of(node), **options)
        except ValueError as error:  # an option in the query
            raise unavailable(self.place, error) from error

    def _client_of_master(self, options: dict[str, Any]) -> Any:
        """Return a client that asks the sentinels for the master each time that it connects.

        So the client avoids a master that was replaced and comes back: such a master takes
        writes until a sentinel demotes it.
        """
        options["ssl"] = self.tls is not None
        sentinel = library().sentinel.Sentinel(
            self.sentinels, sentinel_kwargs={**options, **_login(self.sentinel_login)}
        )
        return sentinel.master_for(
            self.sentinel_master, db=self.db, **options, **_login(self.login)
        )

    def _url_of(self, node: Node | None) -> str:
        url = self.url or ""
        if node is None:
            return url
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{node.netloc}").geturl()

    @property
    def place(self) -> str:
        """Where the server is, without credentials."""
        if self.sentinels:
            known = ", ".join(Node(*each).netloc for each in self.sentinels)
            return f"the master {self.sentinel_master!r} of the sentinels {known}"
        if self.url is None:
            return f"{self.host}:{self.port}/{self.db}"
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def seeds(self) -> list[Node]:
        """The nodes of a cluster to ask for the others."""
        first = Node(self.host, self.port)
        if self.url is not None:
            parts = urlsplit(self.url)
            first = Node(parts.hostname or "localhost", parts.port or 6379)
        return [first, *(Node(*each) for each in self.startup_nodes)]

    def _check(self, read: OptionReader, parts: SplitResult | None) -> None:
        """Refuse what contradicts itself; `parts` are those of the URL."""
        place = (self.host, self.port) if (self.host, self.port) != _DEFAULT_PLACE else None
        read.apart("url", self.url, "host", place)
        read.apart("url", self.url, "db", self.db or None)
        read.text("sentinel_master", self.sentinel_master, optional=not self.sentinels)
        for option, value in (
            ("sentinel_master", self.sentinel_master),
            ("sentinel_username", self.sentinel_login.username),
            ("sentinel_password", self.sentinel_login.password),
        ):
            read.together(option, value, "sentinels", self.sentinels)
        read.apart("sentinels", self.sentinels, "url", self.url)
        read.apart("sentinels", self.sentinels, "host", place)
        read.apart("sentinels", self.sentinels, "cluster", self.cluster)
        read.together("startup_nodes", self.startup_nodes, "cluster", self.cluster)
        if self.cluster:
            read.integer("db", self.db, 0, 0)
        if parts and self.tls and parts.scheme != "rediss":
            read.refuse("url", "must begin with rediss://, because 'tls' is set")
        if parts and self.cluster and (parts.scheme == "unix" or parts.path not in ("", "/", "/0")):
            read.refuse("url", "must name a host and no database, because 'cluster' is True")


def _login(login: Login) -> dict[str, Any]:
    return {"username": login.username, "password": login.password}


def _tls(tls: TLS | None) -> dict[str, Any]:
    """Return redis-py's keywords."""
    if tls is None:
        return {}
    return {
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
        "ssl_cert_reqs": "required" if tls.verify else "none",
        "ssl_check_hostname": tls.checks_hostname,
    }


def library() -> Any:
    """Return redis-py; raises MissingClient."""
    try:
        import redis
        import redis.backoff
        import redis.crc
        import redis.retry
        import redis.sentinel
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return redis
