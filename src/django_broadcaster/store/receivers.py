"""The state of a consumer: one judgement for the dashboard, the checks, the commands, the metrics.

A consumer has the first of these states that applies:

================== ===== ======================================================================
state              level applies if
================== ===== ======================================================================
no receiver        red   no receiver had a heartbeat within `OUTBOX_LEASE_SECONDS`
broker unavailable red   no receiver can read the broker
not reading        red   a receiver hangs, all receivers stand by, or nothing is received while
                         the lag grows
malformed messages amber messages became dead letters since the receivers started
behind             blue  messages are waiting at the broker
up to date         green no message is waiting, or the broker can't say
================== ===== ======================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from django.db.models import DurationField, ExpressionWrapper, F
from django.utils.translation import gettext_noop

from django_broadcaster.conf import conf
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.models.managers import DatabaseNow, aware

from .judgement import Judged, Level, Verdict


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerJudgement(Judged):
    """The state of a consumer, with its figures summed over its receivers.

    Args:
        consumer: The alias.
        verdict: The state, and why.
        receivers: The receivers with a recent heartbeat; `reading` of them read the broker.
        received, duplicates, malformed: Messages since these receivers started.
        per_second: Messages per second over the last minute.
        lag: Messages that wait at the broker; None if it can't say.
        last_received_at: When the last message was received; None if none was.
    """

    consumer: str
    verdict: Verdict
    receivers: int = 0
    reading: int = 0
    received: int = 0
    duplicates: int = 0
    malformed: int = 0
    per_second: float = 0.0
    lag: int | None = None
    last_received_at: datetime | None = None

    @property
    def state(self) -> ConsumerState:
        """The state."""
        return ConsumerState(self.verdict.state)

    @property
    def level(self) -> Level:
        """How bad the state is."""
        return _LEVELS[self.state]

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
    readers = [row for row in rows if not row.stands_by]
    lag = _largest(row.lag for row in readers)
    malformed = sum(row.malformed for row in rows)
    return ConsumerJudgement(
        consumer=alias,
        verdict=_verdict(rows, readers, lag, malformed),
        receivers=len(rows),
        reading=sum(not row.error for row in readers),
        received=sum(row.received for row in rows),
        duplicates=sum(row.duplicates for row in rows),
        malformed=malformed,
        per_second=sum(row.received_per_second for row in rows),
        lag=lag,
        last_received_at=max(_moments(row.last_received_at for row in rows), default=None),
    )


def _verdict(
    rows: list[OutboxReceiver], readers: list[OutboxReceiver], lag: int | None, malformed: int
) -> Verdict:
    if not rows:
        reason = "No receiver is running, so messages wait at the broker"
        return Verdict(ConsumerState.NO_RECEIVER, reason)
    if not readers:
        reason = "All receivers stand by: the one that read has crashed or hangs"
        return Verdict(ConsumerState.NOT_READING, reason)
    failing = [row for row in readers if row.error]
    if len(failing) == len(readers):
        row = failing[0]
        if row.unavailable_since is None:
            return Verdict(ConsumerState.NOT_READING, "Stalled", error=row.error)
        since = aware(row.unavailable_since)
        reason = "The broker can't be read for {age}"
        return Verdict(ConsumerState.UNAVAILABLE, reason, since, row.error)
    growing = _moments(row.lag_grows_since for row in readers)
    if len(growing) == len(readers):
        reason = "Nothing received for {age} while the lag grows"
        return Verdict(ConsumerState.NOT_READING, reason, min(growing))
    if malformed:
        what = "1 message" if malformed == 1 else f"{malformed:,} messages"
        reason = f"{what} became dead letters since the receivers started"
        return Verdict(ConsumerState.MALFORMED, reason)
    return Verdict(ConsumerState.BEHIND if lag else ConsumerState.UP_TO_DATE)


def _largest(values: Iterable[int | None]) -> int | None:
    """Return the largest value: every receiver asks the broker about the whole group."""
    return max((value for value in values if value is not None), default=None)


def _moments(values: Iterable[datetime | None]) -> list[datetime]:
    return [aware(value) for value in values if value is not None]
