"""Helpers of RabbitMQ and Celery for a connection of py-amqp."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

GOODBYE_SECONDS: Final = 1.0
"""The longest to wait for the server when a connection is closed."""

BLOCKED: Final = "the server takes no messages: an alarm about its memory or disk space"


def socket_settings(timeout: float) -> dict[int, int]:
    """Return the options for the socket of a connection.

    The client's default would cut a connection on which a busy server reads nothing for a second.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    return {} if option is None else {option: int(timeout * 1000)}


def set_timeout(connection: Any, seconds: float) -> None:
    """Limit waits that have no limit of their own, as a declaration has none."""
    sock = _socket_of(connection)
    if sock is not None:
        sock.settimeout(seconds)


def has_news(connection: Any) -> bool:
    """Return True if the server has said something that was not read, or the connection is gone."""
    with watched(connection) as has_more:
        return has_more()


@contextmanager
def watched(connection: Any) -> Iterator[Callable[[], bool]]:
    """Return a context manager whose value is `has_news` for this connection, made once."""
    sock = _socket_of(connection)
    if sock is None:
        yield lambda: True
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        has_pending = getattr(sock, "pending", lambda: False)
        yield lambda: bool(has_pending() or selector.select(0))


def close_socket(connection: Any) -> None:
    """Close the socket and send nothing: in a child process it is the parent's."""
    sock = _socket_of(connection)
    if sock is not None:
        sock.close()


def _socket_of(connection: Any) -> Any:
    """Return the socket, or None where the connection is closed."""
    try:
        transport = connection._transport  # the public property may connect again
    except AttributeError:
        transport = connection.transport if connection.connected else None
    return None if transport is None else transport.sock
