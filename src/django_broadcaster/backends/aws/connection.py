"""A client of boto3, and the threads that make its calls."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import Any, Final

from ..connected import HeldConnection
from ..errors import client_module

CLIENT: Final = ("boto3", "aws")
"""The client library, and the extra that it comes with."""


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
        threads: int,
        name: str,
    ) -> None:
        new_config = client_module(CLIENT, "boto3", "botocore.config").Config
        if isinstance(config, Mapping):
            config = new_config(**config)
        ours = new_config(
            connect_timeout=timeout,
            read_timeout=timeout,
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
