"""What goes wrong with MQTT, on a server of our own: each fault is of the right kind of error."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import Message, MQTTBackend
from django_broadcaster.backends.mqtt import sender
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import make_message
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


# --- The server is away ------------------------------------------------------------------------


@pytest.mark.slow
def test_server_that_is_restarted_under_load_loses_nothing(
    make: MakeBackend, server: MosquittoServer
) -> None:
    """Whatever was acknowledged is there after several restarts, and each key in order."""
    with subscriber(server.address, "t") as reader:
        reader.disconnect()
        backend = make(server)
        messages = many_keys(6000)
        acknowledged: list[Message] = []
        failures: set[type[DeliveryError] | None] = set()
        done = threading.Event()

        def publish() -> None:
            left = messages
            while left and not done.is_set():
                batch, rest = left[:300], left[300:]
                outcomes = backend.send_batch(batch)
                failures.update(kinds(outcomes))
                still = left_of(batch, outcomes)
                acknowledged.extend(m for m in batch if m not in still)
                left = still + rest

        publishing = threading.Thread(target=publish)
        publishing.start()
        try:
            for number in (1000, 2500, 4000):
                wait_until(lambda n=number: len(acknowledged) > n, WAIT, f"{number} events")
                server.end()
                server.start()
            publishing.join(WAIT)
        finally:
            done.set()
            publishing.join()
        assert len(acknowledged) == len(messages)
        assert failures <= {None, BackendUnavailable}
        assert BackendUnavailable in failures
        reader.connect()
        assert_first_times(ids(reader), messages)


@pytest.mark.parametrize("direction", ["request", "reply"])
@pytest.mark.parametrize("after", [0, 1, 37, 3_000])
def test_connection_cut_in_a_batch_loses_nothing(
    make: MakeBackend, server: MosquittoServer, reader: Subscriber, direction: str, after: int
) -> None:
    """What was acknowledged has arrived, what was not is sent again, and each key is in order."""
    with TcpProxy(*server.address) as proxy:
        backend = make(proxy)
        backend.open()
        setattr(proxy, f"cut_{direction}_after", after // (10 if direction == "reply" else 1))
        messages = many_keys(200)
        outcomes = backend.send_batch(messages)
        left = left_of(messages, outcomes)
        assert left
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        proxy.cut_request_after = proxy.cut_reply_after = None
        stored = set(ids(reader))
        assert {m.event_id for m in messages if m not in left} <= stored
        assert backend.send_batch(left) == [None] * len(left)
        backend.close()
    arrived = ids(reader)
    assert_first_times(arrived, messages)
    assert len(arrived) - len(messages) <= 20, "more came twice than was on its way"


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


def test_server_that_hangs_is_unavailable_within_the_timeout(
    make: MakeBackend, server: MosquittoServer, reader: Subscriber
) -> None:
    """It takes no longer than told, before or behind the login, and goes on when it is back."""
    opened, fresh = make(server, timeout=1.0), make(server, timeout=1.0)
    opened.open()
    messages = numbers(50, "key")
    server.stop()
    try:
        for backend in (opened, fresh):
            started = time.monotonic()
            assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 50
            assert backend.health_check() is False
            assert time.monotonic() - started < 4.0
    finally:
        server.resume()
    assert fresh.send_batch(messages) == [None] * 50
    assert_first_times(ids(reader), messages)


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


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("max_packet_size 1000", "over the server's limit of 1000"),
        ("message_size_limit 1000", "Packet too large (0x95)"),
    ],
)
def test_message_over_the_servers_limit_is_rejected_alone(
    make: MakeBackend, tmp_path: Path, config: str, why: str
) -> None:
    """A server that takes less than `max_message_bytes` gets all other events, and those once."""
    messages = [
        *numbers(2, "a"),
        make_message(data="x" * 1000, partition_key="a"),
        *numbers(1, "a"),
        make_message(data="x" * 1000, partition_key="b"),
        *numbers(20),
    ]
    with (
        mosquitto_server(tmp_path, config) as server,
        subscriber(server.address, "t") as reader,
    ):
        outcomes = make(server).send_batch(messages)
        assert kinds(outcomes) == [None, None, Rejected, Held, Rejected, *[None] * 20]
        assert why in str(outcomes[2])
        stored = ids(reader)
    assert sorted(stored) == sorted(messages[index].event_id for index in (0, 1, *range(5, 25)))


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


def test_topic_of_the_backend_that_is_not_permitted_is_unavailable(
    make: MakeBackend, tmp_path: Path
) -> None:
    """Where every event would meet it, they all wait until it is put right."""
    (tmp_path / "acl").write_text(ALLOWED)
    with mosquitto_server(tmp_path, "acl_file {folder}/acl") as server:
        backend = make(server, topic="forbidden")
        for _ in range(2):
            assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
        (tmp_path / "acl").write_text("topic readwrite #")
        server.end()
        server.start()
        assert backend.send_batch(numbers(3)) == [None] * 3


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


def test_full_server_is_unavailable(make: MakeBackend, tmp_path: Path) -> None:
    """A server that is out of memory costs no event, and holds what it has acknowledged."""
    with (
        mosquitto_server(tmp_path, "memory_limit 500000") as server,
        subscriber(server.address, "t") as reader,
    ):
        reader.disconnect()
        backend = make(server)
        messages = [make_message(data="x" * 2000, partition_key=f"k{n % 50}") for n in range(500)]
        outcomes = backend.send_batch(messages)
        left = left_of(messages, outcomes)
        assert set(kinds(outcomes)) == {None, BackendUnavailable}
        acknowledged = {m.event_id for m in messages if m not in left}
        server.end()
        server.configure("")
        server.start()
        reader.connect()
        assert acknowledged <= set(ids(reader))
        assert backend.send_batch(left) == [None] * len(left)
        assert_first_times(ids(reader), messages)


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


def test_wrong_login_is_unavailable(make: MakeBackend, tmp_path: Path) -> None:
    """Credentials that are wrong or missing cost no event, and are in no error."""
    program = shutil.which("mosquitto_passwd") or missing("the program mosquitto_passwd")
    file = tmp_path / "passwords"
    subprocess.run([program, "-c", "-b", str(file), "me", "right"], check=True, capture_output=True)
    config = "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {folder}/passwords"
    with mosquitto_server(tmp_path, config) as server:
        for login in ({}, {"username": "me", "password": "secret"}, {"username": "secret"}):
            backend = make(server, **login)
            outcomes = backend.send_batch(numbers(2))
            assert kinds(outcomes) == [BackendUnavailable] * 2
            assert "Not authorized" in str(outcomes[0])
            assert "secret" not in f"{outcomes[0]}{outcomes[0].__cause__}"  # type: ignore[union-attr]
            assert backend.health_check() is False
        assert make(server, username="me", password="right").send_batch(numbers(2)) == [None] * 2


@pytest.fixture
def tls_server(tmp_path: Path, certificates: Path) -> Iterator[MosquittoServer]:
    """A server that speaks TLS, and wants a client's certificate."""
    config = (
        "listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n"
        f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\n"
        f"keyfile {certificates}/server.key\n"
    )
    with mosquitto_server(tmp_path, config) as running:
        yield running


def client_files(folder: Path, ca: str = "ca") -> dict[str, Any]:
    """The dictionary that `tls` may be."""
    return {
        "ca_file": str(folder / f"{ca}.pem"),
        "cert_file": str(folder / "client.pem"),
        "key_file": str(folder / "client.key"),
    }


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


def test_wrong_tls_is_unavailable(
    make: MakeBackend, tls_server: MosquittoServer, certificates: Path
) -> None:
    """Another CA, another name, no certificate, or none of TLS: no event is lost or sent."""
    files = client_files(certificates)
    wrong: list[dict[str, Any]] = [
        {"tls": client_files(certificates, "other")},
        {"tls": files, "host": "localhost"},
        {"tls": {"ca_file": files["ca_file"]}},
        {"tls": {**files, "ca_file": str(certificates / "none.pem")}},
        {"tls": True},
        {},
    ]
    for options in wrong:
        backend = make(tls_server, timeout=1.0, **options)
        assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2, options
        assert backend.health_check() is False


def test_tls_to_a_server_without_it_is_unavailable(
    make: MakeBackend, server: MosquittoServer
) -> None:
    """A server that does not encrypt costs no event."""
    backend = make(server, tls=True, timeout=1.0)
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2


def test_nobody_listening_is_unavailable(make: MakeBackend) -> None:
    """A port without a server, and a name without a host."""
    for place in ({"host": "127.0.0.1", "port": free_port()}, {"host": "nowhere.invalid"}):
        backend = make(**place)
        with pytest.raises(BackendUnavailable):
            backend.open()
        assert backend.health_check() is False


def test_server_that_accepts_and_says_nothing_is_unavailable(make: MakeBackend) -> None:
    """A connection without a login is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = make(host="127.0.0.1", port=listener.getsockname()[1], timeout=0.5)
        started = time.monotonic()
        assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
        assert time.monotonic() - started < 3.0
