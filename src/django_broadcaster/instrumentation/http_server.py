"""The HTTP server of a relay: health checks, and metrics on request.

======== =============================================================================
path     status 200, or 503 if one of its checks fails; the body has the checks as JSON
======== =============================================================================
/livez   503 if a thread crashed or hangs, so that a restart helps
/readyz  503 also while the relay has no lease, or a broker is unavailable
/healthz 503 also if events are late; queries the database
======== =============================================================================

Every other path returns the metrics, or 404 without them.

Requests are not authenticated. The server therefore limits its threads and sockets, and uses one
database connection at a time.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.db import connections

from django_broadcaster.relay.health import LIVE, Check, Health

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
Source = Callable[[], Health]

DUAL_STACK = socket.has_dualstack_ipv6()
ALL_INTERFACES = "::" if DUAL_STACK else "0.0.0.0"  # noqa: S104  # probes come from other machines
_SECONDS = 10.0
"""The timeout for the next bytes of a request."""

_TURN_SECONDS = 4.0
"""The time that a request waits for its turn at the database. Most probes give up sooner."""

_LONGEST_SECONDS = 30.0
"""The time limit of a connection. Each byte restarts the timeout above, but not this one."""

_MOST = 100
"""The limit for open connections. Further connections are closed at once."""


def site(relay: Source, outbox: Source, metrics: App | None) -> App:
    """Return the application: health of the relay and the outbox, and metrics."""

    turn = Lock()

    def everything() -> Health:
        if not turn.acquire(timeout=_TURN_SECONDS):
            busy = Check(name="database", ok=False, detail="another request is querying it")
            return Health((*relay().checks, busy))
        try:
            return Health((*relay().checks, *outbox().checks))
        finally:
            connections.close_all()  # those of this request's thread
            turn.release()

    answers: dict[str, Source] = {
        "/livez": lambda: relay().only(LIVE),
        "/readyz": relay,
        "/healthz": everything,
    }

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answer = answers.get(environ["PATH_INFO"])
        if answer is not None:
            return _respond(answer(), start_response)
        if metrics is not None:
            return _in_turn(turn, metrics, environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found. Use /livez, /readyz or /healthz.\n"]

    return app


def _in_turn(
    turn: Lock, app: App, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    """Return the response of an application that queries the database before it returns."""
    if not turn.acquire(timeout=_TURN_SECONDS):
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"Another request is querying the database.\n"]
    try:
        return app(environ, start_response)
    finally:
        turn.release()


def _respond(health: Health, start_response: StartResponse) -> Iterable[bytes]:
    status = "200 OK" if health.is_ready else "503 Service Unavailable"
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start_response(status, headers)
    return [json.dumps(health.as_dict(), indent=2).encode() + b"\n"]


@contextmanager
def serving(port: int, app: App, address: str = ALL_INTERFACES) -> Iterator[None]:
    """Serve on a port, in threads, for the time of the block.

    Args:
        port: The port to bind.
        app: The WSGI application.
        address: The IPv4 or IPv6 address, or the host name, to bind the port to.

    Raises:
        OSError: The address or the port is not available.
    """
    server = make_server(address, port, app, _server_for(address), _Handler)
    thread = Thread(target=server.serve_forever, name="relay-http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_SECONDS)


def _server_for(address: str) -> type[_Server]:
    """Return the server class for the address's family; raise OSError for an unknown host."""
    family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
    return type("_Server", (_Server,), {"address_family": family})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._opened: dict[socket.socket, float] = {}  # when, by connection
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Accept IPv4 connections on an IPv6 address as well."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def service_actions(self) -> None:
        """Close connections that exceed their time limit."""
        for request, opened in list(self._opened.items()):
            if opened < time.monotonic() - _LONGEST_SECONDS:
                with suppress(OSError):  # its thread has just closed it
                    request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it if there are too many."""
        if len(self._opened) >= _MOST:
            self.shutdown_request(request)
            return
        self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._opened.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log errors, except those of connections that time out or break."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every second."""
