"""A server that acknowledges each message of SendMessageBatch and keeps none.

    python -m benchmarks.sqs_sink

prints its port and answers until it is killed.
"""

from __future__ import annotations

import re
import socket
import socketserver

import orjson

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class _Handler(socketserver.StreamRequestHandler):
    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle(self) -> None:
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if found := _LENGTH.match(line):
                    length = int(found[1])
            call = orjson.loads(self.rfile.read(length))
            stored = [{"Id": each["Id"], "MessageId": "1"} for each in call["Entries"]]
            answer = orjson.dumps({"Successful": stored})
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(answer), answer)
            )


def serve() -> None:
    """Print the port and answer until killed."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve()
