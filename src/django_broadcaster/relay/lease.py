"""A lease: a relay's right to deliver the events of some partitions of a backend.

A lease is a row of `OutboxRelay`. It is valid while the relay's heartbeat, on the database's clock,
is fresh. A relay that is alive gives up partitions itself, between two batches. Others can take
them only by deleting its row. So one condition fences everything that a relay writes: its row still
exists. The row's id is the epoch, because a relay that lost its lease joins again with a new id. No
lock and no transaction is held during a call to a broker.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import NamedTuple

from django.db import connections, models, transaction

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxRelay
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.notify import notify_shares
from django_broadcaster.store import (
    NOW,
    SEQUENCE,
    TIMELINE,
    DatabaseClock,
    DatabaseEpoch,
    relay_cursor,
    storable,
)

from .fencing import count_crash, duration, fence
from .partition_table import PartitionTable

logger = logging.getLogger("django_broadcaster.relay")

_HEARTBEAT = "UPDATE django_broadcaster_outboxrelay SET heartbeat_at = "
_SEQUENCE = f"to_regclass('{SEQUENCE}')"
# Null for a user without the right to read the sequence.
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
        f"{_HEARTBEAT}{NOW['postgresql']}{{sets}} FROM quick WHERE id = %s "
        f"RETURNING {_SERVER}"
    ),
    "mysql": f"{_HEARTBEAT}{NOW['mysql']}{{sets}} WHERE id = %s",
    "sqlite": f"{_HEARTBEAT}{NOW['sqlite']}{{sets}} WHERE id = %s",
}


_RANDOM_BITS = 11  # with the microseconds since 1970, 63 bits: a positive bigint until 2112
MOST_APART = 100
"""The most events of a delivery whose ids are recorded individually."""

HEARTBEATS_PER_LEASE = 4
"""A lease survives two heartbeats that are lost."""

ERROR_SHOWN = 500
"""Characters that are stored of the error that opened a circuit."""


class Lease:
    """A relay's lease on partitions of one backend. A second thread may call `renew` alone.

    `takes_share` is False for a visitor, which takes partitions that no relay owns and is not
    counted in the shares.
    """

    def __init__(self, using: str, alias: str, *, takes_share: bool = True) -> None:
        self.using = using
        self.alias = alias
        self.takes_share = takes_share
        self.seconds = float(conf.LEASE_SECONDS)
        self.partitions: frozenset[int] = frozenset()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.id = 0
        """The id of the lease, the primary key of its row; 0 before the first `join`."""
        self.in_doubt = False
        """Whether the broker may have events that are not settled, if the backend keeps positions.
        The next owner of a partition has to know."""
        self.clock = DatabaseClock(using)
        self._table = PartitionTable(using, alias)
        self._server: _Server | None = None
        self._records_ids = False
        self._is_new = True
        """Whether the lease has not taken partitions yet."""
        self._valid_until = 0.0
        self._fences_from = 0.0

    @property
    def log_extra(self) -> dict[str, object]:
        """The `extra` of log lines about the lease."""
        return {"backend": self.alias, "relay": self.id}

    def join(self) -> None:
        """Begin a new lease that owns nothing yet."""
        self._table.create_missing()
        self.clock.ask()
        self._server = self._ask_server()
        asked_at = time.monotonic()
        relay = OutboxRelay.objects.using(self.using).create(
            pk=_new_id(),
            name=self.name,
            backend=self.alias,
            takes_share=False,
            started_at=DatabaseNow(),
            heartbeat_at=DatabaseNow(),
        )
        self.id = relay.pk
        self.in_doubt = False
        self.partitions = frozenset()
        self._is_new = True
        self._valid_until = asked_at + self.seconds
        if self.takes_share:
            # In two steps: if the answer to the first is lost, the row is unknown to this relay,
            # and no partitions are kept for it.
            self._relays().filter(pk=relay.pk).update(takes_share=True)
            notify_shares(self.using, self.alias)

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
        """Seconds until the lease expires without another heartbeat; 0 or less if it may have."""
        return self._valid_until - time.monotonic()

    def leave(self) -> None:
        """End the lease, if there is one; its partitions are free at once."""
        if not self.id:
            return
        with transaction.atomic(using=self.using):
            freed = self._table.free_all_of(self.id, in_doubt=self.in_doubt)
            self._relays().filter(pk=self.id).delete()
            if freed:
                notify_shares(self.using, self.alias)
        self.partitions = frozenset()
        self._valid_until = 0.0

    def renew(self) -> None:
        """Send a heartbeat; raises LeaseLost."""
        self._renew({})

    def begin_delivery(self, ids: Collection[int]) -> None:
        """Record the ids of a delivery before it starts, so that a crash counts for these events.

        A few ids that are not consecutive, as those of a probe, are recorded individually: a range
        would include the events between them. Raises LeaseLost: this is the last check before
        the call to the broker.
        """
        first, last = min(ids), max(ids)
        columns: dict[str, int | str | None] = {"in_flight_from": first, "in_flight_to": last}
        apart = len(ids) <= MOST_APART and last - first >= len(ids)
        if apart or self._records_ids:
            columns["in_flight_ids"] = ",".join(map(str, ids)) if apart else None
        self._records_ids |= apart  # if the statement fails, it may have been run
        self._renew(columns)
        self._records_ids = apart

    def end_delivery(self) -> None:
        """Record that nothing is in flight any more; raises LeaseLost."""
        self._renew(dict.fromkeys(("in_flight_from", "in_flight_to", "in_flight_ids")))
        self._records_ids = False

    def count_crash(self) -> None:
        """Count a crash for each event in flight, as if the relay had died; raises LeaseLost."""
        with transaction.atomic(using=self.using):  # or a second try would count it twice
            relay = self._relays().filter(pk=self.id).first()
            if relay is not None:
                count_crash(relay, self.partitions, self.using, self.clock)
            self.end_delivery()

    def earlier_senders(self) -> set[int]:
        """Return the leases that may have sent events of the own partitions that are not settled.

        Raises LeaseLost.
        """
        self.renew()
        return self._table.senders(self.id)

    def claim(self) -> None:
        """Note that events of the own partitions are sent under this lease from now on."""
        self._table.claim(self.id)

    def show_circuit(self, error: str | None) -> None:
        """Store the error because of which the broker is unavailable; None if it is available."""
        self._relays().filter(pk=self.id).update(
            circuit_open_since=None if error is None else DatabaseNow(),
            circuit_error=storable(error or "", connections[self.using])[:ERROR_SHOWN],
        )

    def _renew(self, columns: Mapping[str, int | str | None]) -> None:
        # Read before the statement: two threads send it, and their answers may cross.
        asked_at, lease_id, known = time.monotonic(), self.id, self._server
        sets = "".join(f", {name} = %s" for name in columns)
        sql = _RENEW[connections[self.using].vendor].format(sets=sets)
        with relay_cursor(connections[self.using], is_repeated=True) as cursor:
            cursor.execute(sql, [*columns.values(), lease_id])
            stands = cursor.rowcount > 0
            answer = cursor.fetchone() if cursor.description else None
        if stands and answer:
            self._check_server(_Server(*answer), known)
        if self.id == lease_id:  # the other thread has not joined again meanwhile
            if asked_at > self._valid_until - self.seconds / 2:
                # The database was unavailable for a while, also for the other relays.
                self._fences_from = asked_at + self.seconds
            self._valid_until = asked_at + self.seconds if stands else 0.0
        if not stands:
            raise LeaseLost(f"the lease {lease_id} of backend {self.alias!r} was taken away")

    def _check_server(self, now: _Server, known: _Server | None) -> None:
        """Raise LeaseLost if another server answers than the one on which the lease began.

        Behind a pooler no statement fails if a replica takes over that lagged. There the lease may
        not exist, and what the relay remembers of the rows is wrong, above all the watermark.
        """
        if known is None:
            self._server = now
        elif now.timeline != known.timeline or (now.last_id or 0) < (known.last_id or 0):
            self._valid_until = 0.0
            self.in_doubt = True  # what was settled may be pending there
            raise LeaseLost(
                f"another database server answers, or its ids went back, so the lease "
                f"{self.id} of backend {self.alias!r} is not valid there"
            )
        else:
            self._server = now

    def renew_if_expired(self) -> None:
        """Send a heartbeat if the lease may have expired by this process's clock.

        Raises LeaseLost.
        """
        if time.monotonic() >= self._valid_until:
            self.renew()

    def rebalance(self) -> bool:
        """Take or give up partitions for an even share; return True if the own ones changed.

        Relays whose heartbeat stopped are fenced. If the own heartbeat had stopped too, or the
        database's clock jumped, they get the time of a lease first. Raises LeaseLost.
        """
        asked_at = time.monotonic()
        stale = models.Q(heartbeat_at__lt=DatabaseNow() - duration(self.seconds))
        relays = self._relays().filter(backend=self.alias).order_by("pk")
        found = list(
            relays.annotate(
                stale=models.ExpressionWrapper(stale, models.BooleanField()), epoch=DatabaseEpoch()
            ).values_list("pk", "stale", "takes_share", "epoch", "name", "heartbeat_at")
        )
        states = {pk: (is_stale, takes_share) for pk, is_stale, takes_share, *_ in found}
        if self.id not in states:
            raise LeaseLost(f"the lease {self.id} of backend {self.alias!r} was taken away")
        epoch = float(found[0][3])
        self._notice_jump(epoch, asked_at, looks_stale=states[self.id][0])
        for pk, (is_stale, _) in states.items():
            if is_stale and pk != self.id and time.monotonic() >= self._fences_from:
                fence(pk, self._table, self.seconds, self.clock)
        sharing = [pk for pk, (is_stale, shares) in states.items() if shares and not is_stale]
        before, share = self.partitions, self._share(sharing)
        self.partitions = self._table.take_share(self.id, share, in_doubt=self.in_doubt)
        if self.takes_share and (self._is_new or len(self.partitions) != len(before)):
            others = {pk: (name, epoch - beat.timestamp()) for pk, *_, name, beat in found}
            del others[self.id]
            self._log_share(share, {pk: others[pk] for pk in sharing if pk in others})
        self._is_new = False
        return self.partitions != before

    def _log_share(self, share: int, others: Mapping[int, tuple[str, float]]) -> None:
        """Log how many partitions this relay has, and at its start for which lease it waits.

        `others` has the name of each relay, and the seconds since its last heartbeat.
        """
        waits_for = ""
        if self._is_new and len(self.partitions) < share and others:
            name, age = max(others.values(), key=itemgetter(1))
            left = max(0.0, self.seconds - age)
            waits_for = f"; waiting for relay {name} (lease expires in {left:.1f} s if it is dead)"
        logger.info(
            "Backend %r: %s with %d of %d partitions%s.",
            self.alias,
            "joined" if self._is_new else "continuing",
            len(self.partitions),
            conf.PARTITIONS,
            waits_for,
            extra=self.log_extra,
        )

    def _notice_jump(self, epoch: float, asked_at: float, *, looks_stale: bool) -> None:
        """Fence no relay for the time of a lease if the database's clock jumped ahead.

        Heartbeats from before the jump look old, also those of healthy relays. A jump shows in two
        ways: the own heartbeat looks old though it was sent in time, or the database's clock
        advanced by more than the monotonic one.
        """
        self.clock.note(epoch, asked_at)
        jump = self.clock.take_jump()
        in_time = looks_stale and asked_at < self._valid_until
        if not in_time and jump < self.seconds / HEARTBEATS_PER_LEASE:
            return
        if asked_at >= self._fences_from:
            logger.warning(
                "The clock of database %r jumped ahead by %.1f s; taking over from no relay of "
                "backend %r for %s s.",
                self.using,
                jump,
                self.alias,
                self.seconds,
                extra=self.log_extra,
            )
        self._fences_from = asked_at + self.seconds

    def _share(self, sharing: list[int]) -> int:
        """Return this relay's share of the partitions, among the relays that are alive."""
        if not self.takes_share:
            return conf.PARTITIONS
        if self.id not in sharing:  # the own heartbeat is late, but the lease was not taken away
            return len(self.partitions)
        each, rest = divmod(conf.PARTITIONS, len(sharing))
        return each + (sharing.index(self.id) < rest)

    def _relays(self) -> models.QuerySet[OutboxRelay]:
        return OutboxRelay.objects.using(self.using)


def _new_id() -> int:
    """Return the id of a new lease: greater than earlier ones, and found in no other outbox.

    Each statement that settles names the lease. If ids were counted, two outboxes would have the
    same ones, and a relay whose session was switched to another schema would settle events there.
    """
    return time.time_ns() // 1000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
