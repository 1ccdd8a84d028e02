"""The NATS backend and what goes wrong: the right kind of error, the order kept, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nkeys
import pytest

from django_broadcaster.backends import Message, NATSBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import make_message
from tests.support.batches import kinds, numbers
from tests.support.nats_server import (
    NatsServer,
    add_stream,
    count,
    delete_stream,
    nats_server,
    purge_stream,
    stored,
    update_stream,
)
from tests.support.scripted_nats import ScriptedNats
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

from .test_nats import MakeBackend, make

__all__ = ["make"]  # a fixture

WAIT = 20.0  # seconds, at the most
STREAM = "EVENTS"


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


# --- One event is to blame ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_payload", "max_msg_size", "max_bytes"])
def test_message_over_a_limit_of_the_server_is_rejected_alone(
    make: MakeBackend, server: NatsServer, limit: str
) -> None:
    """A limit of the server or the stream counts headers too, and costs one event only."""
    if limit != "max_payload":
        update_stream(server.url, STREAM, **{limit: 4000})
    bytes_allowed = 8192 if limit == "max_payload" else 4000
    backend = make(servers=server.url)
    backend.open()
    limit_less_headers = bytes_allowed - 100
    messages = [
        make_message(data="x" * limit_less_headers, partition_key="a"),
        *numbers(1, "a"),
        *numbers(2, "b"),
    ]
    assert len(messages[0].to_json()) > limit_less_headers
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [Rejected, Held, None, None]
    assert f"limit of {bytes_allowed}" in str(outcomes[0])
    assert ids(server.url) == sent(messages[2:])


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


def test_headers_over_the_servers_limit_are_rejected(make: MakeBackend, tmp_path: Path) -> None:
    """JetStream stores no more than 64 KB of headers, whatever the payload may be."""
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, content_mode="binary", create_stream=True)
        large = make_message(data=1, extensions={"note": "x" * 70_000}, partition_key="a")
        messages = [large, *numbers(1, "a"), *numbers(1, "b")]
        assert kinds(backend.send_batch(messages)) == [Rejected, Held, None]
        assert len(stored(server.url, STREAM)) == 1


def test_subject_that_the_stream_does_not_take_is_transient(
    make: MakeBackend, server: NatsServer
) -> None:
    """Neither a subject of nobody's nor one of another stream's stops others, or is overtaken."""
    add_stream(server.url, "OTHER", "other.>")
    backend = make(servers=server.url)
    messages = [
        *numbers(1, "a"),
        *numbers(1, "a", config={"subject": "nobody.x"}),
        *numbers(2, "a"),
        *numbers(1, "b", config={"subject": "other.x"}),
        *numbers(2, "b"),
        *numbers(2, "c"),
    ]
    outcomes = backend.send_batch(messages)
    delete_stream(server.url, "OTHER")
    assert (
        kinds(outcomes)
        == [None, TransientError, Held, Held, TransientError, Held, Held] + [None] * 2
    )
    assert "'nobody.x'" in str(outcomes[1])
    assert sorted(ids(server.url)) == sorted(sent([messages[0], *messages[7:]]))


def test_tampered_event_is_transient_and_holds_its_key(
    make: MakeBackend, server: NatsServer
) -> None:
    """A message that cannot be encoded fails alone, and not those before it."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [*numbers(2, "a"), broken, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(servers=server.url).send_batch(messages)
    assert kinds(outcomes) == [None, None, TransientError, Held, None]


def test_name_of_an_attribute_begins_no_header(make: MakeBackend, server: NatsServer) -> None:
    """A row that somebody wrote by hand cannot put more headers, or commands, on the wire."""
    broken = make_message(data=1)
    broken.extensions = {"a: b\r\nNats-Rollup": "all"}
    backend = make(servers=server.url, content_mode="binary")
    assert kinds(backend.send_batch([broken, *numbers(1)])) == [Rejected, None]
    assert len(stored(server.url, STREAM)) == 1


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


SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
NKEY = nkeys.from_seed(bytearray(SEED.encode())).public_key.decode()
OTHER_SEED = nkeys.encode_seed(bytes(range(1, 33)), nkeys.PREFIX_BYTE_USER).decode()


@pytest.mark.parametrize(
    ("config", "right", "wrong"),
    [
        (
            "authorization { user: app, password: correct }",
            {"username": "app", "password": "correct"},
            [
                {},
                {"username": "app", "password": "wrong"},
                {"username": "no", "password": "correct"},
            ],
        ),
        ("authorization { token: correct }", {"token": "correct"}, [{"token": "wrong"}]),
        (
            f"authorization {{ users = [ {{ nkey: {NKEY} }} ] }}",
            {"nkeys_seed_str": SEED},
            [
                {"nkeys_seed_str": OTHER_SEED},
                {"nkeys_seed_str": "no seed"},
                {"nkeys_seed": "/no/such/file"},
                {"user_credentials": "/no/such/file"},
            ],
        ),
    ],
    ids=["password", "token", "nkey"],
)
def test_wrong_credentials_are_unavailable(
    make: MakeBackend,
    tmp_path: Path,
    config: str,
    right: dict[str, str],
    wrong: list[dict[str, str]],
) -> None:
    """Wrong or missing credentials cost no event, and the error gives none away."""
    with nats_server(tmp_path, config) as server:
        for options in wrong:
            backend = make(servers=server.url, create_stream=True, **options)
            with pytest.raises(BackendUnavailable) as caught:
                backend.send(*numbers(1))
            assert not any(value in str(caught.value) for value in ("correct", "wrong", OTHER_SEED))
            assert backend.health_check() is False
        backend = make(servers=server.url, create_stream=True, **right)
        assert backend.health_check() is True
        assert backend.send_batch(numbers(2)) == [None, None]


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


def test_encrypted_connection(
    make: MakeBackend, tls_server: NatsServer, certificates: Path
) -> None:
    """With the right certificates events arrive."""
    backend = make(servers=tls_server.url, tls=context(certificates), create_stream=True)
    assert backend.send_batch(numbers(100, "a")) == [None] * 100
    assert backend.health_check() is True


@pytest.mark.parametrize("wrong", ["ca", "client", "nothing", "hostname", "plain"])
def test_wrong_tls_is_unavailable(
    make: MakeBackend, tls_server: NatsServer, certificates: Path, wrong: str
) -> None:
    """A certificate that does not fit, on either side, costs no event, and the check is False."""
    tls: dict[str, Any] = {
        "ca": {"tls": context(certificates, ca="other.pem")},
        "client": {"tls": context(certificates, client=False)},
        "nothing": {"tls": True},
        "hostname": {"tls": context(certificates), "tls_hostname": "nats.example"},
        "plain": {},
    }[wrong]
    backend = make(servers=tls_server.url, create_stream=True, **tls)
    with pytest.raises(BackendUnavailable):
        backend.send(*numbers(1))
    assert backend.health_check() is False


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


def test_stream_that_is_deleted_meanwhile_is_unavailable(
    make: MakeBackend, server: NatsServer
) -> None:
    """Nobody answers for a stream that is gone: nothing is spent until it is back."""
    backend = make(servers=server.url)
    backend.open()
    delete_stream(server.url, STREAM)
    messages = [*numbers(3, "a"), *numbers(3)]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [BackendUnavailable] * 6
    assert "no stream" in str(outcomes[0])
    add_stream(server.url, STREAM, "events.>")
    assert backend.send_batch(messages) == [None] * 6


def test_subject_that_is_taken_from_the_stream_is_unavailable(
    make: MakeBackend, server: NatsServer
) -> None:
    """Where all events go to one subject, none is to blame that the stream has it no more."""
    backend = make(servers=server.url, subject="events.all")
    backend.open()
    update_stream(server.url, STREAM, subjects=["events.some"])
    assert kinds(backend.send_batch(numbers(3, "a"))) == [BackendUnavailable] * 3


def test_server_without_jetstream_is_unavailable(make: MakeBackend) -> None:
    """A server that has no JetStream answers nothing, and costs no event."""
    with (
        ScriptedNats(lambda subject, body: b"NATS/1.0 503") as server,
        pytest.raises(BackendUnavailable, match="JetStream is not available"),
    ):
        make(servers=server.url).send(*numbers(1))


@pytest.mark.parametrize("full", ["max_bytes", "max_msgs"])
def test_full_stream_is_unavailable_and_keeps_the_order(
    make: MakeBackend, server: NatsServer, full: str
) -> None:
    """A stream that refuses new messages holds what was acknowledged and no more, in order."""
    limit = 20_000 if full == "max_bytes" else 50
    update_stream(server.url, STREAM, discard="new", **{full: limit})
    messages = [
        # Small ones between large ones: where those have no more room, these may have.
        make_message(data="x" * (2000 if number % 3 else 1), partition_key=f"key-{number % 5}")
        for number in range(100)
    ]
    backend = make(servers=server.url)
    outcomes = backend.send_batch(messages)
    found = ids(server.url)
    acknowledged = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is None]
    assert set(kinds(outcomes)) == {None, BackendUnavailable}
    assert "maximum" in str(next(filter(None, outcomes)))
    assert sorted(found) == sorted(sent(acknowledged))
    for key, stored_ids in order_of(found, messages).items():
        assert (
            stored_ids == sent([m for m in messages if m.partition_key == key])[: len(stored_ids)]
        )
    update_stream(server.url, STREAM, **{full: -1})
    assert backend.send_batch(messages) == [None] * 100
    for key, stored_ids in order_of(ids(server.url), messages).items():
        assert stored_ids == sent([m for m in messages if m.partition_key == key])


def test_full_storage_is_unavailable(make: MakeBackend, tmp_path: Path) -> None:
    """JetStream without storage left costs no event, and goes on when there is some again."""
    with nats_server(tmp_path, jetstream="max_file_store: 100000") as server:
        add_stream(server.url, STREAM, "events.>")
        backend = make(servers=server.url)
        acknowledged: list[Message] = []
        for _ in range(100):
            batch = [make_message(data="x" * 1000, partition_key="key") for _ in range(20)]
            outcomes = backend.send_batch(batch)
            acknowledged += [m for m, each in zip(batch, outcomes, strict=True) if each is None]
            if any(outcomes):
                break
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        assert "insufficient" in str(next(filter(None, outcomes)))
        assert ids(server.url) == sent(acknowledged) != []
        purge_stream(server.url, STREAM)
        wait_until(lambda: not any(backend.send_batch(batch)), WAIT, "there is room again")


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


@pytest.mark.chaos
@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_connection_cut_in_the_middle_of_a_batch(
    make: MakeBackend, server: NatsServer, part: float
) -> None:
    """What came through before the cut is there once, and what is sent again joins it in order."""
    messages = [make_message(data=n, partition_key=f"key-{n % 50}") for n in range(500)]
    size = sum(len(message.to_json()) for message in messages)
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(servers=f"nats://127.0.0.1:{proxy.port}")
        backend.open()
        proxy.cut_request_after = int(part * size)
        outcomes = backend.send_batch(messages)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        assert outcomes[-1] is not None
        acknowledged = [m for m, each in zip(messages, outcomes, strict=True) if each is None]
        assert set(sent(acknowledged)) <= set(ids(server.url))
        proxy.cut_request_after = None
        assert backend.send_batch(messages) == [None] * 500
    assert order_of(ids(server.url), messages) == order_of(sent(messages), messages)


@pytest.mark.chaos
@pytest.mark.parametrize("received", [0, 5, 2000])
def test_connection_cut_before_the_answers(
    make: MakeBackend, server: NatsServer, received: int
) -> None:
    """What is stored and whose answer was lost is unavailable; sent again, it is there once."""
    messages = [make_message(data=n, partition_key=f"key-{n % 50}") for n in range(100)]
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(servers=f"nats://127.0.0.1:{proxy.port}")
        backend.open()
        proxy.cut_reply_after = received
        outcomes = backend.send_batch(messages)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        acknowledged = [m for m, each in zip(messages, outcomes, strict=True) if each is None]
        wait_until(lambda: count(server.url, STREAM) > len(acknowledged), WAIT, "more is stored")
        proxy.cut_reply_after = None
        assert backend.send_batch(messages) == [None] * 100
    assert order_of(ids(server.url), messages) == order_of(sent(messages), messages)


@pytest.mark.chaos
def test_slow_server_is_unavailable_after_the_timeout(make: MakeBackend, tmp_path: Path) -> None:
    """The timeout ends the wait, and a late answer is not taken for that of the next batch."""
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, timeout=0.3, create_stream=True)
        backend.open()
        server.stop()
        started = time.monotonic()
        messages = [*numbers(5, "a"), *numbers(5)]
        assert outcomes_of(backend, messages) == [BackendUnavailable] * 10
        assert outcomes_of(backend, messages) == [BackendUnavailable] * 10
        assert backend.health_check() is False
        assert time.monotonic() - started < 8
        server.resume()
        wait_until(lambda: not any(outcomes_of(backend, messages)), WAIT, "the server is back")
        assert order_of(ids(server.url), messages) == order_of(sent(messages), messages)


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


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGALRM, SystemExit)]
)
def test_interrupted_batch_leaves_no_answers_behind(
    make: MakeBackend, tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    """Ctrl-C, or an exit in the middle of a batch, does not mix up its answers with later ones."""

    def leave(*_: object) -> None:
        raise SystemExit

    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, create_stream=True)
        backend.open()
        server.stop()
        previous = signal.signal(signal.SIGALRM, leave)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(error):
            backend.send_batch(numbers(3))
        timer.join()
        signal.signal(signal.SIGALRM, previous)
        server.resume()
        other = numbers(1, config={"subject": "nobody.x"})
        outcomes = backend.send_batch([*numbers(1), *other, *numbers(1)])
        assert kinds(outcomes) == [None, TransientError, None]


@pytest.mark.chaos
def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(
    make: MakeBackend, tmp_path: Path
) -> None:
    """SIGKILL and start, again and again: every event is there once, each key in order."""
    with nats_server(tmp_path) as server:
        backend = make(servers=server.url, timeout=2.0, create_stream=True)
        backend.open()
        killer = threading.Thread(target=_kill_and_start, args=(server, 3))
        killer.start()
        messages: list[Message] = []
        while killer.is_alive() or len(messages) < 1000:
            batch = [make_message(data=n, partition_key=f"key-{n % 10}") for n in range(50)]
            _insist(backend, batch)
            messages += batch
        killer.join()
        found = ids(server.url)
    assert order_of(found, messages) == order_of(sent(messages), messages)


def _kill_and_start(server: NatsServer, times: int) -> None:
    for _ in range(times):
        enough = count(server.url, STREAM) + 200
        wait_until(partial(_holds, server, enough), WAIT, "the server is under load")
        server.kill()
        server.start()


def _holds(server: NatsServer, enough: int) -> bool:
    return count(server.url, STREAM) >= enough


def _insist(backend: NATSBackend, batch: list[Message]) -> None:
    """Publish until all is acknowledged, as a relay does; only the server may fail."""
    deadline = time.monotonic() + 30
    while batch:
        assert time.monotonic() < deadline
        try:
            outcomes = backend.send_batch(batch)
        except BackendUnavailable:
            continue
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        batch = [m for m, outcome in zip(batch, outcomes, strict=True) if outcome is not None]
