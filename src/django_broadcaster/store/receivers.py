"""The state of a consumer: one judgement for the dashboard, the checks, the commands, the metrics.

A consumer has the first of these states that applies:

================== ===== ======================================================================
state              level applies if
================== ===== ======================================================================
no receiver        red   no receiver had a heartbeat within `OUTBOX_LEASE_SECONDS`
broker unavailable red   no receiver can read the broker
not reading        red   a receiver hangs, or receives nothing while the lag grows
malformed messages amber messages became dead letters since the receivers started
behind             blue  messages are waiting at the broker
up to date         green no message is waiting, or the broker can't say
================== ===== ======================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from django.db.models import DurationField, ExpressionWrapper, F
from django.utils.translation import gettext_noop

from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.models.managers import DatabaseNow, aware

from .judgement import Level


class ConsumerState(StrEnum):
    """The states, in the order in which they are tried."""

    NO_RECEIVER = gettext_noop("no receiver")
    UNAVAILABLE = gettext_noop("broker unavailable")
    NOT_READING = gettext_noop("not reading")
    MALFORMED = gettext_noop("malformed messages")
    BEHIND = gettext_noop("behind")
    UP_TO_DATE = gettext_noop("up to date")


_LEVELS: Final = {
    ConsumerState.NO_RECEIVER: Level.RED,
    ConsumerState.UNAVAILABLE: Level.RED,
    ConsumerState.NOT_READING: Level.RED,
    ConsumerState.MALFORMED: Level.AMBER,
    ConsumerState.BEHIND: Level.BLUE,
    ConsumerState.UP_TO_DATE: Level.GREEN,
}

_ORDER: Final = list(ConsumerState)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerJudgement:
    """The state of a consumer, with its figures summed over its receivers.

    Args:
        consumer: The alias.
        state: The state.
        reason: Why. `{age}` stands for the time since `since`.
        since: When the state began, if that is known.
        error: Why the broker can't be read. It must not be shown to everybody.
        receivers: The receivers with a recent heartbeat; `reading` of them read the broker.
        received, duplicates, malformed: Messages since these receivers started.
        per_second: Messages per second over the last minute.
        lag: Messages that wait at the broker; None if it can't say.
        last_received_at: When the last message was received; None if none was.
    """

    consumer: str
    state: ConsumerState
    reason: str = ""
    since: datetime | None = None
    error: str = ""
    receivers: int = 0
    reading: int = 0
    received: int = 0
    duplicates: int = 0
    malformed: int = 0
    per_second: float = 0.0
    lag: int | None = None
    last_received_at: datetime | None = None

    @property
    def level(self) -> Level:
        """How bad the state is."""
        return _LEVELS[self.state]

    @property
    def needs_attention(self) -> bool:
        """Whether the level is red or amber."""
        return self.level <= Level.AMBER

    @property
    def severity(self) -> tuple[int, int]:
        """A key that sorts the worst first: by level, then in the order of the states."""
        return self.level, _ORDER.index(self.state)

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
        return self.reason.replace("{age}", f"{age:,.0f} s", 1)

    @property
    def text(self) -> str:
        """The reason with the age, and the error."""
        return f"{self.aged_reason}: {self.error}" if self.error else self.aged_reason

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, the state and the reason for JSON."""
        names = ("receivers", "reading", "received", "duplicates", "malformed", "lag")
        return {
            "consumer": self.consumer,
            **{name: getattr(self, name) for name in names},
            "per_second": round(self.per_second, 2),
            "last_received_at": self.last_received_at,
            "state": self.state,
            "level": self.level.name.lower(),
            "reason": self.text,
        }


def consumer_judgements(using: str, aliases: Collection[str]) -> Iterator[ConsumerJudgement]:
    """Yield the judgement on each of these consumers; one statement for all."""
    if not aliases:
        return
    age = ExpressionWrapper(DatabaseNow() - F("heartbeat_at"), output_field=DurationField())
    rows = OutboxReceiver.objects.using(using).filter(consumer__in=aliases).annotate(age=age)
    found: defaultdict[str, list[OutboxReceiver]] = defaultdict(list)
    for row in rows:
        if row.age <= timedelta(seconds=float(conf.LEASE_SECONDS)):
            found[row.consumer].append(row)
    for alias in aliases:
        yield _judge(alias, found[alias])


def _judge(alias: str, rows: list[OutboxReceiver]) -> ConsumerJudgement:
    # One that stands by for another one reads nothing, and has no lag.
    alone = [row for row in rows if row.reads]
    readers = alone or rows
    figures: dict[str, Any] = {
        "receivers": len(rows),
        "reading": sum(not row.error for row in readers),
        **{
            name: sum(getattr(row, name) for row in rows)
            for name in ("received", "duplicates", "malformed")
        },
        "per_second": sum(row.received_per_second for row in rows),
        "lag": _largest(row.lag for row in readers),
        "last_received_at": max(_moments(row.last_received_at for row in rows), default=None),
    }
    return ConsumerJudgement(consumer=alias, **figures, **_verdict(readers, figures))


def _verdict(readers: list[OutboxReceiver], figures: dict[str, Any]) -> dict[str, Any]:
    if not readers:
        reason = "No receiver is running, so messages wait at the broker"
        return {"state": ConsumerState.NO_RECEIVER, "reason": reason}
    if not figures["reading"]:
        row = readers[0]
        if row.unavailable_since is None:
            return {"state": ConsumerState.NOT_READING, "reason": "Stalled", "error": row.error}
        since = aware(row.unavailable_since)
        reason = "The broker can't be read for {age}"
        return {
            "state": ConsumerState.UNAVAILABLE,
            "reason": reason,
            "since": since,
            "error": row.error,
        }
    growing = _moments(row.lag_grows_since for row in readers)
    if len(growing) == len(readers):
        reason = "Nothing received for {age} while the lag grows"
        return {"state": ConsumerState.NOT_READING, "reason": reason, "since": min(growing)}
    if figures["malformed"]:
        count = figures["malformed"]
        what = "1 message" if count == 1 else f"{count:,} messages"
        reason = f"{what} became dead letters since the receivers started"
        return {"state": ConsumerState.MALFORMED, "reason": reason}
    return {"state": ConsumerState.BEHIND if figures["lag"] else ConsumerState.UP_TO_DATE}


def _largest(values: Iterable[int | None]) -> int | None:
    """Return the largest value: every receiver asks the broker about the whole group."""
    return max((value for value in values if value is not None), default=None)


def _moments(values: Iterable[datetime | None]) -> list[datetime]:
    return [aware(value) for value in values if value is not None]
