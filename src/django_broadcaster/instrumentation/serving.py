"""A small HTTP server of a relay: its health, and its metrics where they are wanted.

======== =============================================================================
path     answers with 200, or with 503 and the checks that failed, as JSON
======== =============================================================================
/livez   would a restart help? 503 where a thread has died or hangs
/readyz  and does it deliver? 503 also while it holds no lease, or a broker is away
/healthz and is the outbox well? 503 also when events are late; this asks the database
======== =============================================================================

Every other path has the metrics, or is not found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.db import connections

from django_broadcaster.relay.health import LIVE, Health

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
Source = Callable[[], Health]

ALL_INTERFACES = "0.0.0.0"  # noqa: S104  # probes and scrapes come from other machines
_SECONDS = 10.0
"""How long the server waits for a request of an open connection."""


def site(relay: Source, outbox: Source, metrics: App | None) -> App:
    """Return what is served: the health of the relay, of the outbox as well, and metrics."""

    def everything() -> Health:
        try:
            return Health((*relay().checks, *outbox().checks))
        finally:
            connections.close_all()  # of this request's thread

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
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There are /livez, /readyz and /healthz.\n"]

    return app


def _tell(health: Health, start_response: StartResponse) -> Iterable[bytes]:
    status = "200 OK" if health.is_ready else "503 Service Unavailable"
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start_response(status, headers)
    return [json.dumps(health.as_dict(), indent=2).encode() + b"\n"]


@contextmanager
def serving(port: int, app: App) -> Iterator[None]:
    """Serve on a port, in threads, for the time of the block; raises OSError if it is taken."""
    server = make_server(ALL_INTERFACES, port, app, _Server, _Handler)
    thread = Thread(target=server.serve_forever, name="relay-http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_SECONDS)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe each second is no news."""
