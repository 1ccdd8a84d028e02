"""A small HTTP server of a relay: its health, and its metrics where they are wanted.

======== =============================================================================
path     answers with 200, or with 503 and the checks that failed, as JSON
======== =============================================================================
/livez   would a restart help? 503 where a thread has died or hangs
/readyz  and does it deliver? 503 also while it holds no lease, or a broker is away
/healthz and is the outbox well? 503 also when events are late; this asks the database
======== =============================================================================

Every other path has the metrics, or is not found.

Nobody is asked who they are. So however many ask at once, the database has one connection of this
server's, and the relay a bounded number of threads and sockets.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Lock, Thread
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
"""How long the server waits for the next bytes of a request."""

_TURN_SECONDS = 4.0
"""How long a request waits for the one that asks the database; probes mostly give up after that."""

_LONGEST_SECONDS = 30.0
"""How long an exchange may take from its connection to its end."""

_MOST = 100
"""Requests at once. Further connections are closed unanswered."""


def site(relay: Source, outbox: Source, metrics: App | None) -> App:
    """Return what is served: the health of the relay, of the outbox as well, and metrics."""

    turn = Lock()

    def everything() -> Health:
        if not turn.acquire(timeout=_TURN_SECONDS):
            busy = Check(name="database", ok=False, detail="another request is still asking it")
            return Health((*relay().checks, busy))
        try:
            return Health((*relay().checks, *outbox().checks))
        finally:
            connections.close_all()  # of this request's thread
            turn.release()

    answers: dict[str, Source] = {
        "/livez": lambda: relay().only(LIVE),
        "/readyz": relay,
        "/healthz": everything,
    }

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answer = answers.get(environ["PATH_INFO"])
        if answer is not None:
            return _tell(answer(), start_response)
        if metrics is not None:
            return _in_turn(turn, metrics, environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There are /livez, /readyz and /healthz.\n"]

    return app


def _in_turn(
    turn: Lock, app: App, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    """Return what an application answers that asks the database before it returns."""
    if not turn.acquire(timeout=_TURN_SECONDS):
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"Another request is still asking the database.\n"]
    try:
        return app(environ, start_response)
    finally:
        turn.release()


def _tell(health: Health, start_response: StartResponse) -> Iterable[bytes]:
    status = "200 OK" if health.is_ready else "503 Service Unavailable"
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start_response(status, headers)
    return [json.dumps(health.as_dict(), indent=2).encode() + b"\n"]


@contextmanager
def serving(port: int, app: App, address: str = ALL_INTERFACES) -> Iterator[None]:
    """Serve on a port, in threads, for the time of the block; raises OSError if it can't be had.

    `address` is that of the interface to listen on, IPv4 or IPv6, or its host name.
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
    """Return a server of the address's family; raises OSError for a name that is unknown."""
    family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
    return type("_Server", (_Server,), {"address_family": family})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._slots = BoundedSemaphore(_MOST)
        self._began: dict[socket.socket, float] = {}
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Listen to IPv4 as well as to IPv6, which is all that some clusters have."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def service_actions(self) -> None:
        """Cut off who takes too long: each byte of a client starts the socket's timeout anew."""
        too_old = time.monotonic() - _LONGEST_SECONDS
        for request, began in list(self._began.items()):
            if began < too_old:
                with suppress(OSError):  # it has just ended by itself
                    request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a request a thread of its own, if there are not too many."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request in its thread."""
        self._began[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._began[request]
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that says nothing, or has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe each second is no news."""
