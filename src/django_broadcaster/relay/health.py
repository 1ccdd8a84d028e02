"""The health of a relay, computed without I/O from what its threads report.

Two questions are kept apart, as Kubernetes does. *Live*: would a restart help? It would if a thread
crashed or hangs. It would not if the broker or the database is unavailable: the relay waits for
them, and a restart only interrupts the other backends. *Ready*: does the relay deliver? It does not
before it holds its leases, nor while a broker is unavailable.

Neither depends on the backlog. A restart of a busy relay would only make its backlog longer. The
lag is judged for the outbox as a whole, by `instrumentation.health`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

LIVE = "live"
READY = "ready"


class Activity:
    """A thread's present task and since when; written by that thread, read by others.

    Both are one value, which is replaced as a whole.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[str, float] = ("starting", clock())

    @property
    def doing(self) -> str:
        """The thread's present task, in a word or two."""
        return self._now[0]

    @property
    def silence(self) -> float:
        """Seconds without progress; pauses that were announced do not count."""
        return max(0.0, self._clock() - self._now[1])

    def begin(self, doing: str, *, pause: float = 0.0) -> None:
        """Begin a task, or a pause of `pause` seconds, in which no progress is expected."""
        self._now = (doing, self._clock() + pause)

    def go_on(self) -> None:
        """Show progress in the middle of a long task."""
        self._now = (self._now[0], self._clock())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """The state of one backend's loop.

    `silence` are the seconds without progress, `lease_left` the seconds until the lease expires
    without another heartbeat, and `last_error` is the class of the error that ended the last turn.
    """

    backend: str
    doing: str
    silence: float
    has_died: bool
    has_ended: bool
    lease_left: float
    circuit_is_closed: bool
    is_paused: bool
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverState:
    """The state of one consumer's receiver.

    `silence` are the seconds without progress, `lease_left` the seconds until the lease expires
    without another heartbeat, `error` is why the broker can't be read, and `lag` the messages that
    wait there, None if it can't say.
    """

    consumer: str
    doing: str
    silence: float
    has_died: bool
    has_ended: bool
    lease_left: float
    error: str
    lag: int | None
    lag_grows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayState:
    """The state of a worker's process; `pacemaker_silence` in seconds."""

    process: int
    is_stopping: bool
    pacemaker_has_died: bool
    pacemaker_silence: float
    loops: tuple[LoopState, ...]
    receivers: tuple[ReceiverState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `concerns` is LIVE or READY; `detail` contains nothing of a payload."""

    name: str
    ok: bool
    detail: str
    concerns: str = READY
    backend: str | None = None
    consumer: str | None = None
    process: int | None = None

    @property
    def subject(self) -> str:
        """The name with the backend or consumer and the process, for a line of text."""
        about = [f"{name} {value}" for name, value in self._about.items()]
        return f"{self.name} ({', '.join(about)})" if about else self.name

    def as_dict(self) -> dict[str, Any]:
        """Return the check for JSON, without a backend, consumer or process if it has none."""
        return {
            "name": self.name,
            **self._about,
            "concerns": self.concerns,
            "ok": self.ok,
            "detail": self.detail,
        }

    @property
    def _about(self) -> dict[str, Any]:
        about = {"backend": self.backend, "consumer": self.consumer, "process": self.process}
        return {name: value for name, value in about.items() if value is not None}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Return the check that `as_dict` returned as a dictionary; raises TypeError for others."""
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Health:
    """The checks of a relay, or of the outbox."""

    checks: tuple[Check, ...]

    @property
    def is_live(self) -> bool:
        """Whether no restart would help."""
        return all(check.ok for check in self.checks if check.concerns == LIVE)

    @property
    def is_ready(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    def only(self, concerns: str) -> Health:
        """Return the checks of one concern."""
        return Health(tuple(check for check in self.checks if check.concerns == concerns))

    def as_dict(self) -> dict[str, Any]:
        """Return the checks for JSON."""
        status = "ok" if self.is_ready else "failing"
        return {"status": status, "checks": [check.as_dict() for check in self.checks]}


def judge(state: RelayState, stall_seconds: float) -> Health:
    """Return the health of one process, whose threads may be silent for `stall_seconds`."""
    checks = [*_process(state, stall_seconds)]
    for loop in state.loops:
        checks += _loop(loop, stall_seconds)
    for receiver in state.receivers:
        checks += _receiver(receiver, stall_seconds)
    return Health(tuple(checks))


def stall_check(
    name: str, doing: str, silence: float, stall_seconds: float, **about: str | None
) -> Check:
    """Return a check that fails after `stall_seconds` without progress.

    `about` are the check's `backend` or `consumer`.
    """
    ok = silence <= stall_seconds
    detail = doing if ok else f"{doing}: no progress for {silence:.0f} s"
    return Check(name=name, ok=ok, detail=detail, concerns=LIVE, **about)  # type: ignore[arg-type]


def _process(state: RelayState, stall_seconds: float) -> Iterable[Check]:
    if state.pacemaker_has_died:
        yield Check(name="pacemaker", ok=False, detail="the thread crashed", concerns=LIVE)
    elif not state.is_stopping:
        yield stall_check("pacemaker", "sending heartbeats", state.pacemaker_silence, stall_seconds)
    yield Check(
        name="running", ok=not state.is_stopping, detail="stopping" if state.is_stopping else "yes"
    )


def _loop(loop: LoopState, stall_seconds: float) -> Iterable[Check]:
    alias = loop.backend
    if loop.has_died:
        yield Check(
            name="loop", ok=False, detail="the thread crashed", concerns=LIVE, backend=alias
        )
        return
    if loop.has_ended:
        yield Check(name="loop", ok=True, detail="ended", concerns=LIVE, backend=alias)
        return
    yield stall_check("loop", loop.doing, loop.silence, stall_seconds, backend=alias)
    holds = loop.lease_left > 0
    detail = (
        "held" if holds else "not held: the database is unavailable, or another relay took over"
    )
    yield Check(name="lease", ok=holds, detail=detail, backend=alias)
    if loop.last_error:
        detail = f"the last turn failed with {loop.last_error}; see the log"
        yield Check(name="turn", ok=False, detail=detail, backend=alias)
    away = "" if loop.circuit_is_closed else "unavailable; its events wait"
    detail = away or ("paused by an operator" if loop.is_paused else "available")
    yield Check(name="broker", ok=not away, detail=detail, backend=alias)


def _receiver(receiver: ReceiverState, stall_seconds: float) -> Iterable[Check]:
    alias = receiver.consumer
    if receiver.has_died or receiver.has_ended:
        ok = not receiver.has_died
        detail = "ended" if ok else "the thread crashed"
        yield Check(name="receiver", ok=ok, detail=detail, concerns=LIVE, consumer=alias)
        return
    doing, silence = receiver.doing, receiver.silence
    yield stall_check("receiver", doing, silence, stall_seconds, consumer=alias)
    yield Check(
        name="broker",
        ok=not receiver.error,
        # Without the error, which may name the broker; the view is unauthenticated.
        detail="can't be read; see the log" if receiver.error else "available",
        consumer=alias,
    )
    if receiver.lag is not None:
        grows = "; it grows, and nothing is received" if receiver.lag_grows else ""
        detail = f"{receiver.lag} messages wait{grows}"
        yield Check(name="lag", ok=not receiver.lag_grows, detail=detail, consumer=alias)
