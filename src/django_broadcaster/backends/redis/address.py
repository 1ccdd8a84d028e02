"""Where Redis is and how to log in: one server, the master that sentinels know, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ssl import VerifyMode
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from django_broadcaster.exceptions import MissingClient

from .errors import unavailable

CLIENT: Final = ("redis", "redis")
"""The client library, and the extra that it comes with."""


class Node(NamedTuple):
    """A server of a cluster."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The node as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_DEFAULT_PLACE: Final = ("localhost", 6379)


@dataclass(frozen=True, kw_only=True)
class Address:
    """The options of a backend that say how to connect. Nothing in it is shown with a password."""

    host: str
    port: int
    db: int
    url: str | None
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    sentinels: Sequence[tuple[str, int]]
    sentinel_master: str | None
    sentinel_username: str | None = field(repr=False)
    sentinel_password: str | None = field(repr=False)
    cluster: bool
    startup_nodes: Sequence[tuple[str, int]]
    ssl: bool
    tls: dict[str, Any]

    # --- Clients -----------------------------------------------------------------------------

    def client(self, timeout: float, connect_timeout: float, node: Node | None = None) -> Any:
        """Return a client of redis-py, not yet connected, for a node of a cluster if given one.

        Raises MissingClient, and BackendUnavailable for an option in the URL that does not work.
        """
        redis = library()
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": connect_timeout,
            # The relay decides when to try again. redis-py would repeat whatever failed, an XADD
            # too, which makes duplicates, and hold up a health check for many seconds.
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            # RESP3 has nothing for a publisher, and brings messages that nobody asked for.
            "protocol": 2,
        }
        if self.sentinels:
            return self._client_of_master(options)
        options.update(username=self.username, password=self.password)
        if self.url is None:
            host, port = node or (self.host, self.port)
            return redis.Redis(
                host=host, port=port, db=self.db, ssl=self.ssl, **self.tls, **options
            )
        if self.url.startswith("rediss:"):
            options.update(self.tls)
        try:
            return redis.Redis.from_url(self._url_of(node), **options)
        except ValueError as error:  # an option in the query
            raise unavailable(self.place, error) from error

    def _client_of_master(self, options: dict[str, Any]) -> Any:
        """Return a client that asks the sentinels for the master each time that it connects.

        That is what keeps it off a master that was replaced and comes back: such a one takes
        writes until a sentinel has told it.
        """
        tls = {"ssl": True, **self.tls} if self.ssl else {}
        login = {"username": self.sentinel_username, "password": self.sentinel_password}
        sentinel = library().sentinel.Sentinel(
            self.sentinels, sentinel_kwargs={**options, **tls, **login}
        )
        login = {"username": self.username, "password": self.password}
        return sentinel.master_for(self.sentinel_master, db=self.db, **options, **tls, **login)

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

    # --- What may be wrong -------------------------------------------------------------------

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the option and what is wrong with it, without a piece of a password."""
        if self.tls["ssl_cert_reqs"] not in ("none", "optional", "required", *VerifyMode):
            yield "ssl_cert_reqs", "must be 'none', 'optional' or 'required'"
        encrypted = self.ssl
        if self.url is not None:
            yield from self._url_problems(self.url)
            encrypted = self.url.startswith("rediss:")
        for option, value in self.tls.items():
            if value not in (None, True, "required") and not encrypted:
                yield option, "has no effect without TLS: set 'ssl' to True, or a rediss:// url"
        for option in ("sentinels", "startup_nodes"):
            if not _are_places(getattr(self, option)):
                yield option, "must be a list of (host, port)"
                return
        yield from self._sentinel_problems()
        yield from self._cluster_problems()

    def _url_problems(self, url: str) -> Iterator[tuple[str, str]]:
        try:
            parts = urlsplit(url)
            port = parts.port
            # Behind an unescaped /, ? or # in a password stands no host, and it would be shown.
            if parts.scheme != "unix" and "@" in "".join(parts[2:]):
                port = 0
        except ValueError:  # its text may show a piece of a password
            port = 0
        if port == 0:
            yield "url", "has a malformed host or port; percent-encode what is in the password"
            return
        if parts.scheme not in ("redis", "rediss", "unix"):
            yield "url", "must begin with redis://, rediss:// or unix://"
        if (self.host, self.port, self.db) != (*_DEFAULT_PLACE, 0):
            yield "url", "give it, or 'host', 'port' and 'db', but not both"
        if "@" in parts.netloc and (self.username or self.password):
            yield "url", "give 'username' and 'password' in it or beside it, but not both"
        if self.ssl and parts.scheme != "rediss":
            yield "url", "must begin with rediss:// for TLS ('ssl' is True)"
        if self.cluster and (parts.scheme == "unix" or parts.path not in ("", "/", "/0")):
            yield "url", "must name a host and no database: 'cluster' is True"

    def _sentinel_problems(self) -> Iterator[tuple[str, str]]:
        if not self.sentinels:
            for option in ("sentinel_master", "sentinel_username", "sentinel_password"):
                if getattr(self, option) is not None:
                    yield option, "has no effect without 'sentinels'"
            return
        if not self.sentinel_master or not isinstance(self.sentinel_master, str):
            yield "sentinel_master", "must be the name that the sentinels know the master by"
        if self.url is not None or (self.host, self.port) != _DEFAULT_PLACE:
            yield "sentinels", "give them, or 'url' or 'host' and 'port', but not both"
        if self.cluster:
            yield "sentinels", "a cluster has none: give them, or 'cluster', but not both"

    def _cluster_problems(self) -> Iterator[tuple[str, str]]:
        if self.cluster not in (True, False):
            yield "cluster", f"must be True or False, not {self.cluster!r}"
        elif self.cluster and self.db != 0:
            yield "db", "must be 0: a cluster has no other"
        elif self.startup_nodes and not self.cluster:
            yield "startup_nodes", "has no effect without 'cluster'"


def _are_places(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(each, list | tuple)
        and len(each) == 2
        and isinstance(each[0], str)
        and each[0] != ""
        and type(each[1]) is int
        and 0 < each[1] < 2**16
        for each in value
    )


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
