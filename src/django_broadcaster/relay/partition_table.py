"""The rows that say which relay owns which partitions of a backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable

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

    def free_all_of(self, lease_id: int) -> int:
        """Take all partitions from a relay; return how many."""
        return self._rows().filter(relay_id=lease_id).update(relay=None)

    def take_share(self, lease_id: int, share: int) -> frozenset[int]:
        """Give up or take partitions until a relay owns `share` of them, and return its own.

        Raises LeaseLost.
        """
        owners: dict[int, int | None] = dict(self._rows().values_list("number", "relay_id"))
        owned = sorted(number for number, owner in owners.items() if owner == lease_id)
        if len(owned) > share:
            given_up, owned = owned[share:], owned[:share]
            self.change_owner(given_up, None, lease_id)
            notify_shares(self.using, self.alias)
        elif len(owned) < share:
            free = sorted(number for number, owner in owners.items() if owner is None)
            if free:
                self.change_owner(free[: share - len(owned)], lease_id, None)
                owned = self.owned_by(lease_id)
        return frozenset(owned)

    def change_owner(self, numbers: Iterable[int], owner: int | None, before: int | None) -> None:
        """Change the owner of those of these partitions that `before` still owns.

        Raises LeaseLost if the new owner has no lease.
        """
        rows = self._rows().filter(number__in=list(numbers))
        rows = rows.filter(relay__isnull=True) if before is None else rows.filter(relay=before)
        try:
            rows.update(relay=owner)
        except IntegrityError as error:  # the relay's row that it refers to was deleted
            raise LeaseLost(f"the lease {owner} was taken away") from error

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
