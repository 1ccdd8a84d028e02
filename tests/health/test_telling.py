"""Who asks a relay how it is gets an answer: over HTTP, from a file, and systemd unasked."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command

from django_broadcaster.instrumentation import health_file
from django_broadcaster.instrumentation import http_server as server
from django_broadcaster.instrumentation.health_file import HealthFile
from django_broadcaster.instrumentation.reporter import reporting
from django_broadcaster.instrumentation.systemd import Systemd
from django_broadcaster.models import OutboxEvent
from django_broadcaster.relay.health import LIVE, Check, Health
from tests.support.events import publish
from tests.support.probes import Notified, probe
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers
from tools.launch import free_port

if TYPE_CHECKING:
    from pytest_django import Settings

SLOW = "tests.support.backends.SlowBackend"
HANGING = "tests.support.backends.HangingBackend"
DUMMY = {"default": {"BACKEND": "django_broadcaster.backends.DummyBackend"}}
WELL = Health((Check(name="loop", ok=True, detail="turning", concerns=LIVE, backend="default"),))
UNREADY = Health((Check(name="lease", ok=False, detail="not held", backend="default"),))
STALLED = Health(
    (Check(name="loop", ok=False, detail="delivering", concerns=LIVE, backend="default"),)
)


def hanging(folder: Path) -> dict[str, Any]:
    """Return OUTBOX_PUBLISHERS with a backend that hangs, and one that does not."""
    return {
        **DUMMY,
        "hangs": {"BACKEND": HANGING, "OPTIONS": {"folder": str(folder)}},
    }


def ask_file(path: Path, *arguments: str) -> tuple[int, str]:
    """Return the exit status of `outbox_health --file`, and what it printed."""
    out = io.StringIO()
    status: Any = 0
    try:
        call_command("outbox_health", "--file", str(path), *arguments, stdout=out)
    except SystemExit as end:
        status = end.code
    return status, out.getvalue()


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    """Stand in the place of systemd, for the processes that a test starts, too."""
    listening = Notified(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", listening.address)
    yield listening
    listening.close()


# Over HTTP


def test_probes_come_over_ipv4_and_over_ipv6() -> None:
    """A pod of a cluster that has IPv6 alone is probed by that."""
    port = free_port()
    families = [("127.0.0.1", socket.AF_INET)]
    families += [("::1", socket.AF_INET6)] if has_ipv6_loopback() else []
    with server.serving(port, server.site(lambda: WELL, lambda: WELL, None)):
        for address, family in families:
            with socket.socket(family) as client:
                client.settimeout(10)
                client.connect((address, port))
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 200 OK")


def has_ipv6_loopback() -> bool:
    """Whether this machine can speak IPv6 with itself."""
    try:
        with socket.socket(socket.AF_INET6) as candidate:
            candidate.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_one_request_at_a_time_asks_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can reach the port can't use up the database's connections; probes go on."""
    monkeypatch.setattr(server, "_TURN_SECONDS", 0.2)
    port, asking, may_end = free_port(), threading.Event(), threading.Event()

    def outbox() -> Health:
        asking.set()
        assert may_end.wait(30)
        return WELL

    app = server.site(lambda: WELL, outbox, lambda *_: pytest.fail("the metrics had no turn"))
    with server.serving(port, app), ThreadPoolExecutor(1) as pool:
        first = pool.submit(probe, port, "healthz")
        assert asking.wait(30)
        others = [probe(port, path) for path in ("healthz", "metrics", "livez")]
        may_end.set()
        assert first.result(30).status == 200
    assert [answer.status for answer in others] == [503, 503, 200]
    assert others[0].failing == {("database", None)}


@pytest.mark.parametrize(
    ("which", "silence", "longest"),
    [pytest.param(b"", 3, 60, id="silent"), pytest.param(b"G", 60, 3, id="dripping")],
)
def test_slow_clients_take_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    which: bytes,
    silence: float,
    longest: float,
) -> None:
    """The next one is turned away; those that are silent or slow for long are let go of."""
    monkeypatch.setattr(server, "_MOST", 3)
    monkeypatch.setattr(server._Handler, "timeout", silence)
    monkeypatch.setattr(server, "_LONGEST_SECONDS", longest)
    port = free_port()
    with server.serving(port, server.site(lambda: WELL, lambda: WELL, None)), ExitStack() as stack:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)

        def answer() -> int:
            for client in clients:
                with suppress(OSError):  # it has been let go
                    client.sendall(which)
            return probe(port, "livez").status

        wait_until(lambda: answer() == 0, 10, "a client to be turned away")
        wait_until(lambda: answer() == 200, 30, "the slow ones to be let go")
    assert capfd.readouterr().err == ""


def test_a_relay_listens_where_it_is_told_to() -> None:
    """Nobody on another interface reaches it."""
    port = free_port()
    with server.serving(port, server.site(lambda: WELL, lambda: WELL, None), "127.0.0.1"):
        assert probe(port, "livez").status == 200
        with socket.socket() as elsewhere:
            assert elsewhere.connect_ex(("127.0.0.2", port)) != 0


def test_a_relay_answers_probes(database: str, workers: Workers) -> None:
    """It is live, ready, and the outbox is well; a path that there is not is not found."""
    port = free_port()
    arguments = ("--database", database, "--health-port", str(port))
    worker = workers.start(database, *arguments, OUTBOX_PUBLISHERS=DUMMY)
    wait_until(lambda: probe(port, "healthz").status == 200, 30, "the outbox to be well")
    assert [probe(port, path).status for path in ("livez", "readyz", "metrics")] == [200, 200, 404]
    names = {check["name"] for check in probe(port, "healthz").checks}
    assert names >= {"pacemaker", "loop", "lease", "broker", "database", "relays", "lag"}
    assert {check["concerns"] for check in probe(port, "livez").checks} == {"live"}
    worker.stop()
    assert worker.end() == 0, worker.output


def test_a_stall_is_told_over_http(committing: None, workers: Workers, tmp_path: Path) -> None:
    """The backend that hangs is named, others are not, and a probe would restart the relay."""
    publish("a1", using="default")
    OutboxEvent.objects.using("default").update(publisher_backend="hangs")
    port = free_port()
    worker = workers.start(
        "default",
        *("--metrics-port", str(port)),
        OUTBOX_PUBLISHERS=hanging(tmp_path),
        OUTBOX_STALL_SECONDS=1,
        OUTBOX_SHUTDOWN_TIMEOUT=0.1,
    )
    wait_until(lambda: probe(port, "livez").status == 503, 30, "the stall to be told")
    assert probe(port, "livez").failing == {("loop", "hangs")}
    worker.stop()
    worker.end()


def test_late_events_make_the_outbox_unwell_and_restart_nobody(
    committing: None, workers: Workers, tmp_path: Path
) -> None:
    """/healthz says that events are late; /livez and /readyz are about the relay alone."""
    publish("a1", using="default")
    port = free_port()
    slow = {"BACKEND": SLOW, "OPTIONS": {"folder": str(tmp_path), "seconds": 60}}
    worker = workers.start(
        "default",
        *("--health-port", str(port)),
        OUTBOX_PUBLISHERS={"default": slow},
        OUTBOX_MAX_LAG_SECONDS=0.1,
    )
    wait_until(lambda: ("lag", "default") in probe(port, "healthz").failing, 30, "the lag")
    wait_until(lambda: probe(port, "readyz").status == 200, 30, "the relay to have joined")
    assert [probe(port, path).status for path in ("livez", "healthz")] == [200, 503]
    worker.kill()


# From a file


def test_the_file_says_how_its_relay_is(tmp_path: Path) -> None:
    """Status 0 if all is well, 1 if not; --live asks only whether a restart would help."""
    path = tmp_path / "health"
    file = HealthFile(path)
    file.report(WELL)
    assert ask_file(path)[0] == 0
    file.report(UNREADY)
    assert (ask_file(path)[0], ask_file(path, "--live")[0]) == (1, 0)
    file.report(STALLED)
    status, printed = ask_file(path, "--live")
    assert (status, printed.split()[:5]) == (1, ["check", "backend", "process", "ok", "detail"])
    assert json.loads(path.read_text())["live"] is False
    file.end()
    assert list(tmp_path.iterdir()) == []
    status, printed = ask_file(path)
    assert (status, "No such file" in printed) == (1, True)


def test_the_age_of_the_file_is_a_liveness_probe(tmp_path: Path) -> None:
    """Its modification time stands still while its relay is not live."""
    path = tmp_path / "health"
    file = HealthFile(path)
    file.report(UNREADY)
    live_at = path.stat().st_mtime
    assert abs(live_at - time.time()) < 10
    wait_until(lambda: time.time() > live_at + 0.01, 5, "time to go by")
    file.report(STALLED)
    assert path.stat().st_mtime == pytest.approx(live_at, abs=1e-3)
    file.report(WELL)
    assert path.stat().st_mtime > live_at


def test_what_a_frozen_process_wrote_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old file says that its process is frozen, whatever stands in it."""
    path = tmp_path / "health"
    HealthFile(path).report(WELL)
    monkeypatch.setattr(health_file, "STALE_SECONDS", -1.0)
    assert not health_file.read(path).is_live


@pytest.mark.parametrize(
    "text", ["", "[]", '{"written_at": 1}', '{"written_at": 1, "checks": [1]}']
)
def test_a_file_of_somebody_else_is_named(tmp_path: Path, text: str) -> None:
    """A path that leads elsewhere is a mistake of who asks: nobody knows, which is status 2."""
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(CommandError, match="not the health file of a relay") as caught:
        call_command("outbox_health", "--file", str(path))
    assert caught.value.returncode == 2


def test_a_file_that_can_not_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, others are told all the same, and it is written when that is possible."""
    folder = tmp_path / "later"
    file, told = HealthFile(folder / "health"), HealthFile(tmp_path / "told")
    with reporting(lambda: WELL, [file, told], 0.01):
        wait_until(lambda: "Could not write the health file" in caplog.text, 10, "the warning")
        wait_until((tmp_path / "told").exists, 10, "the other one")
        folder.mkdir()
        wait_until((folder / "health").exists, 10, "the file")
    assert caplog.text.count("Could not write the health file") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--health-file", "/nowhere/health"], "does not exist or is not writable"),
        (["--health-port", "busy"], "Could not start metrics or health checks"),
        (["--health-port", "0"], "must be a whole number from 1 to 65535"),
        (
            ["--health-port", "9462", "--listen", "nowhere.invalid"],
            "Could not start metrics or health checks",
        ),
        (["--listen", "127.0.0.1"], "--listen needs --metrics-port or --health-port"),
    ],
)
def test_what_can_not_be_had_is_said_at_the_start(
    committing: None, arguments: list[str], words: str
) -> None:
    """A relay that nobody could ask does not start."""
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = [port if word == "busy" else word for word in arguments]
        with pytest.raises(CommandError, match=words):
            call_command("outbox_worker", *arguments)


# Several processes


@pytest.mark.chaos
def test_several_processes_are_answered_for(
    committing: None, workers: Workers, tmp_path: Path
) -> None:
    """One port and one file for all: a process that is frozen is not live, a dead one not ready."""
    port, path = free_port(), tmp_path / "health"
    worker = workers.start(
        "default",
        *("--processes", "2"),
        *("--health-port", str(port), "--health-file", str(path)),
        OUTBOX_PUBLISHERS=DUMMY,
    )
    wait_until(lambda: probe(port, "readyz").status == 200, 30, "both to be ready")
    wait_until(lambda: ask_file(path)[0] == 0, 10, "the file to say so")
    ids = {c["process"] for c in probe(port, "livez").checks if "process" in c}
    assert len(ids) == 2
    frozen, dead = ids
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: probe(port, "livez").status == 503, 30, "the frozen one to be noticed")
    answer = probe(port, "livez")
    assert [c["process"] for c in answer.checks if not c["ok"]] == [frozen]
    wait_until(lambda: ask_file(path, "--live")[0] == 1, 10, "the file to say so")
    os.kill(frozen, signal.SIGCONT)
    wait_until(lambda: probe(port, "readyz").status == 200, 30, "it to be well again")
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: ("process", None) in probe(port, "readyz").failing, 30, "the death")
    assert probe(port, "livez").status == 200
    wait_until(lambda: probe(port, "readyz").status == 200, 30, "another to have started")
    worker.stop()
    assert worker.end() == 0, worker.output
    assert not path.exists()


@pytest.mark.chaos
def test_a_frozen_relay_is_noticed(committing: None, workers: Workers, tmp_path: Path) -> None:
    """SIGSTOP: no probe is answered in time, and its file is too old to be believed."""
    path = tmp_path / "health"
    arguments = ("--health-file", str(path))
    worker = workers.start("default", *arguments, OUTBOX_PUBLISHERS=DUMMY)
    wait_until(lambda: path.exists() and ask_file(path)[0] == 0, 30, "it to be well")
    worker.freeze()
    wait_until(lambda: ask_file(path, "--live")[0] == 1, 30, "the file to be too old")
    worker.thaw()
    wait_until(lambda: ask_file(path)[0] == 0, 30, "it to be well again")
    worker.stop()
    assert worker.end() == 0


# systemd


def start_under_systemd(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Worker:
    """Start a relay as systemd would, with a watchdog of 1.5 seconds."""
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    return workers.start("default", **settings)


def test_systemd_is_told_all_that_it_wants_to_know(
    committing: None, workers: Workers, notified: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY once, WATCHDOG again and again, STATUS as it changes, STOPPING at the end."""
    worker = start_under_systemd(workers, monkeypatch, OUTBOX_PUBLISHERS=DUMMY)
    wait_until(lambda: notified.count("WATCHDOG=1") >= 4, 30, "the watchdog to be fed")
    wait_until(lambda: notified.count("STATUS=delivering") == 1, 30, "it to be ready")
    worker.stop()
    assert worker.end() == 0
    words = notified.words()
    assert words[0] == "READY=1"
    assert words.count("READY=1") == 1
    assert words[-2:] == ["STOPPING=1", "STATUS=stopping"]


def test_a_stalled_relay_lets_the_watchdog_bark(
    committing: None,
    workers: Workers,
    notified: Notified,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a backend hangs for too long, WATCHDOG=1 comes no more, and STATUS says why."""
    publish("a1", using="default")
    OutboxEvent.objects.using("default").update(publisher_backend="hangs")
    settings = {"OUTBOX_STALL_SECONDS": 1, "OUTBOX_SHUTDOWN_TIMEOUT": 0.1}
    worker = start_under_systemd(
        workers, monkeypatch, OUTBOX_PUBLISHERS=hanging(tmp_path), **settings
    )

    def says_why() -> bool:
        return any("loop (backend hangs)" in word for word in notified.words())

    wait_until(says_why, 30, "the stall to be told")
    fed = notified.count("WATCHDOG=1")
    assert fed > 0
    ended = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > ended, 5, "the watchdog's time to be over")
    assert notified.count("WATCHDOG=1") == fed
    worker.kill()


def test_a_relay_is_ready_for_systemd_also_when_it_has_to_wait(notified: Notified) -> None:
    """A broker or a database that is away when the machine starts is no reason to give up."""
    told = Systemd(notified.address)
    told.report(UNREADY)
    assert notified.words()[:2] == ["READY=1", "WATCHDOG=1"]
    assert "STATUS=lease (backend default): not held" in notified.words()


def test_a_watchdog_of_another_process_is_not_ours(settings: Settings) -> None:
    """The variables of sd_notify(3): where they are, whom they are for, and what they are not."""
    mine = {"NOTIFY_SOCKET": "@name", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": f"{os.getpid()}"}
    told = Systemd.from_environment(mine)
    assert told is not None
    assert told.watchdog_seconds == 30
    other = Systemd.from_environment({**mine, "WATCHDOG_PID": "1"})
    assert other is not None
    assert other.watchdog_seconds == 0
    assert Systemd.from_environment({}) is None
    assert Systemd.from_environment({"NOTIFY_SOCKET": "vsock:2:9999"}) is None


def test_a_systemd_that_has_gone_stops_nothing(tmp_path: Path) -> None:
    """What it can't be told is forgotten."""
    Systemd(str(tmp_path / "gone")).report(WELL)
