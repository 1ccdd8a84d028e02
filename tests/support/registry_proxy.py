"""An HTTP proxy in front of the schema registry, which counts requests and can refuse some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tools.schema_registry import PATH, Registry


class RegistryProxy:
    """Passes requests on to a registry; `url` is its own address.

    `asked` has the paths of the requests. Those with the text `forbidden` in their path are
    answered as Confluent Cloud does if the login lacks a permission. Those with `silent` in it are
    not answered until the proxy ends.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self.asked: list[str] = []
        self.forbidden = ""
        self.silent = ""
        self.is_done = Event()

    def answer(self, registry: Registry, request: Request) -> tuple[int, bytes]:
        """Return the status and the body for a request, whose path is below that of `url`."""
        path = request.selector.removeprefix(PATH)
        self.asked.append(path)
        if self.silent and self.silent in path:
            self.is_done.wait(60)
        if self.forbidden and self.forbidden in path:
            return 403, b'{"error_code": 40301, "message": "User is denied operation"}'
        try:
            with urlopen(request, timeout=30) as found:  # noqa: S310  # http alone
                return found.status, found.read()
        except HTTPError as error:
            return error.code, error.read()


@contextmanager
def registry_proxy(registry: Registry) -> Iterator[RegistryProxy]:
    """Run a proxy for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            request = Request(  # http alone
                f"http://127.0.0.1:{registry.port}{self.path}",
                data=self.rfile.read(size) if size else None,
                headers={
                    name: self.headers[name]
                    for name in ("accept", "content-type")
                    if name in self.headers
                },
                method=self.command,
            )
            status, body = proxy.answer(registry, request)
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  # the names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        proxy = RegistryProxy(server.server_address[1])
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.is_done.set()
        server.shutdown()
        thread.join(10)
