"""Whether a relay is well: a value made of what its threads say of themselves, and no I/O.

Two questions are kept apart, as Kubernetes does. *Live*: would a restart help? It would where a
thread has died or hangs. It would not where the broker or the database is away: the relay waits for
those by itself, and a restart only costs the other backends their turn. *Ready*: does it deliver?
It does not before it holds its leases, nor while a broker is away.

Neither asks how far behind the outbox is. A relay that is behind because there is much to do would
be restarted for it, and be further behind. The lag is judged for the outbox as a whole, by
`instrumentation.health`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

LIVE = "live"
READY = "ready"


class Activity:
    """Told by one thread, asked by others: what it is at stands in one value, replaced whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[str, float] = ("starting", clock())

    @property
    def doing(self) -> str:
        """What the thread is at, in a word or two."""
        return self._now[0]

    @property
    def silence(self) -> float:
        """Seconds without a sign of life; the pauses that it announced do not count."""
        return max(0.0, self._clock() - self._now[1])

    def begin(self, doing: str, *, pause: float = 0.0) -> None:
        """Say what comes next, and for how many seconds nothing is heard of it on purpose."""
        self._now = (doing, self._clock() + pause)

    def go_on(self) -> None:
        """Give a sign of life in the middle of something long."""
        self._now = (self._now[0], self._clock())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """One backend's loop now.

    `silence` are seconds without a sign of life, `lease_left` seconds for which the lease stands
    without another heartbeat, `trouble` the kind of error that broke off its last turn.
    """

    backend: str
    doing: str
    silence: float
    has_died: bool
    has_ended: bool
    lease_left: float
    circuit_is_closed: bool
    is_paused: bool
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayState:
    """A relay's process now; `pacemaker_silence` in seconds."""

    process: int
    is_stopping: bool
    pacemaker_has_died: bool
    pacemaker_silence: float
    loops: tuple[LoopState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `concerns` is LIVE or READY; `detail` holds no payload."""

    name: str
    ok: bool
    detail: str
    concerns: str = READY
    backend: str | None = None
    process: int | None = None

    @property
    def subject(self) -> str:
        """What it is about, for a line of text."""
        about = [f"backend {self.backend}"] if self.backend else []
        about += [f"process {self.process}"] if self.process else []
        return f"{self.name} ({', '.join(about)})" if about else self.name

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without what it is not about."""
        about = {"backend": self.backend, "process": self.process}
        return {
            "name": self.name,
            **{name: value for name, value in about.items() if value is not None},
            "concerns": self.concerns,
            "ok": self.ok,
            "detail": self.detail,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Return what `as_dict` was made of; raises TypeError for anything else."""
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Health:
    """The checks of a relay, or of the outbox."""

    checks: tuple[Check, ...]

    @property
    def is_live(self) -> bool:
        """Whether no restart is called for."""
        return all(check.ok for check in self.checks if check.concerns == LIVE)

    @property
    def is_ready(self) -> bool:
        """Whether everything is well."""
        return all(check.ok for check in self.checks)

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    def only(self, concerns: str) -> Health:
        """Return the checks of one concern."""
        return Health(tuple(check for check in self.checks if check.concerns == concerns))

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        status = "ok" if self.is_ready else "failing"
        return {"status": status, "checks": [check.as_dict() for check in self.checks]}


def judge(state: RelayState, stall_seconds: float) -> Health:
    """Return the health of one process, in which nothing may be silent for longer than so."""
    checks = [*_process(state, stall_seconds)]
    for loop in state.loops:
        checks += _loop(loop, stall_seconds)
    return Health(tuple(checks))


def stall_check(
    name: str, doing: str, silence: float, stall_seconds: float, backend: str | None = None
) -> Check:
    """Return whether something that should go on does."""
    ok = silence <= stall_seconds
    detail = doing if ok else f"{doing}: no sign of life for {silence:.0f} s"
    return Check(name=name, ok=ok, detail=detail, concerns=LIVE, backend=backend)


def _process(state: RelayState, stall_seconds: float) -> Iterable[Check]:
    if state.pacemaker_has_died:
        yield Check(name="pacemaker", ok=False, detail="its thread has died", concerns=LIVE)
    elif not state.is_stopping:
        yield stall_check("pacemaker", "beating", state.pacemaker_silence, stall_seconds)
    yield Check(
        name="running", ok=not state.is_stopping, detail="stopping" if state.is_stopping else "yes"
    )


def _loop(loop: LoopState, stall_seconds: float) -> Iterable[Check]:
    alias = loop.backend
    if loop.has_died:
        yield Check(
            name="loop", ok=False, detail="its thread has died", concerns=LIVE, backend=alias
        )
        return
    if loop.has_ended:
        yield Check(name="loop", ok=True, detail="has ended", concerns=LIVE, backend=alias)
        return
    yield stall_check("loop", loop.doing, loop.silence, stall_seconds, alias)
    holds = loop.lease_left > 0
    detail = "held" if holds else "not held: the database can't be reached, or others took it over"
    yield Check(name="lease", ok=holds, detail=detail, backend=alias)
    if loop.trouble:
        detail = f"its last turn broke off with {loop.trouble}, the log says more"
        yield Check(name="turn", ok=False, detail=detail, backend=alias)
    away = "" if loop.circuit_is_closed else "it can't be reached, its events wait"
    detail = away or ("paused by an operator" if loop.is_paused else "answers, as far as was seen")
    yield Check(name="broker", ok=not away, detail=detail, backend=alias)
