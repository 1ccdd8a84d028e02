"""The tool that finds and starts the servers of this suite."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.keeper import Keeper
from tools.launch import free_port
from tools.servers import SERVICES, probe

RUN_WITH_NEW_REDIS = (
    *(sys.executable, services.__file__, "run", "--fresh", "--only", "redis"),
    *("--", sys.executable, "-c"),
)


@pytest.mark.parametrize("name", SERVICES)
def test_a_dead_port_is_no_server(name: str) -> None:
    """A port where nothing listens is told from a server."""
    with pytest.raises(NoAnswer):
        probe(SERVICES[name], SERVICES[name].at(free_port()))


@pytest.mark.parametrize(
    ("name", "other"), [("postgres", "redis"), ("mariadb", "redis"), ("kafka", "redis")]
)
def test_another_protocol_is_no_server(name: str, other: str) -> None:
    """A server of another kind on the port does not pass for the one wanted."""
    with services.ensure([other], fresh=True) as env:
        url = env[SERVICES[other].variable]
        if not url:
            pytest.skip(f"no {other} can be started here")
        with pytest.raises(NoAnswer):
            probe(SERVICES[name], url)


def test_an_empty_address_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says that there is no server gets none, and an error if it is required."""
    monkeypatch.setenv("BROADCASTER_REDIS_URL", "")
    with services.ensure(["redis"], required=False) as env:
        assert env == {"BROADCASTER_REDIS_URL": ""}
    with pytest.raises(services.MissingServer, match="redis"):
        services.ensure(["redis"], required=True).__enter__()


def test_a_started_server_ends_with_the_command() -> None:
    """The command gets the address of a new server, its status is ours, and the server is gone."""
    command = "import os; print(os.environ['BROADCASTER_REDIS_URL']); raise SystemExit(7)"
    done = subprocess.run(
        [*RUN_WITH_NEW_REDIS, command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    with pytest.raises(NoAnswer):
        probe(SERVICES["redis"], done.stdout.split()[-1])


def test_sigterm_reaches_the_command_and_ends_the_server() -> None:
    """SIGTERM is passed on, and nothing that was started stays behind."""
    command = (
        "import os, time; print(os.environ['BROADCASTER_REDIS_URL'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [*RUN_WITH_NEW_REDIS, command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "true"},
    ) as runner:
        assert runner.stdout is not None
        lines = iter(runner.stdout.readline, "")
        url = next(line.strip() for line in lines if line.startswith("redis://"))
        assert probe(SERVICES["redis"], url)
        runner.send_signal(signal.SIGTERM)
        assert runner.wait() == 128 + signal.SIGTERM
    with pytest.raises(NoAnswer):
        probe(SERVICES["redis"], url)


def test_the_command_can_restart_a_server_that_was_started_for_it() -> None:
    """It is another process at the same address, has its data, and ends with the command."""
    command = """if True:
        import os, redis
        from tools.restarts import restart
        url = os.environ["BROADCASTER_REDIS_URL"]
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
            before = client.info("server")["run_id"]
            restart("redis")
            assert client.info("server")["run_id"] != before
            assert client.get("kept") == b"yes"
        print(url)
    """
    done = subprocess.run(
        [*RUN_WITH_NEW_REDIS, command],
        cwd=services.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "MISSING" in done.stdout and not services.in_ci():
        pytest.skip("no redis can be started here")
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(NoAnswer):
        probe(SERVICES["redis"], done.stdout.split()[-1])


class Left:
    """`services.py start` and `stop`, for a Redis at an address of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.place = ("--state", str(self.state))
        self.url = SERVICES["redis"].at(free_port())

    def run(self, action: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the tool to its end."""
        return subprocess.run(
            [sys.executable, services.__file__, action, *words],
            env={**os.environ, "BROADCASTER_REDIS_URL": self.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self) -> subprocess.CompletedProcess[str]:
        """Start the server, and leave it."""
        done = self.run("start", "--only", "redis", *self.place)
        if "MISSING" in done.stdout and not services.in_ci():
            pytest.skip("no redis can be started here")
        return done

    @property
    def identity(self) -> str:
        """What tells a server from another one at the same address."""
        with redis.Redis.from_url(self.url) as client:
            return str(client.info("server")["run_id"])


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    """A place to leave servers, which are ended behind the test."""
    left = Left(tmp_path)
    yield left
    left.run("stop", *left.place)


def test_servers_stay_where_they_are_looked_for(left: Left) -> None:
    """After `start` a server answers at its own address, and a later run uses it as it is."""
    done = left.start()
    assert done.returncode == 0, done.stdout
    assert "until" in done.stdout
    later = left.run("run", "--only", "redis", "--", sys.executable, "-c", "")
    assert "redis: using" in later.stdout
    assert left.run("stop", *left.place).returncode == 0
    with pytest.raises(NoAnswer):
        probe(SERVICES["redis"], left.url)


def test_a_second_start_leaves_what_runs(left: Left) -> None:
    """Servers that answer are not started anew: somebody may be working with them."""
    left.start()
    before = left.identity
    again = left.start()
    assert again.returncode == 0
    assert "they run already" in again.stdout
    assert left.identity == before


def test_a_server_that_died_is_started_again(left: Left) -> None:
    """A second `start` brings back what is missing."""
    left.start()
    before = left.identity
    with redis.Redis.from_url(left.url) as client:
        client.shutdown(nosave=True)
    assert left.start().returncode == 0
    assert left.identity != before


def test_servers_go_with_a_keeper_that_is_told_to_end(left: Left) -> None:
    """SIGTERM to the process in the background ends its servers, and `stop` has nothing to do."""
    left.start()
    os.kill(int((left.state / "pid").read_text()), signal.SIGTERM)
    wait_until(lambda: not Keeper(left.state).runs(), 60, "the end of the process")
    with pytest.raises(NoAnswer):
        probe(SERVICES["redis"], left.url)
    assert "none were started here" in left.run("stop", *left.place).stdout


def test_a_port_that_is_taken_is_named(left: Left) -> None:
    """Where something else listens no server is started elsewhere, for nobody would find it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", urlsplit(left.url).port))
        other.listen()
        done = left.run("start", "--only", "redis", "--from", "system,pypi", *left.place)
    assert f"port {urlsplit(left.url).port} is in use by something else" in done.stdout
    assert "redis: MISSING" in done.stdout
