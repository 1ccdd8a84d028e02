"""The Redis backend over TLS: one server, sentinels and a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from django_broadcaster.backends import RedisStreamBackend
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import Fault
from tests.support.batches import kinds, numbers
from tests.support.redis_server import RedisServer, free_port, redis_server, tls_arguments
from tests.support.waiting import wait_until

SECONDS = 30.0

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
def tls_port(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """The port where a private server speaks TLS, and wants a client's certificate."""
    port = free_port()
    with redis_server(tmp_path, "--tls-port", str(port), *tls_arguments(certificates)):
        yield port


def _options(certificates: Path) -> dict[str, Any]:
    """The `tls` of a backend that has a certificate."""
    return {
        "ca_file": str(certificates / "ca.pem"),
        "cert_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
    }


@pytest.mark.shows(Fault.TLS)
def test_tls(make: MakeBackend, tls_port: int, certificates: Path) -> None:
    """With the CA and a certificate of its own the backend delivers over TLS, by url or host."""
    options = _options(certificates)
    for backend in (
        make(host="127.0.0.1", port=tls_port, tls=options),
        make(url=f"rediss://127.0.0.1:{tls_port}", tls=options),
    ):
        assert backend.send_batch(numbers(3)) == [None] * 3
        assert backend.health_check() is True


def test_tls_without_verification(make: MakeBackend, tls_port: int, certificates: Path) -> None:
    """`verify` of False lets any server pass, whatever its name."""
    backend = make(
        host="localhost",
        port=tls_port,
        tls={
            "verify": False,
            "cert_file": str(certificates / "client.pem"),
            "key_file": str(certificates / "client.key"),
        },
    )
    assert backend.send_batch(numbers(2)) == [None] * 2


@pytest.mark.shows(Fault.TLS)
def test_sentinels_and_their_master_over_tls(
    make: MakeBackend, tmp_path: Path, certificates: Path
) -> None:
    """With `tls` both are spoken to over TLS, and nobody without it."""
    ports = free_port(), free_port()
    folders = tmp_path / "master", tmp_path / "sentinel"
    for folder in folders:
        folder.mkdir()
    tls = ["--tls-replication", "yes", *tls_arguments(certificates)]
    config = folders[1] / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {ports[0]} 1\n")
    with (
        redis_server(folders[0], "--tls-port", str(ports[0]), *tls),
        redis_server(
            folders[1], str(config), "--sentinel", "--tls-port", str(ports[1]), *tls
        ) as sentinel,
    ):
        wait_until(lambda: _sees_master(sentinel), SECONDS, "the sentinel sees the master")
        options = {
            "sentinels": [("127.0.0.1", ports[1])],
            "sentinel_master": "main",
            "socket_timeout": 2,
        }
        assert kinds(make(**options).send_batch(numbers(1))) == [BackendUnavailable]
        backend = make(**options, tls=_options(certificates))
        assert backend.send_batch(numbers(3)) == [None] * 3
        assert backend.health_check() is True


def _sees_master(sentinel: RedisServer) -> bool:
    """Whether the master has told the sentinel who it is."""
    return sentinel.command("SENTINEL", "MASTER", "main")["runid"] != ""


@pytest.mark.shows(Fault.TLS)
def test_cluster_over_tls(make: MakeBackend, tmp_path: Path, certificates: Path) -> None:
    """The nodes are asked for over TLS, and found where they speak it."""
    port, bus = free_port(), free_port()
    arguments = ["--tls-port", str(port), "--tls-cluster", "yes", *tls_arguments(certificates)]
    arguments += ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
    with redis_server(tmp_path, *arguments) as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(
            lambda: "cluster_state:ok" in node.raw("CLUSTER", "INFO"), SECONDS, "the cluster is up"
        )
        for address in (
            {"url": f"rediss://127.0.0.1:{port}"},
            {"host": "127.0.0.1", "port": port},
        ):
            backend = make(cluster=True, **address, tls=_options(certificates))
            assert backend.send_batch(numbers(3)) == [None] * 3
            assert backend.health_check() is True
