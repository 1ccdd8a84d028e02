"""The Redis backend against real servers: what is in the stream, and what goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from django_broadcaster.backends import RedisStreamBackend
from django_broadcaster.backends.redis import backend as module
from django_broadcaster.backends.redis import connection
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    DeliveryError,
    Held,
    InvalidPublisherConfig,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.redis_server import (
    RedisServer,
    redis_server,
    shared_url,
)
from tests.support.scripted_server import Command, ScriptedRedis
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

WAIT = 20.0  # seconds, at the most

MakeBackend = Callable[..., RedisStreamBackend]


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> RedisStreamBackend:
            backend = RedisStreamBackend(alias="default", **options)
            made.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def stream() -> Iterator[str]:
    """The name of a stream that nobody else uses on the shared server."""
    name = f"test-{uuid4()}"
    yield name
    with redis.Redis.from_url(shared_url()) as client:
        client.delete(name, f"{name}-2")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A private server with default settings."""
    with redis_server(tmp_path) as running:
        yield running


def entries(url: str, stream: str) -> list[dict[str, str]]:
    """The fields of the stream's entries, in order."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return [fields for _, fields in client.xrange(stream)]


def ids(url: str, stream: str) -> list[str]:
    """The event ids in the stream, in order."""
    return [fields["event_id"] for fields in entries(url, stream)]


# --- What is in the stream ---------------------------------------------------------------------


def test_entry_has_exactly_the_documented_fields(make: MakeBackend, stream: str) -> None:
    """An entry's fields, their order and their values are those of the module's docstring."""
    message = make_message(
        id="id-1",
        event_type="order.placed",
        source="/shop/orders",
        time=datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC),
        data={"total": 1},
        partition_key="order-1",
    )
    make(url=shared_url(), stream_name=stream).send(message)
    (entry,) = entries(shared_url(), stream)
    assert list(entry.items()) == [
        ("event_id", "id-1"),
        ("event_type", "order.placed"),
        ("source", "/shop/orders"),
        ("timestamp", "2024-02-29T12:00:00.000005Z"),
        ("cloud_event", message.to_json().decode()),
    ]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, ""),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00Z"),
        (datetime(2024, 1, 1, 0, 0, 0, 120000), "2024-01-01T00:00:00.120000Z"),  # noqa: DTZ001
        (datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2023-12-31T22:00:00Z"),
        (datetime(2024, 1, 1, tzinfo=timezone(timedelta(0))), "2024-01-01T00:00:00Z"),
    ],
)
def test_timestamp_is_rfc_3339_in_utc(
    make: MakeBackend, stream: str, moment: datetime | None, text: str
) -> None:
    """`timestamp` is the time that `cloud_event` has, and empty where that has none."""
    message = make_message(data=1)
    message.time = moment
    make(url=shared_url(), stream_name=stream).send(message)
    (entry,) = entries(shared_url(), stream)
    assert entry["timestamp"] == text
    assert json.loads(entry["cloud_event"]).get("time", "") == text


def test_config_of_an_event_names_its_stream(make: MakeBackend, stream: str) -> None:
    """`publisher_config` sends an event to another stream than the backend's."""
    backend = make(url=shared_url(), stream_name=stream)
    here, there = numbers(1), numbers(1, config={"stream_name": f"{stream}-2"})
    assert backend.send_batch([*here, *there]) == [None, None]
    assert ids(shared_url(), stream) == [here[0].event_id]
    assert ids(shared_url(), f"{stream}-2") == [there[0].event_id]


@pytest.mark.shows("trimming")
def test_max_len_trims_the_stream(make: MakeBackend, stream: str) -> None:
    """A stream with `max_len` keeps about as many entries, the newest; None keeps all."""
    make(url=shared_url(), stream_name=stream, max_len=100).send_batch(numbers(1000))
    assert 100 <= len(entries(shared_url(), stream)) < 300
    untrimmed = numbers(1000, config={"stream_name": f"{stream}-2", "max_len": None})
    make(url=shared_url(), max_len=100).send_batch(untrimmed)
    assert len(entries(shared_url(), f"{stream}-2")) == 1000


def test_batch_is_one_transaction(make: MakeBackend, server: RedisServer) -> None:
    """The server sees one EXEC for a batch."""
    backend = make(url=server.url)
    backend.open()
    server.command("CONFIG", "RESETSTAT")
    assert backend.send_batch(numbers(500)) == [None] * 500
    statistics = server.command("INFO", "commandstats")
    assert statistics["cmdstat_exec"]["calls"] == statistics["cmdstat_multi"]["calls"] == 1
    assert statistics["cmdstat_xadd"]["calls"] == 500


def test_large_batch_is_split_and_stays_in_order(
    make: MakeBackend, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is too large for one transaction goes in several, and none of it is lost."""
    monkeypatch.setattr(module, "EXCHANGE_BYTES", 10_000)
    messages = numbers(500, "key")
    assert make(url=server.url).send_batch(messages) == [None] * 500
    assert ids(server.url, "events") == [message.event_id for message in messages]
    assert server.command("INFO", "commandstats")["cmdstat_exec"]["calls"] > 5


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": "redis://one", "host": "two"}, "'url'"),
        ({"url": "redis://one", "db": 1}, "'url'"),
        ({"url": "redis://me:secret@one", "password": "secret"}, "'url'"),
        ({"url": "http://one"}, "'url'"),
        ({"url": "redis://me:secret/x@one"}, "'url'"),
        ({"url": "redis://me:4/secret@one"}, "'url'"),
        ({"url": "redis://:4#secret@one"}, "'url'"),
        ({"url": "redis://:4?secret@one"}, "'url'"),
        ({"url": "redis://[::1"}, "'url'"),
        ({"url": "redis://one", "tls": True}, "'url'"),
        ({"stream_name": ""}, "'stream_name'"),
        ({"stream_name": 1}, "'stream_name'"),
        ({"max_len": 0}, "'max_len'"),
        ({"max_len": "100"}, "'max_len'"),
        ({"max_len": True}, "'max_len'"),
        ({"tls": {"verify": "maybe"}}, "'tls'"),
        ({"tls": {"ssl_ca_certs": "ca.pem"}}, "'tls'"),
        ({"wait_replicas": -1}, "'wait_replicas'"),
        ({"wait_replicas": True}, "'wait_replicas'"),
        ({"sentinels": [("one", 1)]}, "'sentinel_master'"),
        ({"sentinels": ["one:1"], "sentinel_master": "main"}, "'sentinels'"),
        ({"sentinels": [("one", 0)], "sentinel_master": "main"}, "'sentinels'"),
        ({"sentinels": [("one", 1)], "sentinel_master": "main", "host": "two"}, "'sentinels'"),
        ({"sentinels": [("one", 1)], "sentinel_master": "m", "url": "redis://x"}, "'sentinels'"),
        ({"sentinels": [("one", 1)], "sentinel_master": "main", "cluster": True}, "'sentinels'"),
        ({"sentinel_master": "main"}, "'sentinel_master'"),
        ({"sentinel_password": "secret"}, "'sentinel_password'"),
        ({"cluster": "yes"}, "'cluster'"),
        ({"cluster": True, "db": 1}, "'db'"),
        ({"cluster": True, "url": "redis://one/1"}, "'url'"),
        ({"cluster": True, "url": "unix:///one"}, "'url'"),
        ({"startup_nodes": [("one", 1)]}, "'startup_nodes'"),
        ({"url": "rediss://one", "tls": {"key_file": "key.pem"}}, "'tls'"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong option is an error that names it and the alias, and repeats no password."""
    with pytest.raises(BackendConfigurationError) as caught:
        RedisStreamBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS'][{named}]" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"stream_name": ""},
        {"stream_name": None},
        {"stream_name": "\ud800"},
        {"max_len": -1},
        {"max_len": 1.5},
        {"max_len": 2**63},
    ],
)
def test_wrong_config_of_an_event_is_named(make: MakeBackend, config: dict[str, Any]) -> None:
    """A value of `publisher_config` that cannot work is refused with its key."""
    (key,) = config
    with pytest.raises(InvalidPublisherConfig, match=f"'{key}'") as caught:
        make().validate_config(config)
    assert caught.value.backend == "default"


def test_unix_socket(make: MakeBackend, tmp_path: Path) -> None:
    """A unix:// URL reaches a server by its socket file."""
    path = tmp_path / "redis.sock"
    with redis_server(tmp_path, "--unixsocket", str(path)) as server:
        backend = make(url=f"unix://{path}")
        assert backend.send_batch(numbers(3)) == [None] * 3
        assert len(ids(server.url, "events")) == 3


def test_useless_option_in_the_url_is_unavailable(make: MakeBackend) -> None:
    """What redis-py makes nothing of costs no event, and tells where it is wrong."""
    for query in ("no_such_option=1", "socket_timeout=soon"):
        backend = make(url=f"{shared_url()}?{query}")
        assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
        assert backend.health_check() is False


# --- One event is to blame ---------------------------------------------------------------------


@pytest.mark.shows(Fault.MISSING)
def test_key_that_is_no_stream_is_rejected(make: MakeBackend, server: RedisServer) -> None:
    """WRONGTYPE is rejected and names the stream, and the other streams get their events."""
    server.command("SET", "wrong", "x")
    wrong = {"stream_name": "wrong"}
    messages = [
        make_message(data=1, partition_key="a"),
        make_message(data=2, partition_key="b", config=wrong),
        make_message(data=3, partition_key="b", config=wrong),
        make_message(data=4, config=wrong),
        make_message(data=5, config=wrong),
        make_message(data=6, partition_key="a"),
    ]
    outcomes = make(url=server.url).send_batch(messages)
    assert kinds(outcomes) == [None, Rejected, Held, Rejected, Rejected, None]
    assert "'wrong'" in str(outcomes[1])
    assert isinstance(outcomes[1].__cause__, redis.ResponseError)  # type: ignore[union-attr]
    assert ids(server.url, "events") == [messages[0].event_id, messages[5].event_id]


def test_event_that_is_a_protocol_error_is_rejected_alone(make: MakeBackend) -> None:
    """Where the server's limit is not known, its protocol error finds the event that is over it."""
    large = make_message(data="x" * 10_000, partition_key="a")
    stored: list[Command] = []
    queued: list[Command] = []

    def answer(command: Command) -> bytes | None:
        if command[0] == b"MULTI":
            queued.clear()
        elif command[0] == b"XADD":
            if len(command[-1]) > 10_000:
                queued.append([])  # a real server reads no further
                return b"-ERR Protocol error: invalid bulk length\r\n"
            queued.append(command)
        elif command[0] == b"EXEC" and [] not in queued:
            stored.extend(queued)
            return b"*%d\r\n" % len(queued) + b"+1-1\r\n" * len(queued)
        elif command[0] == b"CONFIG":
            return b"-NOPERM User app has no permissions to run the 'config|get' command\r\n"
        return None

    messages = [*numbers(1, "a"), large, *numbers(1, "a"), *numbers(2, "b")]
    with ScriptedRedis(answer) as server:
        backend = make(host="127.0.0.1", port=server.port)
        assert kinds(backend.send_batch(messages)) == [None, Rejected, Held, None, None]
    sent = [command[command.index(b"event_id") + 1].decode() for command in stored]
    assert sent == [messages[index].event_id for index in (0, 3, 4)]


def test_tampered_event_is_transient_and_holds_its_key(make: MakeBackend, stream: str) -> None:
    """A message that cannot be encoded fails alone."""
    broken = make_message(data=1, partition_key="a")
    broken.extensions = {"bad": object()}
    messages = [broken, *numbers(1, "a"), *numbers(1, "b")]
    outcomes = make(url=shared_url(), stream_name=stream).send_batch(messages)
    assert kinds(outcomes) == [TransientError, Held, None]


@pytest.mark.shows(Fault.CREDENTIALS)
def test_stream_without_permission_that_one_event_asked_for_is_transient(
    make: MakeBackend, server: RedisServer
) -> None:
    """NOPERM for a stream of an event's own stops no other event; nothing is sent twice."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~events", "+@all")
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    messages = [
        *numbers(2, "a"),
        make_message(data=1, partition_key="a", config={"stream_name": "private"}),
        *numbers(2, "a"),
        *numbers(2, "b"),
    ]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [None, None, TransientError, Held, Held, None, None]
    sent = [each.event_id for each, outcome in zip(messages, outcomes, strict=True) if not outcome]
    assert sorted(ids(server.url, "events")) == sorted(sent)


# --- The server is to blame --------------------------------------------------------------------


@pytest.mark.shows(Fault.CREDENTIALS)
def test_stream_of_the_backend_without_permission_is_unavailable(
    make: MakeBackend, server: RedisServer
) -> None:
    """NOPERM for the backend's own stream costs no event, and passes once it is granted."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~others", "+@all")
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
    server.command("ACL", "SETUSER", "app", "~events")
    assert backend.send_batch(numbers(3)) == [None] * 3


@pytest.mark.parametrize("denied", ["-xadd", "-multi", "-exec"])
def test_command_without_permission_is_unavailable(
    make: MakeBackend, server: RedisServer, denied: str
) -> None:
    """A user that lacks a command that every event needs costs no event, and nothing is stored."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", denied)
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    for messages in (numbers(2), numbers(2, config={"stream_name": "other"})):
        assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 2
    assert server.command("EXISTS", "events", "other") == 0


def test_user_with_no_more_than_the_documented_permissions(
    make: MakeBackend, server: RedisServer
) -> None:
    """XADD, MULTI and EXEC on the stream are all that a user needs; its health check is True."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~events", "+xadd", "+multi", "+exec")
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    backend.open()
    assert backend.health_check() is True
    assert backend.send_batch(numbers(3)) == [None] * 3
    assert len(ids(server.url, "events")) == 3


def test_permission_for_transactions_that_is_taken_away_doubles_nothing(
    make: MakeBackend, server: RedisServer
) -> None:
    """Commands that ran although MULTI was refused count as what they are: stored."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all")
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    backend.open()
    server.command("ACL", "SETUSER", "app", "-multi")
    assert backend.send_batch(numbers(3)) == [None] * 3
    assert len(ids(server.url, "events")) == 3


def test_permission_to_finish_that_is_taken_away_doubles_nothing(
    make: MakeBackend, server: RedisServer
) -> None:
    """A transaction that could not be executed is gone, and not carried out with the next one."""
    server.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all")
    backend = make(host="127.0.0.1", port=server.port, username="app", password="secret")
    backend.open()
    server.command("ACL", "SETUSER", "app", "-exec")
    messages = numbers(3, "key")
    assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 3
    server.command("ACL", "SETUSER", "app", "+exec")
    assert backend.send_batch(messages) == [None] * 3
    assert ids(server.url, "events") == [message.event_id for message in messages]


def test_error_names_the_server_without_its_password(make: MakeBackend) -> None:
    """The error says which server is away, and gives no credentials away."""
    backend = make(url="redis://me:secret@127.0.0.1:1/3?password=secret")
    with pytest.raises(BackendUnavailable, match=r"redis://127\.0\.0\.1:1/3") as caught:
        backend.send(make_message())
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


@pytest.mark.shows(Fault.FULL)
def test_full_server_takes_all_of_a_batch_or_nothing(make: MakeBackend, tmp_path: Path) -> None:
    """OOM is unavailable for the whole batch, stores none of it, and passes with the memory."""
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server:
        backend = make(url=server.url)
        backend.open()
        server.command("CONFIG", "SET", "maxmemory", 1)
        messages = [*numbers(50, "a"), *numbers(50, config={"stream_name": "other"})]
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == [BackendUnavailable] * 100
        assert "OOM" in str(outcomes[0])
        assert server.command("EXISTS", "events", "other") == 0
        server.command("CONFIG", "SET", "maxmemory", 0)
        assert backend.send_batch(messages) == [None] * 100
        assert server.command("XLEN", "events") == 50


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        ([("CONFIG", "SET", "min-replicas-to-write", "1")], "NOREPLICAS"),
        ([("REPLICAOF", "127.0.0.1", "1")], "READONLY"),
        (
            [
                ("CONFIG", "SET", "replica-read-only", "no"),
                ("CONFIG", "SET", "replica-serve-stale-data", "no"),
                ("REPLICAOF", "127.0.0.1", "1"),
            ],
            "MASTERDOWN",
        ),
    ],
)
def test_server_that_refuses_writes_is_unavailable(
    make: MakeBackend, server: RedisServer, commands: list[tuple[str, ...]], code: str
) -> None:
    """A replica, or a server without its replicas, costs no event and stores nothing."""
    backend = make(url=server.url)
    backend.open()
    for command in commands:
        server.command(*command)
    outcomes = backend.send_batch([*numbers(2), *numbers(1, config={"stream_name": "other"})])
    assert kinds(outcomes) == [BackendUnavailable] * 3
    assert code in str(outcomes[0])
    server.command("REPLICAOF", "NO", "ONE")
    server.command("CONFIG", "SET", "min-replicas-to-write", "0")
    assert server.command("EXISTS", "events", "other") == 0
    assert backend.send_batch(numbers(2)) == [None, None]


def test_server_that_cannot_persist_is_unavailable(make: MakeBackend, tmp_path: Path) -> None:
    """MISCONF, after a snapshot that failed, costs no event and stores nothing."""
    with redis_server(tmp_path, "--dbfilename", "folder") as server:
        backend = make(url=server.url)
        backend.open()
        server.command("SET", "something", "to save")
        (tmp_path / "folder").mkdir()
        server.command("CONFIG", "SET", "save", "3600 1")
        server.command("BGSAVE")
        wait_until(
            lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err",
            WAIT,
            "the snapshot has failed",
        )
        outcomes = backend.send_batch(numbers(2))
        assert kinds(outcomes) == [BackendUnavailable] * 2
        assert "MISCONF" in str(outcomes[0])
        assert server.command("EXISTS", "events") == 0


@pytest.mark.parametrize(
    ("reply", "own", "foreign"),
    [
        ("LOADING Redis is loading the dataset in memory", BackendUnavailable, BackendUnavailable),
        ("BUSY Redis is busy running a script", BackendUnavailable, BackendUnavailable),
        ("CLUSTERDOWN The cluster is down", BackendUnavailable, BackendUnavailable),
        ("ERR unknown command 'XADD'", BackendUnavailable, BackendUnavailable),
        ("MOVED 3999 127.0.0.1:6381", BackendUnavailable, TransientError),
        ("ASK 3999 127.0.0.1:6381", BackendUnavailable, TransientError),
        ("ERR something new", TransientError, TransientError),
        ("STRANGE something new", TransientError, TransientError),
    ],
)
def test_kind_of_each_error(
    make: MakeBackend, reply: str, own: type[DeliveryError], foreign: type[DeliveryError]
) -> None:
    """What Redis may answer to XADD, for the backend's stream and for one of an event's own."""
    with scripted(xadd=f"-{reply}", execute="-EXECABORT because of previous errors.") as server:
        backend = make(host="127.0.0.1", port=server.port)
        assert kinds(backend.send_batch(numbers(1))) == [own]
        other = numbers(1, config={"stream_name": "other"})
        assert kinds(backend.send_batch(other)) == [foreign]


@pytest.mark.parametrize(
    "reply",
    [
        "-EXECABORT Transaction discarded because of: OOM command not allowed",
        "-EXECABORT Transaction discarded because of: ERR something new",
        "-NOPERM User app has no permissions to run the 'exec' command",
        "$-1",
        "HTTP/1.1 400 Bad Request",
    ],
)
def test_transaction_that_is_refused_as_a_whole_is_unavailable(
    make: MakeBackend, reply: str
) -> None:
    """When EXEC fails and no XADD is to blame, no event is."""
    with scripted(xadd="+QUEUED", execute=reply) as server:
        backend = make(host="127.0.0.1", port=server.port)
        assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3


@contextmanager
def scripted(*, xadd: str, execute: str) -> Iterator[ScriptedRedis]:
    """A server that answers so to XADD, and to an EXEC behind an XADD."""
    queued = []

    def answer(command: Command) -> bytes | None:
        if command[0] == b"XADD":
            queued.append(command)
            return f"{xadd}\r\n".encode()
        if command[0] == b"EXEC":
            return f"{execute}\r\n".encode() if queued else b"*0\r\n"
        return None

    with ScriptedRedis(answer) as server:
        yield server


# --- Cut off, slow, killed ---------------------------------------------------------------------


@pytest.mark.shows(Fault.CUT)
@pytest.mark.chaos
def test_connection_cut_between_the_transactions_of_a_batch(
    make: MakeBackend, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged stays so, and nothing is sent after the transaction that was cut."""
    monkeypatch.setattr(module, "EXCHANGE_BYTES", 10_000)
    messages = numbers(100, "key")
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(host="127.0.0.1", port=proxy.port)
        backend.open()
        proxy.cut_request_after = 25_000
        outcomes = backend.send_batch(messages)
    stored = ids(server.url, "events")
    assert 0 < len(stored) < 100
    assert stored == [message.event_id for message in messages[: len(stored)]]
    assert kinds(outcomes) == [None] * len(stored) + [BackendUnavailable] * (100 - len(stored))


@pytest.mark.chaos
def test_batch_without_an_answer_is_sent_once(make: MakeBackend) -> None:
    """Neither the backend nor redis-py sends again what may have been carried out."""
    answered = []

    def answer(command: Command) -> bytes | None:
        if command[0] != b"EXEC":
            return None
        answered.append(command)
        return b"*0\r\n" if len(answered) == 1 else b"*3\r\n"  # of which no element comes

    with ScriptedRedis(answer) as server:
        backend = make(host="127.0.0.1", port=server.port, socket_timeout=0.3)
        assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3
        sent = [command[0] for command in server.commands if command[0] in (b"XADD", b"EXEC")]
    assert sent == [b"EXEC", b"XADD", b"XADD", b"XADD", b"EXEC"]


@pytest.mark.chaos
def test_interrupt_between_sending_and_reading_leaves_no_answers_behind(
    make: MakeBackend, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the interrupt comes outside of redis-py, the connection is not used again."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    backend = make(url=server.url)
    backend.open()
    server.command("SET", "wrong", "x")
    server.stop()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            backend.send_batch(numbers(3))
    server.resume()
    wait_until(partial(_clients, server, 1), WAIT, "the backend has disconnected")
    wrong = {"stream_name": "wrong"}
    outcomes = backend.send_batch([*numbers(1), *numbers(1, config=wrong), *numbers(1)])
    assert kinds(outcomes) == [None, Rejected, None]


def _clients(server: RedisServer, count: int) -> bool:
    """Whether so many clients are connected, the one who asks included."""
    return bool(server.command("INFO", "clients")["connected_clients"] == count)


def test_command_that_was_only_queued_is_not_acknowledged(make: MakeBackend) -> None:
    """A MULTI that is refused because one is open already acknowledges nothing."""
    opened: list[Command] = []

    def answer(command: Command) -> bytes | None:
        if command[0] == b"MULTI" and opened:
            return b"-ERR MULTI calls can not be nested\r\n"
        if command[0] == b"XADD":
            return b"+QUEUED\r\n"
        if command[0] == b"EXEC" and opened:
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        if command[0] == b"EXEC":
            opened.append(command)
            return b"*0\r\n"
        return None

    with ScriptedRedis(answer) as server:
        backend = make(host="127.0.0.1", port=server.port)
        assert kinds(backend.send_batch(numbers(3))) == [BackendUnavailable] * 3


def test_child_process_does_not_share_the_connection(make: MakeBackend, stream: str) -> None:
    """After a fork both sides publish, each over a connection of its own."""
    backend = make(url=shared_url(), stream_name=stream)
    parent, child = numbers(100), numbers(100)
    backend.send_batch(parent[:50])
    pid = os.fork()
    if pid == 0:
        os._exit(backend.send_batch(child) != [None] * 100)
    assert backend.send_batch(parent[50:]) == [None] * 50
    assert os.waitpid(pid, 0)[1] == 0
    stored = ids(shared_url(), stream)
    for messages in (parent, child):
        mine = {message.event_id for message in messages}
        assert [each for each in stored if each in mine] == [m.event_id for m in messages]
