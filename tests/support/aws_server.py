"""SQS and SNS of our own: moto's server, and a proxy before it that answers as a test wants.

What has arrived is read by a client of the tests' own: plain HTTP, in SQS's JSON protocol.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import create_default_context
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

START_SECONDS = 30.0
# For each message that it takes, moto asks for the time a few times per message that it has. It
# loses a message that is sent while another one is deleted, and gives one group to two calls at
# once. When the visibility timeouts of a group's messages end, it delivers the last one first. So
# a call is alone, and in one moment.
_RUN = """
import threading, time, moto.sqs.models, moto.server
lock, clock = threading.RLock(), threading.local()
receive = moto.sqs.models.SQSBackend.receive_message
def alone(method):
    def call(*arguments, **options):
        with lock:
            return method(*arguments, **options)
    return call
def now(dt=None):
    return getattr(clock, "stopped", 0) or time.time() * 1000
moto.sqs.models.unix_time_millis = now
def receive_in_order(self, queue_name, count, wait_seconds_timeout, *arguments, **options):
    ends = time.time() + wait_seconds_timeout
    while True:
        with lock:
            clock.stopped = time.time() * 1000
            pending = self.get_queue(queue_name).pending_messages
            pending -= {message for message in tuple(pending) if message.visible}
            found = receive(self, queue_name, count, 0, *arguments, **options)
            clock.stopped = 0
        if found or time.time() >= ends:
            return found
        time.sleep(0.02)
moto.sqs.models.SQSBackend.receive_message = receive_in_order
for owner, name in (
    (moto.sqs.models.Queue, "add_message"),
    (moto.sqs.models.Queue, "delete_message"),
    (moto.sqs.models.SQSBackend, "change_message_visibility"),
):
    setattr(owner, name, alone(getattr(owner, name)))
moto.server.main()
"""
REGION = "eu-west-1"
ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Arrived:
    """A message as it was in the queue."""

    body: str
    attributes: Mapping[str, str]
    group: str | None
    deduplication: str | None


class AWSServer:
    """A moto server in a process of its own; it forgets everything when it ends."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._scheme = "https" if "--ssl-cert" in arguments else "http"
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-c", _RUN, "--port", str(self.port), *self._arguments]
        with (self._folder / "moto.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **self._environment}
            )
        wait_until(self._is_up, START_SECONDS, "the moto server is up")

    def kill(self) -> None:
        """SIGKILL it, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it hang (SIGSTOP): the system accepts connections for it, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def sqs(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Call SQS."""
        request = urllib.request.Request(  # noqa: S310  # it is our own address
            self.url,
            data=json.dumps(parameters).encode(),
            headers={
                "Authorization": "AWS4-HMAC-SHA256 "
                f"Credential=k/20240101/{REGION}/sqs/aws4_request, SignedHeaders=host, Signature=s",
                "Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": f"AmazonSQS.{action}",
            },
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else {}

    def make_queue(self, name: str, **attributes: str) -> str:
        """Make a queue, FIFO by its name; return its address."""
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        self.sqs("CreateQueue", QueueName=name, Attributes=attributes)
        return f"{self.url}/{ACCOUNT}/{name}"

    def take(self, queue_url: str) -> list[Arrived]:
        """Take all messages out of a queue, in the order in which they came."""
        taken = []
        while True:
            answer = self.sqs(
                "ReceiveMessage",
                QueueUrl=queue_url,
                MaxNumberOfMessages=10,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
                WaitTimeSeconds=0,
            )
            messages = answer.get("Messages", [])
            if not messages:
                return taken
            entries = [
                {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
                for number, each in enumerate(messages)
            ]
            self.sqs("DeleteMessageBatch", QueueUrl=queue_url, Entries=entries)
            taken += [_arrived(each) for each in messages]

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"moto has ended: {(self._folder / 'moto.log').read_text()}")
        context = create_default_context()
        context.check_hostname, context.verify_mode = False, 0  # type: ignore[assignment]
        try:
            with urllib.request.urlopen(  # noqa: S310  # it is our own address
                f"{self.url}/moto-api/data.json",
                timeout=10,
                context=context if self._scheme == "https" else None,
            ):
                return True
        except OSError:
            return False


def _arrived(message: Mapping[str, Any]) -> Arrived:
    attributes = message.get("Attributes", {})
    return Arrived(
        body=message["Body"],
        attributes={
            name: value["StringValue"]
            for name, value in message.get("MessageAttributes", {}).items()
        },
        group=attributes.get("MessageGroupId"),
        deduplication=attributes.get("MessageDeduplicationId"),
    )


@contextmanager
def aws_server(folder: Path, *arguments: str, **environment: str) -> Iterator[AWSServer]:
    """A running server for the time of the block."""
    server = AWSServer(folder, *arguments, **environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@cache
def shared_url(*queues: str) -> str:
    """The address of a server that lives as long as this process, and has these queues."""
    server = AWSServer(Path(tempfile.mkdtemp(prefix="moto-")))
    atexit.register(server.kill)
    server.start()
    for queue in queues:
        server.make_queue(queue)
    return server.url


# --- A proxy that refuses ----------------------------------------------------------------------

Refuse = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Is given an entry of SendMessageBatch; returns its entry of `Failed`, or None to let it pass."""


@dataclass
class Whole:
    """An answer to a call as a whole, which does not get through."""

    code: str
    message: str = "no reason"
    status: int = 400


@dataclass
class RefusingProxy:
    """Passes calls on to a server, but for the entries and the calls that a test wants refused.

    SQS may refuse any entry of a call by itself, which moto does not do. What passes is stored by
    the server behind. `calls` has the bodies of the entries of each call, in order of arrival.
    """

    server: AWSServer
    refuse: Refuse = lambda entry: None
    whole: Callable[[list[str]], Whole | bytes | None] = lambda bodies: None
    calls: list[list[str]] = field(default_factory=list)

    def __enter__(self) -> RefusingProxy:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                proxy.answer(self)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        is_json = "json" in handler.headers["Content-Type"]
        entries = json.loads(data).get("Entries", []) if is_json else []
        bodies = [each["MessageBody"] for each in entries if "MessageBody" in each]
        bodies = bodies or _sns_bodies(data)
        if bodies:
            self.calls.append(bodies)
        whole = self.whole(bodies)
        if isinstance(whole, Whole):
            return _say(handler, whole.status, *_error(whole, is_json=is_json))
        if whole is not None:
            return _say(handler, 200, "text/html", whole)
        refused = [failed for each in entries if (failed := self.refuse(each))]
        if refused:
            ids = {each["Id"] for each in refused}
            left = [each for each in entries if each["Id"] not in ids]
            data = json.dumps({**json.loads(data), "Entries": left}).encode()
            if not left:
                answer = json.dumps({"Successful": [], "Failed": refused}).encode()
                return _say(handler, 200, "application/x-amz-json-1.0", answer)
        status, kind, answer = self._pass_on(handler, data)
        if refused:
            answer = json.dumps({**json.loads(answer), "Failed": refused}).encode()
        return _say(handler, status, kind, answer)

    def _pass_on(self, handler: BaseHTTPRequestHandler, data: bytes) -> tuple[int, str, bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            headers = {**handler.headers, "Content-Length": str(len(data))}
            connection.request("POST", handler.path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()


def _sns_bodies(data: bytes) -> list[str]:
    fields = parse_qs(data.decode())
    return [texts[0] for name, texts in fields.items() if name.endswith(".Message")]


def _error(whole: Whole, *, is_json: bool) -> tuple[str, bytes]:
    if is_json:
        error = {"__type": f"com.amazonaws.sqs#{whole.code}", "message": whole.message}
        return "application/x-amz-json-1.0", json.dumps(error).encode()
    return "text/xml", (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{whole.code}</Code>"
        f"<Message>{whole.message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    ).encode()


def _say(handler: BaseHTTPRequestHandler, status: int, kind: str, answer: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(answer)))
    handler.end_headers()
    handler.wfile.write(answer)
