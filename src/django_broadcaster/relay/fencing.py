"""Taking the lease away from a relay whose heartbeat stopped."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta

from django.db import connections, models, transaction

from django_broadcaster.models import OutboxRelay
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.notify import notify_shares
from django_broadcaster.store import DatabaseClock, RelayRows

from .partition_table import PartitionTable

logger = logging.getLogger("django_broadcaster.relay")


def fence(lease_id: int, table: PartitionTable, seconds: float, clock: DatabaseClock) -> None:
    """End the lease of a relay without a heartbeat for `seconds`, and count the crash.

    A relay that sends a heartbeat meanwhile keeps its lease. If another relay is fencing it, and
    may hang there, nothing is done.
    """
    using = table.using
    with transaction.atomic(using=using):
        may_skip = bool(connections[using].features.has_select_for_update_skip_locked)
        relays = OutboxRelay.objects.using(using).select_for_update(skip_locked=may_skip)
        stale = DatabaseNow() - duration(seconds)
        relay = relays.filter(pk=lease_id, heartbeat_at__lt=stale).first()
        if relay is None:
            return
        count_crash(relay, table.owned_by(lease_id), using, clock)
        table.free_all_of(lease_id, in_doubt=True)
        relay.delete()
        notify_shares(using, table.alias)
    logger.warning(
        "Took over the partitions of relay %s of backend %r, which crashed or stalled: no "
        "heartbeat for %s s.",
        relay.name,
        table.alias,
        seconds,
        extra={"backend": table.alias, "relay": lease_id},
    )


def count_crash(
    relay: OutboxRelay, partitions: Collection[int], using: str, clock: DatabaseClock
) -> None:
    """Count a crash for each event that a relay had in flight in these partitions."""
    if relay.in_flight_from is not None and relay.in_flight_to is not None:
        rows = RelayRows(using, relay.backend, relay.pk, clock)
        ids = [int(each) for each in (relay.in_flight_ids or "").split(",") if each]
        rows.count_crash(relay.in_flight_from, relay.in_flight_to, partitions, ids)


def duration(seconds: float) -> models.Value:
    """Return a number of seconds as a value in a query."""
    return models.Value(timedelta(seconds=seconds), models.DurationField())
