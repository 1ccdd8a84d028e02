"""A client of boto3, and the threads that make its calls."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from math import inf
from typing import Any, Final

from django_broadcaster.exceptions import BackendConfigurationError, DeliveryError

from ..connected import HeldConnection
from ..errors import client_module, unavailable
from ..options import OptionReader
from .errors import describe

CLIENT: Final = ("boto3", "aws")
"""The client library, and the extra that it comes with."""

SCHEMES: Final = ("https", "http")

_CLIENT_OPTIONS: Final = frozenset({
    "api_version", "aws_access_key_id", "aws_account_id", "aws_secret_access_key",
    "aws_session_token", "config", "endpoint_url", "region_name", "use_ssl", "verify",
})  # fmt: skip


class ClientOptions:
    """The options for boto3's client, which the backends and the consumer share.

    The constructor raises the reader's error for a wrong one.
    """

    def __init__(
        self,
        read: OptionReader,
        *,
        client: Mapping[str, Any] | None,
        username: str | None,
        password: str | None,
        tls: bool | Mapping[str, Any],
        timeout: float,
        connections: int,
    ) -> None:
        self._read = read
        self.timeout = read.seconds("timeout", timeout)
        self.connections = read.integer("connections", connections, 1, 100)
        self.config, self._keywords = _client_keywords(read, client, username, password, tls)

    def connect(
        self,
        service: str,
        place: str,
        *,
        name: str,
        region: str = "",
        within: float = inf,
        poll_seconds: float = 0.0,
        session: Any = None,
    ) -> Connection:
        """Return a client; it connects with the first call.

        Args:
            service: The name of the service.
            place: The destination, for errors.
            name: The beginning of the names of the threads.
            region: The region, if it follows from the destination.
            within: Seconds that each wait may take; the option `timeout` may allow less.
            poll_seconds: The longest that the service itself may wait before it answers.
            session: The session of an earlier connection, if there was one.

        Raises:
            BackendUnavailable: A file of `tls` can't be read.
            MissingClient: boto3 is not installed.
            BackendConfigurationError: boto3 rejects the options.
        """
        keywords = {**self._keywords}
        if region:
            keywords.setdefault("region_name", region)
        timeout = min(self.timeout, within)
        try:
            return Connection(
                service,
                keywords,
                session=session,
                config=self.config or {},
                timeout=timeout,
                read_timeout=timeout + poll_seconds,
                threads=self.connections,
                name=name,
            )
        except (DeliveryError, BackendConfigurationError):
            raise
        except TypeError as error:
            self._read.refuse("client", f"boto3 rejects the options: {error}")
        except Exception as error:
            raise unavailable(f"{place}: {describe(error)}", error) from error


def _client_keywords(
    read: OptionReader,
    client: Mapping[str, Any] | None,
    username: str | None,
    password: str | None,
    tls: bool | Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Return boto3's `config`, and its other keywords, from the options."""
    read.mapping("client", client, _CLIENT_OPTIONS, optional=True)
    given = {"config": None, **(client or {})}
    if given.get("endpoint_url") is not None:
        read.within("client").url("endpoint_url", given["endpoint_url"], SCHEMES, credentials=False)
    login = read.login(username, password, needs=("username", "password"))
    ours: dict[str, tuple[str, Any]] = {
        "aws_access_key_id": ("username", login.username),
        "aws_secret_access_key": ("password", login.password),
    }
    encryption = read.tls(tls)
    if encryption is not None:
        if not encryption.check_hostname:
            read.refuse("tls", "can't turn off 'check_hostname': boto3 always checks it")
        verify = encryption.verify and (encryption.ca_file or True)
        ours["verify"] = ("tls", None if verify is True else verify)
    for keyword, (option, value) in ours.items():
        if value is not None and keyword in given:
            read.refuse(option, f"can't be combined with {keyword!r} in 'client'")
        if value is not None:
            given[keyword] = value
    config = given.pop("config")
    if encryption is not None and encryption.cert_file is not None:
        certificate = tuple(filter(None, (encryption.cert_file, encryption.key_file)))
        if config is not None and not isinstance(config, Mapping):
            read.refuse("tls", "can't be combined with 'config' in 'client'")
        one = certificate if len(certificate) == 2 else certificate[0]
        config = {"client_cert": one, **(config or {})}
    return config, given


class Connection(HeldConnection):
    """A client for one service, which connects with its first call.

    session: where boto3 keeps the credentials that it has found; None for a new one.
    client: boto3's own. It repeats nothing: the relay decides when to try again.
    is_stale: whether its credentials are not valid any more; for the caller to say.
    """

    def __init__(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        session: Any,
        config: Any,
        timeout: float,
        read_timeout: float,
        threads: int,
        name: str,
    ) -> None:
        new_config = client_module(CLIENT, "boto3", "botocore.config").Config
        if isinstance(config, Mapping):
            config = new_config(**config)
        ours = new_config(
            connect_timeout=timeout,
            read_timeout=read_timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=threads,
        )
        self.session = session or _new_session()
        self.client = self.session.client(service, **options, config=config.merge(ours))
        self.is_stale = False
        self._width, self._name = threads, name
        self._threads: Executor | None = None

    def threads(self) -> Executor:
        """Return the threads that make calls, started at first use."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._width, thread_name_prefix=self._name)
        return self._threads

    def is_fresh(self) -> bool:
        """Return False if other credentials are to be looked for."""
        return not self.is_stale

    def close(self) -> None:
        """Wait for calls in flight, and disconnect."""
        if self._threads is not None:
            self._threads.shutdown()
        self.client.close()

    def drop(self) -> None:
        """Disconnect without waiting for calls in flight."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()


def _new_session() -> Any:
    """Return a session of our own, as the default one is not thread-safe.

    Reading the descriptions of the services is most of what it costs, and is done once.
    """
    session = client_module(CLIENT, "botocore.session").get_session()
    session.register_component("data_loader", _loader())
    return client_module(CLIENT, "boto3.session").Session(botocore_session=session)


@cache
def _loader() -> Any:
    return client_module(CLIENT, "botocore.loaders").create_loader()
