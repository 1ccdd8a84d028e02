"""Who delivers what: a lease on a share of a backend's partitions.

A lease is a row of `OutboxRelay`. It lasts while the relay's heartbeat, on the database's clock, is
fresh. Partitions leave a living relay only by its own hand, between two batches, so they can be
taken from it in one way alone: by deleting its row. That is why one test fences everything that a
relay writes: does my row still stand? Its id is the epoch, as a relay that lost its lease joins
again under a new one. No lock and no transaction is held while a broker is spoken to.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from django.db import IntegrityError, connections, models, transaction

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.notify import notify_shares
from django_broadcaster.store import (
    SEQUENCE,
    TIMELINE,
    DatabaseClock,
    DatabaseEpoch,
    RelayRows,
    storable,
)

logger = logging.getLogger("django_broadcaster.relay")

_HEARTBEAT = "UPDATE django_broadcaster_outboxrelay SET heartbeat_at = "
_SEQUENCE = f"to_regclass('{SEQUENCE}')"
# Null for who may not read the sequence.
_SERVER = (
    f"{TIMELINE}, CASE WHEN has_sequence_privilege({_SEQUENCE}, 'USAGE, SELECT') "
    f"THEN pg_sequence_last_value({_SEQUENCE}) END"
)
"""Which server of PostgreSQL answers, and the last id that it has given out."""


class _Server(NamedTuple):
    timeline: str
    last_id: int | None


_RENEW = {
    # Nothing is lost if the database forgets a heartbeat as it crashes, so none waits for the disk.
    "postgresql": (
        "WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)) "
        f"{_HEARTBEAT}statement_timestamp(){{sets}} FROM quick WHERE id = %s "
        f"RETURNING {_SERVER}"
    ),
    "mysql": f"{_HEARTBEAT}UTC_TIMESTAMP(6){{sets}} WHERE id = %s",
    "sqlite": f"{_HEARTBEAT}strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'){{sets}} WHERE id = %s",
}


_RANDOM_BITS = 11  # with the microseconds since 1970, 63 bits: a positive bigint until 2112
MOST_APART = 100
"""The most events of a delivery whose ids are recorded one by one."""

HEARTBEATS_PER_LEASE = 4
"""So a lease survives two heartbeats that are lost."""

ERROR_SHOWN = 500
"""Characters of the error that opened a circuit that others see."""


class Lease:
    """A relay's hold on partitions of one backend. Only `renew` is called from a second thread.

    `takes_share` is False for a visitor, which takes what no relay owns and is counted by none.
    """

    def __init__(self, using: str, backend: str, *, takes_share: bool = True) -> None:
        self.using = using
        self.backend = backend
        self.takes_share = takes_share
        self.seconds = float(conf.LEASE_SECONDS)
        self.partitions: frozenset[int] = frozenset()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.relay_id = 0
        self.clock = DatabaseClock(using)
        self._server: _Server | None = None
        self._records_ids = False
        self._valid_until = 0.0
        self._judges_from = 0.0

    def join(self) -> None:
        """Begin a new lease that owns nothing yet."""
        self._make_partitions()
        self.clock.ask()
        self._server = self._ask_server()
        asked_at = time.monotonic()
        relay = OutboxRelay.objects.using(self.using).create(
            pk=_new_id(),
            name=self.name,
            backend=self.backend,
            takes_share=False,
            started_at=DatabaseNow(),
            heartbeat_at=DatabaseNow(),
        )
        self.relay_id = relay.pk
        self.partitions = frozenset()
        self._valid_until = asked_at + self.seconds
        if self.takes_share:
            # A step of its own: were the answer to the first to get lost, nobody would ever use
            # the row, and partitions would be kept for it until its lease ends.
            self._relays().filter(pk=relay.pk).update(takes_share=True)
            notify_shares(self.using, self.backend)

    @property
    def timeline(self) -> str | None:
        """The timeline of the PostgreSQL server on which the lease began; None elsewhere."""
        return self._server.timeline if self._server else None

    def _ask_server(self) -> _Server | None:
        if connections[self.using].vendor != "postgresql":
            return None
        with connections[self.using].cursor() as cursor:
            cursor.execute(f"SELECT {_SERVER}")
            return _Server(*cursor.fetchone())

    @property
    def seconds_left(self) -> float:
        """Seconds for which it stands without another heartbeat; 0 or less: nobody knows."""
        return self._valid_until - time.monotonic()

    def leave(self) -> None:
        """End the lease, if there is one: its partitions are free at once."""
        if not self.relay_id:
            return
        with transaction.atomic(using=self.using):
            freed = self._partitions().filter(relay_id=self.relay_id).update(relay=None)
            self._relays().filter(pk=self.relay_id).delete()
            if freed:
                notify_shares(self.using, self.backend)
        self.partitions = frozenset()
        self._valid_until = 0.0

    def renew(self) -> None:
        """Send a heartbeat; raises LeaseLost."""
        self._renew({})

    def begin(self, ids: Collection[int]) -> None:
        """Record the ids of a delivery before it starts, so that a crash counts for these events.

        A few that lie apart, as those of a probe do, are recorded one by one: a range would have
        the events between them as well. Raises LeaseLost, which makes it the last look before a
        broker is spoken to.
        """
        first, last = min(ids), max(ids)
        columns: dict[str, int | str | None] = {"in_flight_from": first, "in_flight_to": last}
        apart = len(ids) <= MOST_APART and last - first >= len(ids)
        if apart or self._records_ids:
            columns["in_flight_ids"] = ",".join(map(str, ids)) if apart else None
        self._records_ids = apart
        self._renew(columns)

    def give_back(self) -> None:
        """Record that nothing of the last delivery is in flight any more; raises LeaseLost."""
        self._renew(dict.fromkeys(("in_flight_from", "in_flight_to", "in_flight_ids")))
        self._records_ids = False

    def own_up(self) -> None:
        """Lay what broke off the last delivery to what was in flight, as a relay's death is.

        Raises LeaseLost.
        """
        with transaction.atomic(using=self.using):  # or a second try would count it twice
            relay = self._relays().filter(pk=self.relay_id).first()
            if relay is not None:
                self._count_crash(relay, self.partitions)
            self.give_back()

    def show_circuit(self, error: str | None) -> None:
        """Let others see that the broker counts as away because of an error, or no longer."""
        self._relays().filter(pk=self.relay_id).update(
            circuit_open_since=None if error is None else DatabaseNow(),
            circuit_error=storable(error or "", connections[self.using])[:ERROR_SHOWN],
        )

    def _renew(self, columns: Mapping[str, int | str | None]) -> None:
        # Known before the question: two threads ask, and answers may be judged out of turn.
        asked_at, relay_id, known = time.monotonic(), self.relay_id, self._server
        sets = "".join(f", {name} = %s" for name in columns)
        sql = _RENEW[connections[self.using].vendor].format(sets=sets)
        with connections[self.using].cursor() as cursor:
            cursor.execute(sql, [*columns.values(), relay_id])
            stands = cursor.rowcount > 0
            answer = cursor.fetchone() if cursor.description else None
        if stands and answer:
            self._judge_server(_Server(*answer), known)
        if self.relay_id == relay_id:  # not joined anew meanwhile by the other thread
            if asked_at > self._valid_until - self.seconds / 2:
                # The database was away for a while. The others could not write either.
                self._judges_from = asked_at + self.seconds
            self._valid_until = asked_at + self.seconds if stands else 0.0
        if not stands:
            raise LeaseLost(f"the lease {relay_id} on backend {self.backend!r} was taken away")

    def _judge_server(self, now: _Server, known: _Server | None) -> None:
        """See that the server answers on which the lease began.

        Behind a pooler no statement fails when a replica takes over that was behind. What the relay
        remembers of the rows is wrong there, above all below which id all is delivered, and so may
        its lease be. Raises LeaseLost.
        """
        if known is None:
            self._server = now
        elif now.timeline != known.timeline or (now.last_id or 0) < (known.last_id or 0):
            self._valid_until = 0.0
            raise LeaseLost(
                f"another database server answers, or its ids went back; the lease "
                f"{self.relay_id} on backend {self.backend!r} does not count there"
            )
        else:
            self._server = now

    def require(self) -> None:
        """See that the lease stands, where the relay's own clock has doubts; raises LeaseLost."""
        if time.monotonic() >= self._valid_until:
            self.renew()

    def rebalance(self) -> bool:
        """Take or give up partitions for an even share; return whether the own ones changed.

        Fences relays whose heartbeat has stopped. If the own one had stopped too, or the database's
        clock has jumped, they are given the time of a lease to come back first. Raises LeaseLost.
        """
        asked_at = time.monotonic()
        stale = models.Q(heartbeat_at__lt=DatabaseNow() - _seconds(self.seconds))
        relays = self._relays().filter(backend=self.backend).order_by("pk")
        found = list(
            relays.annotate(
                stale=models.ExpressionWrapper(stale, models.BooleanField()), epoch=DatabaseEpoch()
            ).values_list("pk", "stale", "takes_share", "epoch")
        )
        states = {pk: (is_stale, takes_share) for pk, is_stale, takes_share, _ in found}
        if self.relay_id not in states:
            raise LeaseLost(f"the lease {self.relay_id} on backend {self.backend!r} was taken away")
        self._notice_jump(float(found[0][-1]), asked_at, looks_stale=states[self.relay_id][0])
        for pk, (is_stale, _) in states.items():
            if is_stale and pk != self.relay_id and time.monotonic() >= self._judges_from:
                self._fence(pk)
        sharing = [pk for pk, (is_stale, shares) in states.items() if shares and not is_stale]
        return self._settle_share(self._share(sharing))

    def _notice_jump(self, epoch: float, asked_at: float, *, looks_stale: bool) -> None:
        """Take nobody for dead for the time of a lease if the database's clock has jumped ahead.

        All heartbeats from before the jump look old, also those of healthy relays. The own one
        looks old though it was sent in time; or the clock went on faster than the monotonic one.
        """
        self.clock.note(epoch, asked_at)
        jump = self.clock.take_jump()
        in_time = looks_stale and asked_at < self._valid_until
        if not in_time and jump < self.seconds / HEARTBEATS_PER_LEASE:
            return
        if asked_at >= self._judges_from:
            logger.warning(
                "The clock of database %r jumped ahead by %.1f s; taking over from no relay of "
                "backend %r for %s s.",
                self.using,
                jump,
                self.backend,
                self.seconds,
                extra={"backend": self.backend, "relay": self.relay_id},
            )
        self._judges_from = asked_at + self.seconds

    def _share(self, sharing: list[int]) -> int:
        """Return how many partitions are due to this relay among the living ones."""
        if not self.takes_share:
            return conf.PARTITIONS
        if self.relay_id not in sharing:  # our own heartbeat is late, but nobody minded yet
            return len(self.partitions)
        each, rest = divmod(conf.PARTITIONS, len(sharing))
        return each + (sharing.index(self.relay_id) < rest)

    def _settle_share(self, share: int) -> bool:
        before = self.partitions
        owners: dict[int, int | None] = dict(self._partitions().values_list("number", "relay_id"))
        owned = sorted(number for number, owner in owners.items() if owner == self.relay_id)
        if len(owned) > share:
            given_up, owned = owned[share:], owned[:share]
            self._own(given_up, None, self.relay_id)
            notify_shares(self.using, self.backend)
        elif len(owned) < share:
            free = sorted(number for number, owner in owners.items() if owner is None)
            if free:
                self._own(free[: share - len(owned)], self.relay_id, None)
                mine = self._partitions().filter(relay_id=self.relay_id)
                owned = list(mine.values_list("number", flat=True))
        self.partitions = frozenset(owned)
        return self.partitions != before

    def _own(self, numbers: Iterable[int], owner: int | None, before: int | None) -> None:
        """Change the owner of partitions, but of those only that `before` still owns."""
        rows = self._partitions().filter(number__in=list(numbers))
        rows = rows.filter(relay__isnull=True) if before is None else rows.filter(relay=before)
        try:
            rows.update(relay=owner)
        except IntegrityError as error:  # the row of Relay that it points to has gone
            raise LeaseLost(f"the lease {self.relay_id} was taken away") from error

    def _fence(self, relay_id: int) -> None:
        """End the lease of a relay whose heartbeat stopped, and note what it was delivering."""
        with transaction.atomic(using=self.using):
            stale = DatabaseNow() - _seconds(self.seconds)
            locked = self._relays().select_for_update(skip_locked=self._may_skip_locked)
            relay = locked.filter(pk=relay_id, heartbeat_at__lt=stale).first()
            if relay is None:  # alive after all, or another relay is at it, which may hang there
                return
            theirs = self._partitions().filter(relay=relay)
            numbers = list(theirs.values_list("number", flat=True))
            self._count_crash(relay, numbers)
            theirs.update(relay=None)
            relay.delete()
            notify_shares(self.using, self.backend)
        logger.warning(
            "took over from relay %s of backend %r: no heartbeat for %s seconds",
            relay.name,
            self.backend,
            self.seconds,
            extra={"backend": self.backend, "relay": relay_id},
        )

    def _count_crash(self, relay: OutboxRelay, partitions: Collection[int]) -> None:
        if relay.in_flight_from is not None and relay.in_flight_to is not None:
            rows = RelayRows(self.using, self.backend, relay.pk, self.clock)
            ids = [int(each) for each in (relay.in_flight_ids or "").split(",") if each]
            rows.count_crash(relay.in_flight_from, relay.in_flight_to, partitions, ids)

    def _make_partitions(self) -> None:
        """Create the backend's rows of `OutboxPartition` that are missing."""
        rows = OutboxPartition.objects.using(self.using).filter(backend=self.backend)
        known = set(rows.values_list("number", flat=True))
        if max(known, default=0) >= conf.PARTITIONS:
            self._tell_stranded()
        missing = [
            OutboxPartition(backend=self.backend, number=number)
            for number in range(conf.PARTITIONS)
            if number not in known
        ]
        if missing:
            OutboxPartition.objects.using(self.using).bulk_create(missing, ignore_conflicts=True)

    def _tell_stranded(self) -> None:
        """Say which events no relay delivers since there are fewer partitions than before."""
        events = OutboxEvent.objects.using(self.using).undelivered()
        if events.filter(publisher_backend=self.backend, partition__gte=conf.PARTITIONS).exists():
            logger.error(
                "backend %r: events wait in partitions from %d on, which no relay delivers since "
                "OUTBOX_PARTITIONS is lower than before; set it back until they are gone",
                self.backend,
                conf.PARTITIONS,
                extra={"backend": self.backend},
            )

    @property
    def _may_skip_locked(self) -> bool:
        return bool(connections[self.using].features.has_select_for_update_skip_locked)

    def _relays(self) -> models.QuerySet[OutboxRelay]:
        return OutboxRelay.objects.using(self.using)

    def _partitions(self) -> models.QuerySet[OutboxPartition]:
        rows = OutboxPartition.objects.using(self.using).filter(backend=self.backend)
        return rows.filter(number__lt=conf.PARTITIONS)


def _new_id() -> int:
    """Return the id of a new lease: greater than earlier ones, and found in no other outbox.

    Each statement that settles names the lease. Were ids counted, two outboxes would have the same
    ones, and a relay whose session was led to another schema would settle the events there.
    """
    return time.time_ns() // 1000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)


def _seconds(seconds: float) -> models.Value:
    return models.Value(timedelta(seconds=seconds), models.DurationField())
