"""What goes wrong with MQTT, on a server of our own: each fault is of the right kind of error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import Message, MessageBackend, MQTTBackend
from django_broadcaster.backends.mqtt import sender
from django_broadcaster.exceptions import (
    BackendUnavailable,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
from tests.support.batches import assert_first_times, kinds, left_of, numbers
from tests.support.mosquitto_server import (
    MosquittoServer,
    Subscriber,
    mosquitto_server,
    subscriber,
)
from tests.support.redis_server import free_port, missing
from tests.support.scripted_mqtt import Publish, ScriptedMQTT, disconnect, puback
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls_cases import CASES, host_of, tls_options
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

WAIT = 20.0  # seconds, at the most
DEEP = {"topic": "/".join("x" * 300)}  # Mosquitto ends the connection over so many levels

MakeBackend = Callable[..., MQTTBackend]


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends on this machine, which are closed at the end."""
    with ExitStack() as made:

        def make(server: Any = None, **options: Any) -> MQTTBackend:
            place = {"host": "127.0.0.1", "port": server.port} if server else {}
            defaults = {"topic": "t/x", "timeout": 5.0, **place}
            backend = MQTTBackend(alias="default", **{**defaults, **options})
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MosquittoServer]:
    """A private server with Mosquitto's own limits."""
    with mosquitto_server(tmp_path) as running:
        yield running


@pytest.fixture
def reader(server: MosquittoServer) -> Iterator[Subscriber]:
    """A subscriber to all that is published there."""
    with subscriber(server.address, "t") as running:
        yield running


def many_keys(count: int, keys: int = 10) -> list[Message]:
    """Messages of several keys in turn."""
    return [make_message(data=n, partition_key=f"key-{n % keys}") for n in range(count)]


def ids(reader: Subscriber) -> list[str]:
    """The event ids of all that arrived, in order."""
    return [str(each.event["id"]) for each in reader.read()]


# --- The contract ------------------------------------------------------------------------------


class TestFaults(BackendFaultContract):
    """Through a proxy, with a subscriber that is away while the server has its fault."""

    backend = MQTTBackend
    cases = {
        Fault.TOO_LARGE: ("max_packet_size", "message_size_limit"),
        Fault.MISSING: ("topic not permitted",),
        Fault.MISSING_FOR_ONE: ("topic not permitted",),
        Fault.CREDENTIALS: ("no login", "wrong password", "unknown user"),
        Fault.TLS: (*CASES, "server without TLS"),
    }
    restarts = 3

    @pytest.fixture(autouse=True)
    def _server(
        self, server: MosquittoServer, tmp_path: Path, request: pytest.FixtureRequest
    ) -> Iterator[None]:
        self.server, self.folder, self.request = server, tmp_path, request
        self.restart()
        with (
            subscriber(server.address, "t") as self.reader,
            TcpProxy(*server.address) as self.proxy,
        ):
            self.reader.disconnect()
            yield
            self.reader.connect()

    def restart(self, *config: str, writable: str = "t/x") -> None:
        """Start the server again, with further lines of configuration."""
        rules = f"pattern read t/#\npattern readwrite t/marker\npattern readwrite {writable}\n"
        (self.folder / "acl").write_text(rules)
        self.server.restart("\n".join(("acl_file {folder}/acl", *config)))

    def make_backend(self, **options: Any) -> MessageBackend:
        server = {"host": "127.0.0.1", "port": self.proxy.port}
        return MQTTBackend(**{"topic": "t/x", **server, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.reader.connect()
        arrived = [each.event for each in self.reader.read()]
        self.reader.disconnect()
        return arrived

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.end()
        yield
        self.server.start()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.frozen()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        self.restart(f"{case} 1000")
        yield 1000

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        yield self.new_backend(topic="t/forbidden")
        self.restart(writable="t/forbidden")

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"topic": "t/forbidden"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        program = shutil.which("mosquitto_passwd") or missing("the program mosquitto_passwd")
        file = self.folder / "passwords"
        words = [program, "-c", "-b", str(file), "me", "right"]
        subprocess.run(words, check=True, capture_output=True)
        self.server.restart(
            "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {folder}/passwords"
        )
        login = {
            None: {"username": "me", "password": "right"},
            "no login": {},
            "wrong password": {"username": "me", "password": self.secret},
            "unknown user": {"username": self.secret},
        }[case]
        yield self.new_backend(**login)
        self.restart()

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        plain = case == "server without TLS"
        server = self.server if plain else self.request.getfixturevalue("tls_server")
        yield self.new_backend(
            host=host_of(case),
            port=server.port,
            timeout=5.0 if case is None else 1.0,
            **tls_options(self.request.getfixturevalue("certificates"), case),
        )

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        self.restart("memory_limit 300000")
        yield self.new_backend()
        self.restart()


# --- The server is away ------------------------------------------------------------------------


def test_connection_that_the_server_closed_meanwhile_costs_nothing(
    make: MakeBackend, server: MosquittoServer
) -> None:
    """An idle backend whose server was restarted publishes as if nothing had been."""
    backend = make(server)
    assert backend.send_batch(numbers(1)) == [None]
    server.end()
    server.start()
    assert backend.send_batch(numbers(100, "key")) == [None] * 100


@pytest.mark.parametrize(("silent", "logins"), [(0.0, 1), (5.0, 1), (61.0, 2)])
def test_connection_that_was_silent_is_not_trusted(
    make: MakeBackend, silent: float, logins: int
) -> None:
    """It is asked after a second, and left when the server may have given it up."""
    with ScriptedMQTT(puback) as scripted:
        backend = make(scripted)
        assert backend.send_batch(numbers(1)) == [None]
        backend.connection()._last_word -= silent
        assert backend.send_batch(numbers(1)) == [None]
        assert (scripted.logins, scripted.pings) == (logins, silent == 5.0)


def test_child_process_does_not_share_the_connection(
    make: MakeBackend, server: MosquittoServer, reader: Subscriber
) -> None:
    """After a fork both sides publish, each over a connection of its own."""
    reader.disconnect()  # a process with threads should not be forked
    backend = make(server)
    parent, child = numbers(100, "parent"), numbers(100, "child")
    backend.send_batch(parent[:50])
    pid = os.fork()
    if pid == 0:
        os._exit(backend.send_batch(child) != [None] * 100)
    assert backend.send_batch(parent[50:]) == [None] * 50
    assert os.waitpid(pid, 0)[1] == 0
    reader.connect()
    assert_first_times(ids(reader), [*parent, *child])


# --- The server does not take a message --------------------------------------------------------


@pytest.mark.shows(Fault.TOO_LARGE)
def test_packet_of_exactly_the_servers_limit_is_taken(make: MakeBackend, tmp_path: Path) -> None:
    """The limit counts every byte of the packet."""
    message = make_message(data="x" * 1000)
    with mosquitto_server(tmp_path) as server:
        backend = make(server)
        size = backend.outgoing(message, backend.connection()).size
    for limit, kind in ((size, None), (size - 1, Rejected)):
        with mosquitto_server(tmp_path, f"max_packet_size {limit}") as server:
            assert kinds(make(server).send_batch([message])) == [kind]


ALLOWED = "topic readwrite t/#"


@pytest.mark.shows(Fault.MISSING)
def test_topic_that_one_event_asked_for_and_may_not_have_is_transient(
    make: MakeBackend, tmp_path: Path
) -> None:
    """The others are delivered at once, be it that the server hangs up behind each refusal."""
    (tmp_path / "acl").write_text(ALLOWED)
    messages = many_keys(100)
    for index in range(5, 100, 10):  # all of one key
        messages[index].config = {"topic": "forbidden"}
    with (
        mosquitto_server(tmp_path, "acl_file {folder}/acl") as server,
        subscriber(server.address, "t") as reader,
    ):
        outcomes = make(server).send_batch(messages)
        failed = left_of(messages, outcomes)
        assert {m.partition_key for m in failed} == {"key-5"}
        assert kinds([o for o in outcomes if o]) == [TransientError, *[Held] * 9]
        assert "'forbidden': the server did not take it: Not authorized" in str(outcomes[5])
        assert_first_times(ids(reader), [m for m in messages if m not in failed])


@pytest.mark.shows("order after a failure in a batch")
def test_message_over_which_the_server_hangs_up_is_rejected_alone(
    make: MakeBackend, server: MosquittoServer, reader: Subscriber
) -> None:
    """The one to blame is found among those on their way, and no key overtakes itself."""
    backend = make(server)
    assert backend.send_batch(numbers(1)) == [None]
    messages = many_keys(100)
    messages[33].config = DEEP
    outcomes = backend.send_batch(messages)
    failed = left_of(messages, outcomes)
    assert [m.event_id for m in failed] == [m.event_id for m in messages[33::10]]
    assert kinds([o for o in outcomes if o]) == [Rejected, *[Held] * 6]
    assert "Protocol error" in str(outcomes[33])
    assert_first_times(ids(reader)[1:], [m for m in messages if m not in failed])


def test_first_message_over_which_a_server_hangs_up_is_unavailable(
    make: MakeBackend, server: MosquittoServer
) -> None:
    """A server that has not taken any message yet may not be able to: nothing is rejected."""
    (message,) = numbers(1, config=DEEP)
    backend = make(server)
    assert kinds(backend.send_batch([message])) == [BackendUnavailable]
    assert kinds(backend.send_batch([message, *numbers(3)])) == [Rejected, None, None, None]


@pytest.mark.shows(Fault.FULL)
def test_full_queue_of_a_subscriber_is_not_ours_to_know(make: MakeBackend, tmp_path: Path) -> None:
    """Mosquitto acknowledges what it then drops for who reads too slowly, as the page says."""
    with (
        mosquitto_server(tmp_path, "max_queued_messages 5") as server,
        subscriber(server.address, "t") as reader,
    ):
        reader.disconnect()
        assert make(server).send_batch(numbers(50)) == [None] * 50
        reader.connect()
        wait_until(lambda: reader.arrived, WAIT, "what the server has kept")
        assert len(ids(reader)) < 50


# --- What a server says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "own", "templated"),
    [
        (0x00, None, None),
        (0x10, None, None),
        (0x80, TransientError, TransientError),
        (0x83, TransientError, TransientError),
        (0x87, BackendUnavailable, TransientError),
        (0x90, BackendUnavailable, Rejected),
        (0x95, Rejected, Rejected),
        (0x97, BackendUnavailable, BackendUnavailable),
        (0x99, Rejected, Rejected),
    ],
)
def test_reason_code_is_of_the_right_kind(
    make: MakeBackend, code: int, own: Any, templated: Any
) -> None:
    """A PUBACK's reason is the event's, or that of the one topic that all events go to."""
    with ScriptedMQTT(lambda publish: puback(publish, code)) as scripted:
        for topic, kind in (("t/x", own), ("{type}", templated)):
            backend = make(scripted, topic=topic)
            assert kinds(backend.send_batch(numbers(1))) == [kind]
            backend.close()


def test_acknowledgement_without_a_reason_is_success(make: MakeBackend) -> None:
    """A server may leave the reason code out of a PUBACK where all went well."""
    with ScriptedMQTT(lambda publish: b"\x40\x02" + publish.identifier) as scripted:
        assert make(scripted).send_batch(numbers(3, "key")) == [None] * 3


@pytest.mark.parametrize("code", [0x8B, 0x97, 0x93, 0x9B])
def test_disconnect_for_no_message_is_unavailable(make: MakeBackend, code: int) -> None:
    """A server that shuts down, or has enough of us, blames no event."""
    with ScriptedMQTT(lambda _: disconnect(code)) as scripted:
        backend = make(scripted)
        for _ in range(2):
            outcomes = backend.send_batch(numbers(3))
            assert kinds(outcomes) == [BackendUnavailable] * 3
        assert f"(0x{code:02X})" in str(outcomes[0])


def test_server_that_hangs_up_without_a_word_over_one_event(make: MakeBackend) -> None:
    """It goes last, others are delivered, and after the third time alone it is to blame."""

    def answer(publish: Publish) -> bytes | None:
        return None if b"poison" in publish.payload else puback(publish)

    poison = make_message(data="poison", partition_key="a")
    with ScriptedMQTT(answer) as scripted:
        backend = make(scripted)
        behind = numbers(2, "a")
        first = backend.send_batch([poison, *behind, *numbers(5)])
        assert kinds(first[:3]) == [BackendUnavailable] * 3
        for expected in [BackendUnavailable] * (sender.STRIKES - 1) + [TransientError]:
            held = BackendUnavailable if expected is BackendUnavailable else Held
            outcomes = backend.send_batch([poison, *behind, *numbers(5)])
            assert kinds(outcomes) == [expected, held, held, *[None] * 5]
        received = {json.loads(publish.payload)["id"] for publish in scripted.received}
        assert poison.event_id in received
        assert received.isdisjoint(message.event_id for message in behind)


def test_no_more_is_on_its_way_than_the_server_allows(make: MakeBackend) -> None:
    """The server's Receive Maximum is never exceeded, and made use of."""
    waiting: list[Publish] = []
    most = 0

    def answer(publish: Publish) -> bytes:
        nonlocal most
        waiting.append(publish)
        most = max(most, len(waiting))
        if len(waiting) < 7:
            return b""
        answers = b"".join(puback(each) for each in waiting)
        waiting.clear()
        return answers

    connack = b"\x20\x06\x00\x00\x03\x21\x00\x07"
    with ScriptedMQTT(answer, connack) as scripted:
        assert make(scripted).send_batch(numbers(70)) == [None] * 70
        assert most == 7


@pytest.mark.parametrize(
    ("properties", "retain", "problem"),
    [
        (b"\x24\x00", False, "takes no messages of QoS 1"),
        (b"\x25\x00", True, "retains no messages"),
    ],
)
def test_server_that_cannot_do_what_is_needed_is_unavailable(
    make: MakeBackend, properties: bytes, retain: bool, problem: str
) -> None:
    """A server that says at the login what it lacks is sent nothing."""
    connack = b"\x20\x05\x00\x00" + bytes((len(properties),)) + properties
    with ScriptedMQTT(puback, connack) as scripted:
        with pytest.raises(BackendUnavailable, match=problem):
            make(scripted, retain=retain).open()
        assert scripted.received == []


def test_event_to_retain_is_rejected_where_nothing_is_retained(
    make: MakeBackend, tmp_path: Path
) -> None:
    """Only the event that asks for it is refused."""
    with mosquitto_server(tmp_path, "retain_available false") as server:
        messages = [*numbers(1), *numbers(1, config={"retain": True}), *numbers(1)]
        assert kinds(make(server).send_batch(messages)) == [None, Rejected, None]


@pytest.mark.parametrize("connack", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x01"])
def test_server_that_does_not_speak_mqtt_5_is_unavailable(
    make: MakeBackend, connack: bytes
) -> None:
    """Silence, another protocol, or an older version of MQTT: no event is to blame."""
    with ScriptedMQTT(puback, connack) as scripted:
        backend = make(scripted, timeout=0.5)
        assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
        assert backend.health_check() is False


def test_answer_that_is_no_mqtt_is_unavailable(make: MakeBackend) -> None:
    """A server that talks nonsense behind its login is left."""
    with ScriptedMQTT(lambda _: b"\x40\xff\xff\xff\xff\xff") as scripted:
        outcomes = make(scripted).send_batch(numbers(2))
        assert kinds(outcomes) == [BackendUnavailable] * 2
        assert "does not speak MQTT" in str(outcomes[0])


# --- Who we are, and who the server is ---------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[MosquittoServer]:
    """A server that speaks TLS, and wants a client's certificate."""
    config = (
        "listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n"
        f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\n"
        f"keyfile {certificates}/server.key\n"
    )
    with mosquitto_server(tmp_path_factory.mktemp("tls"), config) as running:
        yield running


def client_files(folder: Path, ca: str = "ca") -> dict[str, Any]:
    """The dictionary that `tls` may be."""
    return {
        "ca_file": str(folder / f"{ca}.pem"),
        "cert_file": str(folder / "client.pem"),
        "key_file": str(folder / "client.key"),
    }


@pytest.mark.shows(Fault.TLS)
def test_tls_with_certificates_on_both_sides(
    make: MakeBackend, tls_server: MosquittoServer, certificates: Path
) -> None:
    """Messages large and small go over an encrypted connection, also to an unverified server."""
    files = client_files(certificates)
    messages = [*numbers(100), make_message(data="x" * 3_000_000), *numbers(50, "key")]
    unverified = {**files, "verify": False}
    for tls in (files, {**files, "check_hostname": False}, unverified):
        backend = make(tls_server, tls=tls)
        assert backend.send_batch(messages) == [None] * 151
        assert backend.health_check() is True


def test_nobody_listening_is_unavailable(make: MakeBackend) -> None:
    """A port without a server, and a name without a host."""
    for place in ({"host": "127.0.0.1", "port": free_port()}, {"host": "nowhere.invalid"}):
        backend = make(**place)
        with pytest.raises(BackendUnavailable):
            backend.open()
        assert backend.health_check() is False
