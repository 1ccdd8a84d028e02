"""The tool that finds and starts the servers of this suite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tools import services
from tools.handshakes import NoAnswer
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


@pytest.mark.parametrize(("name", "other"), [("postgres", "redis"), ("mariadb", "redis")])
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
