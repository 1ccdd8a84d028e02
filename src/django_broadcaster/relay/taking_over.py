"""Taking over from earlier senders, for backends that keep positions.

A relay that crashed may have left a batch of which the database does not know whether the broker
has it. The broker keeps the ids of such a batch, its position, together with the events. Before a
relay sends events of a partition for the first time, it does this, in this order:

1. It reads which leases may have left unsettled events of its partitions (`sent_by`).
2. The backend fences the earlier relays, which send nothing more, and reads their positions.
3. What a position has and what is still pending is settled as delivered, without being sent.
4. Delivered rows that another transaction has locked become the position of this lease.
5. The partitions are claimed: from now on the next owner takes over from this lease.

The relay checks its lease before each batch, and so after these steps. If it stalls in between and
is replaced, it sends nothing, and its successor knows of it or of those before it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from django_broadcaster.backends.position import Position, mark_of
from django_broadcaster.models import OutboxMove
from django_broadcaster.states import OperationKind
from django_broadcaster.store import PendingRow

from .broker import Broker
from .owned import Owned

logger = logging.getLogger("django_broadcaster.relay")


def must_take_over(owned: Owned, broker: Broker) -> bool:
    """Return True if the relay may not send before it has taken over."""
    backend = broker.backend
    if not backend.keeps_positions:
        return False
    return not owned.is_claimed or backend.must_take_over(owned.lease.id)


def delivered_before(owned: Owned, broker: Broker) -> Sequence[PendingRow] | None:
    """Return the pending rows that earlier senders have delivered; None if the broker is away.

    Raises LeaseLost.
    """
    lease = owned.lease
    earlier = lease.earlier_senders()
    positions: Sequence[Position] | None = ()
    if earlier or broker.backend.must_take_over(lease.id):
        positions = broker.take_over(earlier)
    if positions is None:
        return None
    found = (row for position in positions for row in _pending(owned, position))
    rows = list({row.id: row for row in found}.values())
    if rows:
        logger.info(
            "Backend %r: the broker already has %d events of the last batch of an earlier relay; "
            "settling them without sending them again.",
            lease.alias,
            len(rows),
            extra=lease.log_extra,
        )
    return rows


def claim(owned: Owned, broker: Broker) -> bool:
    """Let the next owner of the partitions take over from this lease; return False if it can't.

    The own position then has the delivered rows that are locked, as the earlier ones are not read
    any more. If they are too many, nothing is claimed before they are settled.
    """
    lease, delivered = owned.lease, owned.locked.delivered
    if broker.backend.max_batch is not None and len(delivered) > broker.backend.max_batch:
        return False
    if delivered and not broker.store_position(delivered):
        return False
    lease.in_doubt = lease.in_doubt or bool(owned.locked)
    lease.claim()
    lease.in_doubt = bool(owned.locked)
    owned.is_claimed = True
    return True


def _pending(owned: Owned, position: Position) -> Sequence[PendingRow]:
    """Return the rows of a position that were delivered and are pending."""
    ids = set(position) - _replayed(owned, position)
    rows = owned.rows.fetch_by_id(owned.partitions, ids).rows if ids else ()
    rows = [row for row in rows if row.id not in owned.locked]
    if any(mark_of(row.event_id) != position[row.id] for row in rows):
        logger.warning(
            "The last position of backend %r at its broker belongs to other events with the same "
            "ids; ignoring it. Was the database restored from a backup?",
            owned.lease.alias,
            extra=owned.lease.log_extra,
        )
        return ()
    return rows


def _replayed(owned: Owned, ids: Collection[int]) -> set[int]:
    """Return those of these rows that an operator replayed: they are to be sent again."""
    moves = OutboxMove.objects.using(owned.lease.using).filter(
        row__in=list(ids), kind=OperationKind.REPLAY
    )
    return set(moves.values_list("row", flat=True))
