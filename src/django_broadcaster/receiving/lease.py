"""A receiver's lease: a row of `OutboxReceiver`, valid while its heartbeat is fresh.

Where one receiver at a time may read a consumer, that one has the consumer's alias in the column
`reads`, which is unique. The others stand by. A receiver without a heartbeat for
OUTBOX_LEASE_SECONDS is deleted by the others. Each batch updates its receiver's row in its own
transaction. So a receiver that was deleted, such as one that was suspended, writes nothing more.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, connections, models, transaction

from django_broadcaster.conf import conf
from django_broadcaster.consumers.rows import Written
from django_broadcaster.exceptions import LeaseLost
from django_broadcaster.idle_connections import is_in_transaction
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.models.managers import DatabaseNow
from django_broadcaster.relay.fencing import duration
from django_broadcaster.store import NewRow, add_to_receiver, insert_received

logger = logging.getLogger("django_broadcaster.receiver")


class ReceiverLease:
    """The row of one receiver. A second thread may call `renew` alone.

    Args:
        using: The alias of the outbox's database.
        consumer: The alias of the consumer.
        reads_alone: Whether one receiver at a time may read.
    """

    def __init__(self, using: str, consumer: str, *, reads_alone: bool = True) -> None:
        self.using = using
        self.consumer = consumer
        self.reads_alone = reads_alone
        self.seconds = float(conf.LEASE_SECONDS)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.id = 0
        self.is_lost = False
        """Whether another receiver has deleted the row."""
        self._valid_until = 0.0

    @property
    def seconds_left(self) -> float:
        """Seconds until the lease expires without another heartbeat; 0 or less if it may have."""
        return self._valid_until - time.monotonic()

    def join(self) -> None:
        """Insert the row, without the right to read, and delete those of receivers that crashed."""
        self._delete_stale()
        asked_at = time.monotonic()
        row = OutboxReceiver.objects.using(self.using).create(
            name=self.name,
            consumer=self.consumer,
            stands_by=self.reads_alone,
            started_at=DatabaseNow(),
            heartbeat_at=DatabaseNow(),
        )
        self.id, self.is_lost = row.pk, False
        self._valid_until = asked_at + self.seconds

    def may_read(self) -> bool:
        """Take the right to read, if no other receiver has it; raises LeaseLost."""
        self._delete_stale()
        if self._rows().filter(reads=self.consumer).exclude(pk=self.id).exists():
            self._update({"stands_by": True})
            return False
        try:
            with transaction.atomic(using=self.using):
                self._update({"reads": self.consumer, "stands_by": False})
        except IntegrityError:
            return False
        return True

    def begin(self) -> None:
        """Begin the transaction of a batch.

        The server ends it if this process is suspended in the middle: its row would stay locked,
        and no other one could replace it. MySQL can't do that.

        MariaDB and MySQL reserve the ids of rows when a statement begins. If two receivers insert
        the same messages, because these have just moved from one to the other, the later rows of
        the second could have lower ids than the earlier rows of the first. So they take turns.
        """
        connection = connections[self.using]
        timeout = ""
        if connection.vendor == "postgresql":
            milliseconds = int(self.seconds * 1000)
            timeout = f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        elif getattr(connection, "mysql_is_mariadb", False):
            timeout = f"SET SESSION idle_transaction_timeout = {max(1, int(self.seconds))}"
        if timeout:
            with connection.cursor() as cursor:
                cursor.execute(timeout)
        if connection.vendor == "mysql" and not self.reads_alone:
            list(self._rows().order_by("pk").select_for_update().values_list("pk"))

    def end(self, written: Written) -> None:
        """Add a batch to the figures, in the transaction that writes it; raises LeaseLost."""
        asked_at, receiver = time.monotonic(), self.id
        stands = add_to_receiver(
            connections[self.using],
            receiver,
            self.consumer,
            received=written.received,
            duplicates=written.duplicates,
            malformed=written.malformed,
        )
        self._note(asked_at, receiver, stands)

    def insert(self, rows: Sequence[NewRow], received: int) -> int | None:
        """Insert rows and add the batch to the figures in one statement; return how many are new.

        None if the database has no such statement, or the caller a transaction of its own; then
        nothing was written. Raises LeaseLost.
        """
        connection = connections[self.using]
        if connection.vendor != "postgresql" or is_in_transaction(connection):
            return None
        asked_at, receiver = time.monotonic(), self.id
        new = insert_received(connection, rows, receiver, self.consumer, received=received)
        self._note(asked_at, receiver, new is not None)
        return new

    def renew(self, figures: Mapping[str, Any]) -> None:
        """Send a heartbeat with the latest figures; raises LeaseLost.

        On MariaDB and MySQL it is left out while another receiver has locked the row for its batch
        (see `begin`): the caller may send those of a whole process, and must not wait. A locked
        row is not deleted meanwhile.
        """
        if connections[self.using].vendor != "mysql":
            self._update(figures)
            return
        row = self._rows().filter(pk=self.id)
        with transaction.atomic(using=self.using):
            is_free = bool(row.select_for_update(skip_locked=True).values_list("pk"))
            if is_free or not row.exists():
                self._update(figures)

    def leave(self) -> None:
        """Delete the row, if there is one: another receiver may read at once."""
        if self.id:
            self._rows().filter(pk=self.id).delete()
        self.id = 0
        self._valid_until = 0.0

    def _update(self, values: Mapping[str, Any]) -> None:
        asked_at, receiver = time.monotonic(), self.id  # two threads may ask at the same time
        rows = self._rows().filter(pk=receiver)
        stands = rows.update(heartbeat_at=DatabaseNow(), **values) > 0
        self._note(asked_at, receiver, stands)

    def _note(self, asked_at: float, receiver: int, stands: bool) -> None:
        """Note whether the row of a receiver was there at that time; raises LeaseLost if not."""
        if self.id == receiver:
            self._valid_until = asked_at + self.seconds if stands else 0.0
            self.is_lost = not stands
        if not stands:
            raise self.error()

    def error(self) -> LeaseLost:
        """Return the error of a lease that is lost."""
        return LeaseLost(
            f"receiver {self.id} of consumer {self.consumer!r} had no heartbeat for "
            f"{self.seconds:g} s and was replaced"
        )

    def _delete_stale(self) -> None:
        """Delete the receivers of the consumer without a heartbeat.

        One that is in the middle of its transaction is left alone: it has locked its row.
        """
        may_skip = bool(connections[self.using].features.has_select_for_update_skip_locked)
        stale = self._rows().filter(heartbeat_at__lt=DatabaseNow() - duration(self.seconds))
        if not stale.exists():
            return
        with transaction.atomic(using=self.using):
            rows = list(stale.select_for_update(skip_locked=may_skip))
            self._rows().filter(pk__in=[row.pk for row in rows]).delete()
        for row in rows:
            logger.warning(
                "Replaced receiver %s of consumer %r, which crashed or stalled: no heartbeat for "
                "%g s.",
                row.name,
                self.consumer,
                self.seconds,
                extra={"consumer": self.consumer},
            )

    def _rows(self) -> models.QuerySet[OutboxReceiver]:
        return OutboxReceiver.objects.using(self.using).filter(consumer=self.consumer)
