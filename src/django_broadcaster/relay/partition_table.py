"""The rows that say which relay owns which partitions of a backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, models

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.notify import notify_shares

logger = logging.getLogger("django_broadcaster.relay")


class PartitionTable:
    """The partitions of one backend, below OUTBOX_PARTITIONS."""

    def __init__(self, using: str, alias: str) -> None:
        self.using = using
        self.alias = alias

    def create_missing(self) -> None:
        """Create the rows that are missing."""
        rows = OutboxPartition.objects.using(self.using).filter(backend=self.alias)
        known = set(rows.values_list("number", flat=True))
        if max(known, default=0) >= conf.PARTITIONS:
            self._warn_of_stranded()
        missing = [
            OutboxPartition(backend=self.alias, number=number)
            for number in range(conf.PARTITIONS)
            if number not in known
        ]
        if missing:
            OutboxPartition.objects.using(self.using).bulk_create(missing, ignore_conflicts=True)

    def owned_by(self, lease_id: int) -> list[int]:
        """Return the numbers of the partitions that a relay owns."""
        return list(self._rows().filter(relay_id=lease_id).values_list("number", flat=True))

    def free_all_of(self, lease_id: int, *, in_doubt: bool) -> int:
        """Take all partitions from a relay; return how many.

        If it is `in_doubt`, the broker may have events of them that are not settled.
        """
        return self._rows().filter(relay_id=lease_id).update(**_freed(lease_id, in_doubt=in_doubt))

    def take_share(self, lease_id: int, share: int, *, in_doubt: bool) -> frozenset[int]:
        """Give up or take partitions until a relay owns `share` of them, and return its own.

        A relay that is `in_doubt` gives up none: its next batch would replace the position that
        the next owner has to read. Its lease ends instead, and with it the position stays.

        Raises LeaseLost.
        """
        owners: dict[int, int | None] = dict(self._rows().values_list("number", "relay_id"))
        owned = sorted(number for number, owner in owners.items() if owner == lease_id)
        if len(owned) > share:
            if in_doubt:
                raise LeaseLost(
                    f"the lease {lease_id} of backend {self.alias!r} must give up partitions while "
                    "events may be delivered that are not settled"
                )
            given_up, owned = owned[share:], owned[:share]
            mine = self._rows().filter(number__in=given_up, relay_id=lease_id)
            mine.update(**_freed(lease_id, in_doubt=False))
            notify_shares(self.using, self.alias)
        elif len(owned) < share:
            free = sorted(number for number, owner in owners.items() if owner is None)
            if free:
                self.take(free[: share - len(owned)], lease_id)
                owned = self.owned_by(lease_id)
        return frozenset(owned)

    def take(self, numbers: Iterable[int], lease_id: int) -> None:
        """Give a relay those of these partitions that are free; raises LeaseLost."""
        free = self._rows().filter(number__in=list(numbers), relay__isnull=True)
        try:
            free.update(relay=lease_id)
        except IntegrityError as error:  # the relay's row that it refers to was deleted
            raise LeaseLost(f"the lease {lease_id} was taken away") from error

    def senders(self, lease_id: int) -> set[int]:
        """Return the leases that may have sent events that are not settled, of own partitions."""
        owned = self._rows().filter(relay_id=lease_id)
        senders = owned.order_by().values_list("sent_by", flat=True).distinct()
        return {sender for sender in senders if sender is not None}

    def claim(self, lease_id: int) -> None:
        """Note that a relay sends the events of its partitions from now on."""
        self._rows().filter(relay_id=lease_id).update(sent_by=lease_id)

    def _warn_of_stranded(self) -> None:
        """Log an error if events wait in partitions that no relay delivers any more."""
        events = OutboxEvent.objects.using(self.using).undelivered()
        if events.filter(publisher_backend=self.alias, partition__gte=conf.PARTITIONS).exists():
            logger.error(
                "No relay delivers the events of backend %r in partitions from %d on, because "
                "OUTBOX_PARTITIONS was reduced. Set it to its former value until they are "
                "delivered.",
                self.alias,
                conf.PARTITIONS,
                extra={"backend": self.alias},
            )

    def _rows(self) -> models.QuerySet[OutboxPartition]:
        rows = OutboxPartition.objects.using(self.using).filter(backend=self.alias)
        return rows.filter(number__lt=conf.PARTITIONS)


def _freed(lease_id: int, *, in_doubt: bool) -> dict[str, Any]:
    """Return the changes that free a partition.

    The next owner has to know who sent before, unless that was this relay and all is settled.
    """
    if in_doubt:
        return {"relay": None}
    sent_before = models.Case(models.When(sent_by=lease_id, then=None), default="sent_by")
    return {"relay": None, "sent_by": sent_before}
