"""The state of a backend: one judgement for the dashboard, the health checks, the commands and
the metrics.

A backend has the first of these states that applies:

========================== ===== ==================================================================
state                      level applies if
========================== ===== ==================================================================
not configured             red   undelivered events name a backend that `OUTBOX_PUBLISHERS` lacks;
                                 amber if only dead letters do
slot failing               red   the replication slot does not exist, was invalidated, is not read,
                                 or retains too much WAL
paused                     amber an operator paused the backend
no relay                   red   no relay holds a lease
broker unavailable         red   the circuit of a relay is open
failing                    red   most recent attempts failed, or nothing is delivered any more
late                       red   an event is due for longer than `OUTBOX_MAX_LAG_SECONDS`, or in
                                 retry and older than `OUTBOX_MAX_RETRY_AGE_SECONDS`
partitions without a relay amber some keys are not delivered until a relay takes their partitions
some failing               amber events became dead letters within the last hour and are still
                                 there, or a webhook endpoint is disabled
waiting for retries        blue  nothing is due, but events are in retry or blocked
delivering                 green events are due
up to date                 green the backlog is empty
========================== ===== ==================================================================

A backend is failing if at least `OUTBOX_FAILING_ATTEMPTS` attempts of the last
`OUTBOX_FAILING_MINUTES` failed, and they are at least `OUTBOX_FAILING_RATIO` of all. It is also
failing if the backlog is not empty, and for that long or longer attempts failed and none succeeded.
Attempts are counted by minute, from what relays write every ten seconds.

A backend with a replication slot needs a relay only while events wait in the table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from django.db.models import Count, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from django_broadcaster.amounts import duration, size
from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxWebhookEndpoint

from .overview import Overview, overviews
from .samples import Recent, recent_minutes
from .slots import Slot, slots


class Level(IntEnum):
    """How bad a state is, the worst first."""

    RED = 0
    AMBER = 1
    BLUE = 2
    GREEN = 3


class State(StrEnum):
    """The states, in the order in which they are tried."""

    NOT_CONFIGURED = gettext_noop("not configured")
    SLOT = gettext_noop("slot failing")
    PAUSED = gettext_noop("paused")
    NO_RELAY = gettext_noop("no relay")
    UNAVAILABLE = gettext_noop("broker unavailable")
    FAILING = gettext_noop("failing")
    LATE = gettext_noop("late")
    UNOWNED = gettext_noop("partitions without a relay")
    SOME_FAILING = gettext_noop("some failing")
    WAITING = gettext_noop("waiting for retries")
    DELIVERING = gettext_noop("delivering")
    UP_TO_DATE = gettext_noop("up to date")


_LEVELS: Final[Mapping[State, Level]] = {
    State.NOT_CONFIGURED: Level.RED,
    State.SLOT: Level.RED,
    State.PAUSED: Level.AMBER,
    State.NO_RELAY: Level.RED,
    State.UNAVAILABLE: Level.RED,
    State.FAILING: Level.RED,
    State.LATE: Level.RED,
    State.UNOWNED: Level.AMBER,
    State.SOME_FAILING: Level.AMBER,
    State.WAITING: Level.BLUE,
    State.DELIVERING: Level.GREEN,
    State.UP_TO_DATE: Level.GREEN,
}


class Endpoints(NamedTuple):
    """The webhook endpoints of a backend that are disabled, and those that fail."""

    disabled: int = 0
    failing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that decide the state of a backend."""

    overview: Overview
    recent: Recent
    endpoints: Endpoints
    is_configured: bool
    slot: Slot | None = None

    @property
    def needs_relay(self) -> bool:
        """Whether events wait for a relay, or would if there were any."""
        return self.slot is None or self.overview.undelivered > 0


class Verdict(NamedTuple):
    """A state of a backend or a consumer, and why.

    `{age}` in the reason is the time since `since`. `error` may contain data of an event or name
    the broker, and must not be shown to everybody; the reason of a pause names a person.
    """

    state: StrEnum
    reason: str = ""
    since: datetime | None = None
    error: str = ""

    @property
    def reason_and_error(self) -> str:
        """The reason, and the error if there is one."""
        return f"{self.reason}: {self.error}" if self.error else self.reason

    @property
    def aged_reason(self) -> str:
        """The reason with the age, without the error."""
        if self.since is None:
            return self.reason
        age = max(0.0, (datetime.now(UTC) - self.since).total_seconds())
        return self.reason.replace("{age}", duration(age), 1)

    @property
    def text(self) -> str:
        """The reason with the age, and the error."""
        return f"{self.aged_reason}: {self.error}" if self.error else self.aged_reason


class Judged(ABC):
    """The common part of the judgements on backends and on consumers."""

    __slots__ = ()

    verdict: Verdict

    @property
    @abstractmethod
    def level(self) -> Level:
        """How bad the state is."""

    @property
    def needs_attention(self) -> bool:
        """Whether the level is red or amber."""
        return self.level <= Level.AMBER

    @property
    def severity(self) -> tuple[int, int]:
        """A key that sorts the worst first: by level, then in the order of the states."""
        state = self.verdict.state
        return self.level, list(type(state)).index(state)

    @property
    def text(self) -> str:
        """The reason with the age, and the error."""
        return self.verdict.text


@dataclass(frozen=True, slots=True)
class Judgement(Judged):
    """The state of a backend, with the facts that it was judged by."""

    facts: Facts
    verdict: Verdict

    @property
    def overview(self) -> Overview:
        """The counts of the backend."""
        return self.facts.overview

    @property
    def state(self) -> State:
        """The state."""
        return State(self.verdict.state)

    @property
    def level(self) -> Level:
        """How bad the state is."""
        if self.state == State.NOT_CONFIGURED and not self.overview.undelivered:
            return Level.AMBER
        return _LEVELS[self.state]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, the state and the reason for JSON."""
        recent, endpoints, slot = self.facts.recent, self.facts.endpoints, self.facts.slot
        return {
            **self.overview.as_dict(),
            "state": self.state,
            "level": self.level.name.lower(),
            "reason": self.text,
            "recent_attempts": recent.attempts,
            "recent_failures": recent.failures,
            "dead_letters_last_hour": recent.dead_letters,
            "disabled_endpoints": endpoints.disabled,
            "failing_endpoints": endpoints.failing,
            "slot_lag_bytes": slot and slot.lag,
            "slot_retained_bytes": slot and slot.retained,
        }


def judgements(
    using: str,
    aliases: Collection[str],
    configured: Collection[str],
    slot_limits: Mapping[str, tuple[str, int]],
    *,
    exact: int | None = None,
) -> Iterator[Judgement]:
    """Yield the judgement on each backend; `exact` as for `overviews`.

    Two statements for all of them, one more if any has a replication slot, and one for each.
    """
    known_slots = slots(using, {a: limit for a, limit in slot_limits.items() if a in aliases})
    recent = recent_minutes(using, aliases, conf.FAILING_MINUTES)
    endpoints = _endpoints(using, aliases)
    for overview in overviews(using, aliases, exact=exact):
        yield judge(
            Facts(
                overview=overview,
                recent=recent.get(overview.backend, Recent()),
                endpoints=endpoints.get(overview.backend, Endpoints()),
                is_configured=overview.backend in configured,
                slot=known_slots.get(overview.backend),
            )
        )


def judge(facts: Facts) -> Judgement:
    """Return the judgement by these facts and the settings."""
    return Judgement(facts, next(_applying(facts)))


def _applying(facts: Facts) -> Iterator[Verdict]:
    """Yield the states that apply."""
    yield from _undeliverable(facts)
    yield from _troubled(facts)
    each = facts.overview
    if each.retry + each.blocked and each.oldest_due is None:
        yield Verdict(State.WAITING, _("Retrying"), error=each.retry_error)
    if each.oldest_due is not None or each.pending:
        yield Verdict(State.DELIVERING)
    yield Verdict(State.UP_TO_DATE)


def _undeliverable(facts: Facts) -> Iterator[Verdict]:
    each = facts.overview
    if not facts.is_configured:
        reason = _("The backend is not in OUTBOX_PUBLISHERS, so no relay delivers its events")
        yield Verdict(State.NOT_CONFIGURED, reason)
    if facts.slot is not None and (reason := _slot_problem(facts.slot)):
        yield Verdict(State.SLOT, reason)
    if each.is_paused:
        who = {"who": each.paused_by or _("an unknown user")}
        yield Verdict(State.PAUSED, _("Paused for {age} by %(who)s") % who, each.paused_at)
    if not each.relays and facts.needs_relay:
        yield Verdict(State.NO_RELAY, _("No relay is running, so events are not delivered"))
    if each.away_since is not None:
        reason = _("Broker unavailable for {age}")
        yield Verdict(State.UNAVAILABLE, reason, each.away_since, each.away_because)


def _troubled(facts: Facts) -> Iterator[Verdict]:
    each = facts.overview
    if failure := _failure(facts):
        yield Verdict(State.FAILING, failure, error=each.retry_error)
    if each.lag > conf.MAX_LAG_SECONDS:
        reason = _("An event has been due for {age} (limit %(limit)s)")
        limit = {"limit": duration(conf.MAX_LAG_SECONDS)}
        yield Verdict(State.LATE, reason % limit, each.oldest_due)
    if each.retry_age > conf.MAX_RETRY_AGE_SECONDS:
        reason = _("An event in retry was published {age} ago")
        yield Verdict(State.LATE, reason, each.oldest_retry, each.retry_error)
    if each.free_partitions and facts.needs_relay:
        free = {"free": each.free_partitions, "all": conf.PARTITIONS}
        reason = _("%(free)d of %(all)d partitions have no relay") % free
        yield Verdict(State.UNOWNED, reason)
    if some := "; ".join(_single_failures(facts)):
        yield Verdict(State.SOME_FAILING, some)


def _slot_problem(slot: Slot) -> str:
    """Return why events do not get from the slot to Kafka, or an empty text if they do."""
    name = {"name": slot.name}
    if not slot.exists:
        return _("The replication slot %(name)s does not exist; events are refused") % name
    if not slot.is_valid:
        return _("The server has invalidated the replication slot %(name)s") % name
    if not slot.is_active:
        return _("Kafka Connect does not read the replication slot %(name)s") % name
    if slot.retained > slot.limit:
        sizes = {"retained": size(slot.retained), "limit": size(slot.limit)}
        reason = _("The replication slot %(name)s retains %(retained)s of WAL (limit %(limit)s)")
        return reason % (name | sizes)
    return ""


def _failure(facts: Facts) -> str:
    """Return why the backend is failing, or an empty text if it is not."""
    each, recent, minutes = facts.overview, facts.recent, conf.FAILING_MINUTES
    is_enough = recent.failures >= conf.FAILING_ATTEMPTS
    if is_enough and recent.failures >= conf.FAILING_RATIO * recent.attempts:
        return failed_of(facts)
    backlog = each.pending + each.retry + each.blocked
    if backlog and recent.failing_for >= minutes:
        text = ngettext(
            "All attempts of the last %(minutes)d min failed; %(count)s event is waiting",
            "All attempts of the last %(minutes)d min failed; %(count)s events are waiting",
            backlog,
        )
        return text % {"minutes": recent.failing_for, "count": f"{backlog:,}"}
    return ""


def failed_of(facts: Facts) -> str:
    """Return how many of the recent attempts failed, in words."""
    recent = facts.recent
    text = ngettext(
        "%(failures)s of %(attempts)s attempt in the last %(minutes)d min failed",
        "%(failures)s of %(attempts)s attempts in the last %(minutes)d min failed",
        recent.attempts,
    )
    return text % {
        "failures": f"{recent.failures:,}",
        "attempts": f"{recent.attempts:,}",
        "minutes": conf.FAILING_MINUTES,
    }


def _single_failures(facts: Facts) -> Iterator[str]:
    dead, disabled = facts.recent.dead_letters, facts.endpoints.disabled
    if dead and facts.overview.failed:
        text = ngettext(
            "%(count)s dead letter in the last hour",
            "%(count)s dead letters in the last hour",
            dead,
        )
        yield text % {"count": f"{dead:,}"}
    if disabled:
        text = ngettext("%(count)s endpoint disabled", "%(count)s endpoints disabled", disabled)
        yield text % {"count": f"{disabled:,}"}


def _endpoints(using: str, aliases: Collection[str]) -> dict[str, Endpoints]:
    """Return the endpoints of each backend that fail; the table has no others."""
    rows = OutboxWebhookEndpoint._base_manager.using(using).filter(backend__in=aliases)
    disabled = Count("pk", filter=Q(disabled_at__isnull=False))
    failing = Count("pk", filter=Q(disabled_at=None))
    counted = rows.order_by().values_list("backend").annotate(disabled=disabled, failing=failing)
    return {backend: Endpoints(*counts) for backend, *counts in counted}
