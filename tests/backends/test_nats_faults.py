"""The NATS backend and what goes wrong: the right kind of error, the order kept, nothing lost."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nkeys
import pytest

from django_broadcaster.backends import Message, MessageBackend, NATSBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.nats_server import (
    NatsServer,
    add_stream,
    delete_stream,
    nats_server,
    purge_stream,
    stored,
    update_stream,
)
from tests.support.scripted_nats import ScriptedNats
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options

from .test_nats import MakeBackend, make

__all__ = ["make"]  # a fixture

WAIT = 20.0  # seconds, at the most
STREAM = "EVENTS"
SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
OTHER_SEED = nkeys.encode_seed(bytes(range(1, 33)), nkeys.PREFIX_BYTE_USER).decode()
NKEY = nkeys.from_seed(bytearray(SEED.encode())).public_key.decode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A private server for tests that leave it as it was."""
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 8192") as server:
        yield server


@pytest.fixture
def server(running: NatsServer) -> Iterator[NatsServer]:
    """A private server with the stream EVENTS for `events.>`, and a limit of 8,192 bytes."""
    add_stream(running.url, STREAM, "events.>")
    yield running
    delete_stream(running.url, STREAM)


def ids(url: str, **options: Any) -> list[str]:
    """The event ids in the stream, in order."""
    return [json.loads(message.data)["id"] for message in stored(url, STREAM, **options)]


def sent(messages: Sequence[Message]) -> list[str]:
    """The event ids of messages, in order."""
    return [message.event_id for message in messages]


def order_of(found: Sequence[str], messages: Sequence[Message]) -> dict[str, list[str]]:
    """For each key its events in the order in which they are in the stream."""
    keys = {message.event_id: message.partition_key for message in messages}
    order: dict[str, list[str]] = {}
    for each in found:
        order.setdefault(keys[each], []).append(each)
    return order


def outcomes_of(backend: NATSBackend, messages: Sequence[Message]) -> list[Any]:
    """The kinds of the outcomes, also where the batch as a whole was refused."""
    try:
        return kinds(backend.send_batch(messages))
    except BackendUnavailable:
        return [BackendUnavailable] * len(messages)


def is_answer(subject: str, body: bytes) -> bytes:
    """What a scripted server says when it is asked about the stream."""
    return json.dumps({"config": {"name": STREAM, "subjects": ["events.>"]}}).encode()


# --- The contract ------------------------------------------------------------------------------

LOGINS: dict[str, tuple[str, dict[str, str]]] = {
    "password": (
        "authorization { user: app, password: correct }",
        {"username": "app", "password": "correct"},
    ),
    "token": ("authorization { token: correct }", {"token": "correct"}),
    "key": (f"authorization {{ users = [ {{ nkey: {NKEY} }} ] }}", {"nkeys_seed_str": SEED}),
}
"""By the kind of login: the server's configuration, and the options that are right."""


class TestFaults(BackendFaultContract):
    """Through a proxy, with the stream EVENTS."""

    backend = NATSBackend
    cases = {
        Fault.TOO_LARGE: ("max_payload", "max_msg_size", "max_bytes"),
        Fault.MISSING: ("never made", "deleted meanwhile", "subject taken away"),
        Fault.MISSING_FOR_ONE: ("subject of no stream", "subject of another stream"),
        Fault.CREDENTIALS: (
            *("no login", "wrong password", "unknown user", "wrong token", "wrong key"),
            *("invalid key", "no key file", "no credentials file"),
        ),
        Fault.TLS: CASES,
        Fault.FULL: ("max_bytes", "max_msgs", "storage"),
    }
    stores_once = True
    restarts = 3
    secret = OTHER_SEED

    @pytest.fixture(autouse=True)
    def _server(
        self, server: NatsServer, tmp_path: Path, request: pytest.FixtureRequest
    ) -> Iterator[None]:
        self.server, self.url, self.folder, self.request = server, server.url, tmp_path, request
        self.arrived: list[str] = []
        with TcpProxy("127.0.0.1", server.port) as self.proxy, ExitStack() as self.servers:
            yield
        delete_stream(server.url, "OTHER")

    def make_backend(self, **options: Any) -> MessageBackend:
        return NATSBackend(**{"servers": f"nats://127.0.0.1:{self.proxy.port}", **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": each} for each in (*self.arrived, *ids(self.url))]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.kill()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        if case == "max_payload":
            yield 8192 - 100  # the limit counts headers, too
        else:
            update_stream(self.url, STREAM, **{case: 4000})
            yield 4000 - 100

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        backend = self.new_backend(subject="events.all")
        if case != "never made":
            backend.open()
        if case == "subject taken away":
            update_stream(self.url, STREAM, subjects=["events.some"])
            yield backend
            update_stream(self.url, STREAM, subjects=["events.>"])
        else:
            delete_stream(self.url, STREAM)
            yield backend
            add_stream(self.url, STREAM, "events.>")

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        if case == "subject of another stream":
            add_stream(self.url, "OTHER", "other.>")
        return {"subject": "other.x"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        kind, options = {
            None: ("password", LOGINS["password"][1]),
            "no login": ("password", {}),
            "wrong password": ("password", {"username": "app", "password": self.secret}),
            "unknown user": ("password", {"username": "no", "password": self.secret}),
            "wrong token": ("token", {"token": self.secret}),
            "wrong key": ("key", {"nkeys_seed_str": self.secret}),
            "invalid key": ("key", {"nkeys_seed_str": "no seed"}),
            "no key file": ("key", {"nkeys_seed": "/no/such/file"}),
            "no credentials file": ("key", {"user_credentials": "/no/such/file"}),
        }[case]
        with nats_server(self.folder, LOGINS[kind][0]) as server:
            yield self.new_backend(servers=server.url, create_stream=True, **options)

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        port = self.request.getfixturevalue("tls_server").port
        options = tls_options(self.request.getfixturevalue("certificates"), case)
        yield self.new_backend(
            servers=f"nats://{host_of(case)}:{port}", create_stream=True, **options
        )

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        if case != "storage":
            limit = {"max_bytes": 20_000, "max_msgs": 50}[case]
            update_stream(self.url, STREAM, discard="new", **{case: limit})
            yield self.new_backend()
            update_stream(self.url, STREAM, **{case: -1})
            return
        small = nats_server(self.folder, jetstream="max_file_store: 100000")
        self.url = self.servers.enter_context(small).url
        add_stream(self.url, STREAM, "events.>")
        yield self.new_backend(servers=self.url)
        self.arrived += ids(self.url)
        purge_stream(self.url, STREAM)


@pytest.mark.parametrize("kind", LOGINS)
def test_every_kind_of_login(make: MakeBackend, tmp_path: Path, kind: str) -> None:
    """A password, a token and a key let the backend in."""
    config, options = LOGINS[kind]
    with nats_server(tmp_path, config) as server:
        backend = make(servers=server.url, create_stream=True, **options)
        assert backend.health_check() is True
        assert backend.send_batch(numbers(2)) == [None, None]


# --- One event is to blame ---------------------------------------------------------------------


def test_limit_that_was_set_meanwhile_is_rejected_by_the_server(
    make: MakeBackend, server: NatsServer
) -> None:
    """A stream whose limit is lower now refuses one event, and the later ones of its key wait."""
    backend = make(servers=server.url)
    backend.open()
    update_stream(server.url, STREAM, max_msg_size=1000)
    large = make_message(data="x" * 1000, partition_key="a")
    messages = [*numbers(2, "a"), large, *numbers(2, "a"), *numbers(2, "b")]
    assert kinds(backend.send_batch(messages)) == [None, None, Rejected, Held, Held, None, None]
    assert order_of(ids(server.url), messages) == {"a": sent(messages[:2]), "b": sent(messages[5:])}


@pytest.mark.shows(Fault.TOO_LARGE)
def test_headers_over_the_servers_limit_are_rejected(make: MakeBackend, tmp_path: Path) -> None:
    """JetStream stores no more than 64 KB of headers, whatever the payload may be."""
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, content_mode="binary", create_stream=True)
        large = make_message(data=1, extensions={"note": "x" * 70_000}, partition_key="a")
        messages = [large, *numbers(1, "a"), *numbers(1, "b")]
        assert kinds(backend.send_batch(messages)) == [Rejected, Held, None]
        assert len(stored(server.url, STREAM)) == 1


def test_tampered_event_is_transient_and_holds_its_key(
    make: MakeBackend, server: NatsServer
) -> None:
    """A message that cannot be encoded fails alone, and not those before it."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [*numbers(2, "a"), broken, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(servers=server.url).send_batch(messages)
    assert kinds(outcomes) == [None, None, TransientError, Held, None]


@pytest.mark.shows("names are escaped")
def test_name_of_an_attribute_begins_no_header(make: MakeBackend, server: NatsServer) -> None:
    """A row that somebody wrote by hand cannot put more headers, or commands, on the wire."""
    broken = make_message(data=1)
    broken.extensions = {"a: b\r\nNats-Rollup": "all"}
    backend = make(servers=server.url, content_mode="binary")
    assert kinds(backend.send_batch([broken, *numbers(1)])) == [Rejected, None]
    assert len(stored(server.url, STREAM)) == 1


@pytest.mark.shows(Fault.FULL)
def test_subject_that_is_full_is_transient(make: MakeBackend, server: NatsServer) -> None:
    """A limit for each subject stops the events of that subject only, each key in order."""
    config = {"max_msgs_per_subject": 2, "discard": "new", "discard_new_per_subject": True}
    update_stream(server.url, STREAM, **config)
    messages = [*numbers(4, "a"), *numbers(1, "b")]
    outcomes = make(servers=server.url, subject="events.{key}").send_batch(messages)
    assert kinds(outcomes) == [None, None, TransientError, Held, None]
    assert order_of(ids(server.url), messages)["a"] == sent(messages[:2])


# --- Permissions and credentials ---------------------------------------------------------------

USERS = """
authorization {{ users = [
  {{ user: admin, password: admin }}
  {{ user: app, password: correct, permissions: {{
    publish: [{publish}], subscribe: [{subscribe}] }} }}
] }}
"""
ASK = '"$JS.API.STREAM.INFO.EVENTS"'
APP = {"username": "app", "password": "correct"}


def as_admin(server: NatsServer) -> str:
    """The address with a login that may do everything."""
    return server.url.replace("//", "//admin:admin@")


def test_user_with_no_more_than_the_documented_permissions(
    make: MakeBackend, tmp_path: Path
) -> None:
    """Asking for the stream, the subjects and an inbox are all that a user needs."""
    users = USERS.format(publish=f'{ASK}, "events.>"', subscribe='"_INBOX_app.>"')
    with nats_server(tmp_path, users) as server:
        add_stream(as_admin(server), STREAM, "events.>")
        backend = make(servers=server.url, inbox_prefix="_INBOX_app", **APP)
        assert backend.send_batch(numbers(3, "a")) == [None] * 3
        assert backend.health_check() is True


@pytest.mark.parametrize(
    ("publish", "subscribe"),
    [('"events.>"', '">"'), (f'{ASK}, "events.>"', '"nothing"')],
)
def test_permission_that_every_event_needs_is_unavailable_at_once(
    make: MakeBackend, tmp_path: Path, publish: str, subscribe: str
) -> None:
    """A user who may not ask for the stream, or hear an answer, costs no event and no time."""
    with nats_server(tmp_path, USERS.format(publish=publish, subscribe=subscribe)) as server:
        add_stream(as_admin(server), STREAM, "events.>")
        backend = make(servers=server.url, timeout=30, **APP)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="permissions violation"):
            backend.send(*numbers(1))
        assert time.monotonic() - started < 10


@pytest.mark.shows(Fault.CREDENTIALS)
def test_subject_without_permission_stops_its_own_events_only(
    make: MakeBackend, tmp_path: Path
) -> None:
    """Where subjects are made from events, one that is not permitted is transient, at once."""
    users = USERS.format(publish=f'{ASK}, "events.ok"', subscribe='">"')
    with nats_server(tmp_path, users) as server:
        add_stream(as_admin(server), STREAM, "events.>")
        backend = make(servers=server.url, timeout=30, **APP)
        messages = [
            make_message(event_type="ok", data=1, partition_key="a"),
            make_message(event_type="SECRET", data=2, partition_key="a"),
            make_message(event_type="ok", data=3, partition_key="a"),
            make_message(event_type="SECRET", data=4),
            make_message(event_type="ok", data=5, partition_key="b"),
        ]
        started = time.monotonic()
        outcomes = backend.send_batch(messages)
        assert time.monotonic() - started < 10
        assert kinds(outcomes) == [None, TransientError, Held, TransientError, None]
        assert sorted(ids(as_admin(server))) == sorted(sent([messages[0], messages[4]]))
        constant = make(servers=server.url, subject="events.private", timeout=30, **APP)
        assert kinds(constant.send_batch(messages)) == [BackendUnavailable] * 5


def test_error_names_the_servers_without_their_passwords(make: MakeBackend) -> None:
    """The error says which servers are away, and gives no credentials away."""
    backend = make(servers=["nats://me:secret@127.0.0.1:1", "nats://secret@127.0.0.1:2"])
    with pytest.raises(BackendUnavailable, match=r"nats://127\.0\.0\.1:1, nats://") as caught:
        backend.send(make_message())
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(
    certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsServer]:
    """A server that wants encryption and a certificate of ours."""
    tls = (
        f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key", '
        f'ca_file: "{certificates}/ca.pem", verify: true }}'
    )
    with nats_server(tmp_path_factory.mktemp("tls"), tls) as server:
        yield server


def context(certificates: Path, *, ca: str = "ca.pem", client: bool = True) -> ssl.SSLContext:
    """The client's side of TLS."""
    made = ssl.create_default_context(cafile=certificates / ca)
    if client:
        made.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return made


@pytest.mark.shows(Fault.TLS)
@pytest.mark.parametrize("wanted", ["option", "scheme"])
def test_password_is_not_sent_in_plain_text(make: MakeBackend, wanted: str) -> None:
    """A server that says that it has no TLS is not told a password that TLS was to protect."""
    with ScriptedNats(is_answer) as server:
        options: dict[str, Any] = {"servers": server.url, "tls": True}
        if wanted == "scheme":
            options = {"servers": server.url.replace("nats:", "tls:")}
        backend = make(username="app", password="secret", **options)
        with pytest.raises(BackendUnavailable, match="secure connection"):
            backend.send(*numbers(1))
        assert server.connects == []


# --- The server or the stream is to blame ------------------------------------------------------


def test_server_without_jetstream_is_unavailable(make: MakeBackend) -> None:
    """A server that has no JetStream answers nothing, and costs no event."""
    with (
        ScriptedNats(lambda subject, body: b"NATS/1.0 503") as server,
        pytest.raises(BackendUnavailable, match="JetStream is not available"),
    ):
        make(servers=server.url).send(*numbers(1))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"code": 503, "err_code": 10008, "description": "unavailable"}, BackendUnavailable),
        ({"code": 500, "err_code": 10028, "description": "no memory"}, BackendUnavailable),
        ({"code": 503, "err_code": 10077, "description": "no space left"}, BackendUnavailable),
        ({"code": 400, "err_code": 10002, "description": "account limit"}, BackendUnavailable),
        ({"code": 400, "err_code": 10109, "description": "sealed"}, BackendUnavailable),
        ({"code": 429, "err_code": 10167, "description": "too many"}, BackendUnavailable),
        ({"code": 400, "err_code": 10054, "description": "too large"}, Rejected),
        ({"code": 400, "err_code": 10097, "description": "headers"}, Rejected),
        ({"code": 409, "err_code": 10158, "description": "in process"}, TransientError),
        ({"code": 400, "err_code": 19999, "description": "something new"}, TransientError),
    ],
)
def test_kind_of_each_refusal(
    make: MakeBackend, answer: dict[str, Any], kind: type[DeliveryError]
) -> None:
    """What JetStream may answer to a message, and what it says of the event."""

    def refuse(subject: str, body: bytes) -> bytes:
        if subject.startswith("$JS"):
            return is_answer(subject, body)
        return json.dumps({"error": answer, "stream": STREAM, "seq": 0}).encode()

    with ScriptedNats(refuse) as server:
        outcomes = make(servers=server.url).send_batch(numbers(1, "a"))
    assert kinds(outcomes) == [kind]
    assert answer["description"] in str(outcomes[0])


@pytest.mark.parametrize(
    "answer", [b"thanks", b"[]", b'{"stream": "OTHER", "seq": 1}', b'{"stream": "EVENTS"}', b"{}"]
)
def test_answer_of_somebody_else_acknowledges_nothing(make: MakeBackend, answer: bytes) -> None:
    """A subscriber that answers what it hears is not the stream."""

    def reply(subject: str, body: bytes) -> bytes:
        return is_answer(subject, body) if subject.startswith("$JS") else answer

    with ScriptedNats(reply) as server:
        outcomes = make(servers=server.url, timeout=0.3).send_batch(numbers(2))
    assert kinds(outcomes) == [BackendUnavailable] * 2


@pytest.mark.shows("order after a failure in a batch")
def test_nothing_is_sent_before_the_one_before_it_is_acknowledged(make: MakeBackend) -> None:
    """One event of a key is in flight, while those of other keys and of none go out at once."""

    def silent(subject: str, body: bytes) -> bytes | None:
        return is_answer(subject, body) if subject.startswith("$JS") else None

    with ScriptedNats(silent) as server:
        backend = make(servers=server.url, subject="events.{key}", timeout=0.5)
        messages = [*numbers(3, "a"), *numbers(3, "b"), *numbers(3)]
        assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 9
        published = [each for each in server.subjects if each.startswith("events")]
    assert published == ["events.a", "events.b", "events._", "events._", "events._"]


# --- Cut off, slow, killed ---------------------------------------------------------------------


@pytest.mark.shows(Fault.FROZEN)
@pytest.mark.chaos
def test_large_batch_to_a_server_that_hangs_ends_in_time(make: MakeBackend, tmp_path: Path) -> None:
    """A server that reads no more holds up neither the batch nor the goodbye."""
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, timeout=0.3, create_stream=True)
        backend.open()
        server.stop()
        started = time.monotonic()
        large = [make_message(data="x" * 500_000) for _ in range(60)]
        assert outcomes_of(backend, large) == [BackendUnavailable] * 60
        backend.close()
        assert time.monotonic() - started < 8
        server.resume()


@pytest.mark.chaos
def test_server_that_was_restarted_while_nobody_published_costs_nothing(
    make: MakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch after a rest finds out that the connection is gone, and gets through."""
    monkeypatch.setattr("django_broadcaster.backends.nats.connection.RESTED_SECONDS", 0.0)
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, create_stream=True)
        messages = numbers(6, "a")
        assert backend.send_batch(messages[:3]) == [None] * 3
        server.kill()
        server.start()
        assert backend.send_batch(messages[3:]) == [None] * 3
        assert ids(server.url) == sent(messages)
