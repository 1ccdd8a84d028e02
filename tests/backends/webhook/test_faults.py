"""Endpoints that are away, slow, cut off, mad or full; what a batch then comes to."""

from __future__ import annotations

import errno
import gc
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import MessageBackend, WebhookBackend
from django_broadcaster.backends.webhook import connection
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Held,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.redis_server import free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import SERVER_CASES, host_of, tls_options
from tests.support.waiting import wait_until
from tests.support.webhook_server import Reply, Request, WebhookServer, webhook_server

from .conftest import MakeBackend
from .helpers import ids, ids_of, to

pytestmark = pytest.mark.django_db


def put_off(outcome: Any) -> bool:
    """Whether an event waits without having spent a retry."""
    return isinstance(outcome, TransientError) and not outcome.spends_retry


# --- The contract ------------------------------------------------------------------------------


class TestFaults(BackendFaultContract):
    """One endpoint, through a proxy. What was in flight at an outage may spend a retry."""

    backend = WebhookBackend
    excluded = {
        Fault.MISSING_FOR_ONE: "with `event_urls`, one endpoint that is missing is put off alone:"
        " `test_one_of_many_that_is_away_holds_up_its_own_events_only`",
    }
    cases = {
        Fault.MISSING: ("404",),
        Fault.CREDENTIALS: ("401", "403"),
        Fault.TLS: (*SERVER_CASES, "server without TLS"),
        Fault.FULL: ("429", "503"),
    }
    outage_errors = (BackendUnavailable, TransientError)
    # The health check connects, and sends nothing.
    healthy_despite = (Fault.CREDENTIALS, Fault.FROZEN, Fault.TLS)

    @pytest.fixture(autouse=True)
    def _server(self, server: WebhookServer, certificates: Path) -> Iterator[None]:
        self.server, self.certificates = server, certificates
        self.accepted: list[str] = []
        server.answer = self.accept
        with TcpProxy("127.0.0.1", server.port) as self.proxy:
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        url = f"http://127.0.0.1:{self.proxy.port}"
        return WebhookBackend(**{"url": url, "allow_private": True, **options})

    def accept(self, request: Request) -> Reply:
        """Note the event, and answer that it has arrived."""
        self.accepted.append(request.headers["webhook-id"])
        return Reply()

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": each} for each in self.accepted]

    @contextmanager
    def answering(self, answer: Callable[[Request], Reply]) -> Iterator[None]:
        """Answer so for the time of the block."""
        self.server.answer = answer
        yield
        self.server.answer = self.accept

    def stopped(self) -> AbstractContextManager[object]:
        return self.server.away()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        gate = threading.Event()
        with self.answering(lambda request: replace(self.accept(request), hold=gate)):
            try:
                yield
            finally:
                gate.set()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        limit = 10_000

        def answer(request: Request) -> Reply:
            return Reply(413) if len(request.body) > limit else self.accept(request)

        with self.answering(answer):
            yield limit

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        with self.answering(lambda request: Reply(int(case))):
            yield self.new_backend()

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        def answer(request: Request) -> Reply:
            is_known = request.headers["authorization"] == "Bearer right"
            return self.accept(request) if is_known else Reply(int(case or 401))

        token = "right" if case is None else self.secret
        with self.answering(answer):
            yield self.new_backend(headers={"Authorization": f"Bearer {token}"})

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates / "server.pem", self.certificates / "server.key")
        scheme = "http" if case == "no TLS" else "https"
        with webhook_server(context) as server:
            port = self.server.port if case == "server without TLS" else server.port
            yield self.new_backend(
                url=f"{scheme}://{host_of(case)}:{port}",
                timeout=3.0,
                **tls_options(self.certificates, case),
            )
            assert case is None or server.requests == []

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        def answer(request: Request) -> Reply:
            return Reply(int(case)) if len(self.accepted) > 20 else self.accept(request)

        with self.answering(answer):
            yield self.new_backend()


# --- Away --------------------------------------------------------------------------------------


def test_one_of_many_that_is_away_holds_up_its_own_events_only(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Its events are put off, spend nothing, and the others are delivered."""
    gone = f"http://127.0.0.1:{free_port()}"
    backend = make(event_urls=True, allow_http=True)
    messages = [to((server.url, gone)[n % 2], key=f"k{n}" if n < 10 else "") for n in range(40)]
    outcomes = backend.send_batch(messages)
    assert [None if n % 2 == 0 else True for n in range(40)] == [
        outcome and put_off(outcome) for outcome in outcomes
    ]
    assert "Connect" in str(outcomes[1])


def test_endpoint_that_is_away_is_left_alone_for_longer_each_time(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pauses double, few events try it after each, and an answer ends them."""
    now = [1000.0]
    backend = make(event_urls=True, allow_http=True)
    monkeypatch.setattr(backend._pauses, "_clock", lambda: now[0])
    server.answer = lambda request: Reply(503)
    pauses = []
    for _ in range(8):
        before = len(server.requests)
        outcomes = backend.send_batch([to(server.url) for _ in range(20)])
        assert all(map(put_off, outcomes))
        # Of a batch that comes too early nothing is sent.
        early = backend.send_batch([to(server.url)])
        assert put_off(early[0])
        pauses.append(early[0].retry_after)  # type: ignore[union-attr]
        assert len(server.requests) - before == (16 if len(pauses) == 1 else 4)
        now[0] += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    server.answer = lambda request: Reply()
    assert backend.send_batch([to(server.url) for _ in range(20)]) == [None] * 20
    server.answer = lambda request: Reply(503, {"Retry-After": "600"})
    (outcome,) = backend.send_batch([to(server.url)])
    assert outcome is not None
    assert outcome.retry_after == 600.0


@pytest.mark.shows(Fault.MISSING)
def test_host_without_an_address_is_an_outage(make: MakeBackend) -> None:
    """A name that does not resolve costs no event; `.invalid` never does (RFC 6761)."""
    backend = make(url="https://hooks.invalid/")
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
    assert backend.health_check() is False
    many = make(event_urls=True)
    assert put_off(many.send_batch([to("https://hooks.invalid/")])[0])


# --- Slow --------------------------------------------------------------------------------------


@contextmanager
def held_back(server: WebhookServer, *only: str) -> Iterator[None]:
    """For the time of the block, let a server answer nothing, or only bodies with other texts."""
    gate = threading.Event()

    def answer(request: Request) -> Reply:
        held = not only or any(text.encode() in request.body for text in only)
        return Reply(hold=gate if held else None)

    server.answer = answer
    try:
        yield
    finally:
        gate.set()
        server.answer = lambda request: Reply()


@pytest.mark.shows(Fault.FROZEN)
@pytest.mark.chaos
@pytest.mark.parametrize("many", [False, True])
def test_endpoint_past_the_timeout_is_away(
    make: MakeBackend, server: WebhookServer, many: bool
) -> None:
    """Nothing of a batch is delivered, the batch ends in time, and later all of it arrives."""
    backend = make(url=server.url, event_urls=many, timeout=0.3, max_in_flight=4)
    messages = numbers(50)
    with held_back(server):
        began = time.monotonic()
        outcomes = backend.send_batch(messages)
        assert time.monotonic() - began < 5, "a batch takes about twice the timeout"
    if many:
        assert all(map(put_off, outcomes))
    else:
        assert kinds(outcomes) == [BackendUnavailable] * 50
    patient = make(url=server.url, event_urls=many)
    assert patient.send_batch(messages) == [None] * 50
    assert set(ids_of(messages)) <= set(ids(server))


@pytest.mark.shows(Fault.FROZEN)
@pytest.mark.chaos
@pytest.mark.parametrize("many", [False, True])
def test_event_that_alone_gets_no_answer_is_to_blame(
    make: MakeBackend, server: WebhookServer, many: bool
) -> None:
    """While others are delivered, the one that times out spends a retry, and stops nobody."""
    backend = make(url=server.url, event_urls=many, timeout=1.5)
    messages = [make_message(data="slow"), *numbers(5)]
    with held_back(server, "slow"):
        outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [TransientError, *[None] * 5]
    assert not put_off(outcomes[0])


@pytest.mark.chaos
def test_event_that_never_gets_an_answer_does_not_stop_its_endpoint(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Alone it looks like an outage; as soon as there are others, they are delivered."""
    backend = make(url=server.url, event_urls=True, timeout=1.5)
    poison = make_message(data="slow")
    with held_back(server, "slow"):
        (alone,) = backend.send_batch([poison])
        assert put_off(alone)
        wait_until(lambda: not backend._pauses.seconds_left(server.url), 5, "the pause to end")
        outcomes = backend.send_batch([poison, *numbers(20)])
    assert outcomes[1:] == [None] * 20
    assert kinds(outcomes[:1]) == [TransientError]
    assert not put_off(outcomes[0])


@pytest.mark.chaos
def test_slow_endpoint_leaves_room_for_the_others(
    make: MakeBackend, server: WebhookServer, other: WebhookServer
) -> None:
    """With one of many that answers nothing, the events of the others go through meanwhile."""
    backend = make(event_urls=True, allow_http=True, timeout=2.5, max_in_flight=8)
    slow = [to(server.url) for _ in range(100)]
    quick = [to(other.url) for _ in range(100)]
    with held_back(server):
        outcomes = backend.send_batch([*slow, *quick])
        assert server.most_at_once == 2, "a quarter of what may be in flight"
    assert all(map(put_off, outcomes[:100]))
    assert outcomes[100:] == [None] * 100


@pytest.mark.chaos
def test_batch_that_takes_too_long_leaves_the_rest_for_later(
    make: MakeBackend, server: WebhookServer
) -> None:
    """A key of many events at a slow endpoint is not sent to its end; the rest spends nothing."""

    def answer(request: Request) -> Reply:
        time.sleep(0.4)
        return Reply()

    server.answer = answer
    messages = numbers(100, "key")
    began = time.monotonic()
    outcomes = make(url=server.url, timeout=1.5).send_batch(messages)
    assert time.monotonic() - began < 6
    sent = outcomes.count(None)
    assert 1 <= sent < 10
    assert ids(server) == ids_of(messages[:sent])
    assert put_off(outcomes[sent])
    assert kinds(outcomes[sent + 1 :]) == [Held] * (99 - sent)


# --- Cut off -----------------------------------------------------------------------------------


@pytest.mark.shows(Fault.CUT)
@pytest.mark.chaos
@pytest.mark.parametrize("direction", ["cut_request_after", "cut_reply_after"])
def test_connection_cut_in_the_middle_of_a_batch(
    make: MakeBackend, server: WebhookServer, direction: str
) -> None:
    """What was acknowledged is there, in order, and sent again the rest arrives behind it."""
    messages = numbers(60, "key")
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(url=f"http://127.0.0.1:{proxy.port}")
        setattr(proxy, direction, 6_000 if direction == "cut_request_after" else 700)
        outcomes = backend.send_batch(messages)
        sent = outcomes.count(None)
        assert 0 < sent < 60
        assert outcomes[:sent] == [None] * sent
        # Others of the batch were delivered, so the one that was cut off spends a retry.
        assert kinds(outcomes[sent:]) == [TransientError, *[Held] * (59 - sent)]
        setattr(proxy, direction, None)
        assert backend.send_batch(messages[sent:]) == [None] * (60 - sent)
        backend.close()
    assert list(dict.fromkeys(ids(server))) == ids_of(messages)


@pytest.mark.parametrize("many", [False, True], ids=["one endpoint", "one of many"])
def test_connection_that_the_endpoint_ends_after_its_answer_costs_nothing(
    make: MakeBackend, server: WebhookServer, many: bool
) -> None:
    """An endpoint that answers every request, and ends each connection without notice, gets all."""
    server.answer = lambda request: Reply(200, cut=True)
    options = {"event_urls": True, "allow_http": True} if many else {"url": server.url}
    backend = make(**options)
    sent = [to(server.url) if many else make_message() for _ in range(400)]
    for start in range(0, len(sent), 100):
        assert backend.send_batch(sent[start : start + 100]) == [None] * 100
    assert sorted(ids(server)) == sorted(ids_of(sent)), "each came once"


def test_reused_connection_that_ends_before_the_answer_is_replaced_once(
    make: MakeBackend, server: WebhookServer
) -> None:
    """The request goes once more over a new connection; one that is cut there has failed."""
    backend = make(url=server.url, max_in_flight=1)
    assert backend.send_batch([make_message()]) == [None]
    seen: list[int] = []

    def cut_where_used(request: Request) -> Reply:
        seen.append(request.connection)
        return Reply(raw=b"", cut=True) if request.connection == 1 else Reply()

    server.answer = cut_where_used
    assert backend.send_batch([make_message()]) == [None]
    assert seen == [1, 2]
    server.answer = lambda request: Reply(raw=b"", cut=True)
    before = len(server.requests)
    assert kinds(backend.send_batch([make_message()])) == [BackendUnavailable]
    assert len(server.requests) == before + 1


@pytest.mark.chaos
def test_connections_that_ended_between_batches_are_not_used(
    make: MakeBackend, server: WebhookServer
) -> None:
    """An endpoint that closes idle connections costs no event its attempt."""
    backend = make(url=server.url)
    for _ in range(5):
        assert backend.send_batch(numbers(10)) == [None] * 10
        server.drop_connections()


@pytest.mark.chaos
@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw=b"", cut=True),
        Reply(raw=b"HTTP/1.1 200", cut=True),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le", cut=True),
        Reply(raw=b"220 mail.example ESMTP\r\n\r\n", cut=True),
        Reply(raw=b"\x00\xff" * 100 + b"\r\n\r\n", cut=True),
        Reply(raw=b"HTTP/1.1 99999 OK\r\n\r\n", cut=True),
        Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, cut=True),
        Reply(raw=b"HTTP/1.1 100 Continue\r\n\r\n", cut=True),
    ],
    ids=["nothing", "half a line", "half a head", "mail", "noise", "status", "long", "continue"],
)
def test_answer_that_is_none_is_no_delivery(
    make: MakeBackend, server: WebhookServer, reply: Reply
) -> None:
    """Without a complete status and head nothing counts as delivered."""
    server.answer = lambda request: reply
    assert kinds(make(url=server.url).send_batch(numbers(2))) == [BackendUnavailable] * 2


# --- Too much ----------------------------------------------------------------------------------


@pytest.mark.shows("a cap on responses")
@pytest.mark.chaos
def test_endless_response_is_read_up_to_the_cap(make: MakeBackend, server: WebhookServer) -> None:
    """Its status counts, its body does not, and its connection is given up."""
    server.answer = lambda request: Reply(200, endless=True)
    backend = make(url=server.url, max_response_bytes=10_000)
    began = time.monotonic()
    assert backend.send_batch(numbers(3, "key")) == [None] * 3
    assert time.monotonic() - began < 5
    assert server.connections == 3
    assert server.sent < 3 * 20 * 2**20, "what the system's buffers take, and no more"


@pytest.mark.chaos
def test_body_that_never_ends_does_not_undo_its_status(
    make: MakeBackend, server: WebhookServer
) -> None:
    """A 2xx whose body does not come is a delivery, once the timeout is over."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"
    server.answer = lambda request: Reply(raw=head)
    assert make(url=server.url, timeout=1.0).send_batch(numbers(2)) == [None, None]


def test_packed_response_is_not_unpacked(make: MakeBackend, server: WebhookServer) -> None:
    """Whatever a body claims to be, it is bytes to be thrown away."""
    server.answer = lambda request: Reply(200, {"Content-Encoding": "gzip"}, b"no gzip at all")
    assert make(url=server.url).send_batch(numbers(2)) == [None, None]


@pytest.mark.parametrize("many", [False, True])
def test_process_without_files_left_blames_nobody(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """When this machine can make no socket, everything waits, whosever events they are."""
    backend = make(url=server.url, event_urls=many)

    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(backend.options.rules, "socket_for", fail)
    assert kinds(backend.send_batch(numbers(50))) == [BackendUnavailable] * 50
    monkeypatch.undo()
    assert backend.send_batch(numbers(50)) == [None] * 50


def test_connections_to_many_endpoints_do_not_pile_up(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch for more endpoints than may be kept open keeps none of their connections."""
    monkeypatch.setattr(connection, "IDLE_CONNECTIONS", 20)
    monkeypatch.setattr("django_broadcaster.backends.webhook.backend.IDLE_CONNECTIONS", 20)
    backend = make(event_urls=True, allow_http=True)
    for _ in range(5):
        messages = [to(f"{server.url}/{number}") for number in range(30)]
        assert backend.send_batch(messages) == [None] * 30
        messages = [to(f"{server.url}/{number}") for number in range(10)]
        assert backend.send_batch(messages) == [None] * 10
        wait_until(lambda: server.open_connections <= 20, 10, "connections to be closed")


# --- Without a client, and interrupted ---------------------------------------------------------


@pytest.mark.chaos
def test_interrupted_batch_goes_no_further(make: MakeBackend, server: WebhookServer) -> None:
    """Behind a signal that breaks a batch off, nothing of it is sent with the next one."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    backend = make(url=server.url, max_in_flight=1)
    first, second = numbers(20), numbers(5)
    previous = signal.signal(signal.SIGALRM, interrupt)
    with held_back(server):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Interrupted):
            backend.send_batch(first)
    signal.signal(signal.SIGALRM, previous)
    assert backend.send_batch(second) == [None] * 5
    assert ids(server) == [first[0].event_id, *ids_of(second)]


def test_closed_backend_leaves_nothing_behind(make: MakeBackend, server: WebhookServer) -> None:
    """No thread, no loop and no connection outlives `close`."""
    threads = Counter(thread.name for thread in threading.enumerate())
    backend = make(url=f"http://localhost:{server.port}")
    assert backend.send_batch(numbers(20)) == [None] * 20
    backend.close()
    gc.collect()  # what was not closed says so now, and warnings are errors here
    assert not Counter(thread.name for thread in threading.enumerate()) - threads
