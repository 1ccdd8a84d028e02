"""One delivery: a batch of one backend goes through fetch, select, send, judge and settle.

Each step returns the batch with what it found. A crash between any two of them loses nothing: a row
leaves `pending` only when it is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from django_broadcaster.events.timestamps import in_utc
from django_broadcaster.store import DatabaseClock, PendingRow

from . import poison
from .batch import Batch, Source
from .judging import Judge
from .owned import Owned
from .sending import Sender
from .settling import Settler
from .verdicts import Report


class Pipeline:
    """The steps of the deliveries under one lease."""

    def __init__(self, owned: Owned, sender: Sender, judge: Judge, settler: Settler) -> None:
        self.owned = owned
        self.settler = settler
        self._sender = sender
        self._judge = judge

    def run(self, source: Source) -> Report:
        """Deliver one batch of a source, and return the delivery in figures.

        Raises:
            LeaseLost: What was not settled is delivered again by the next owner of its partitions.
            django.db.Error: The database failed; `settler.settle_interrupted` continues.
        """
        batch = source.fetch()
        batch = self.select(batch)
        with poison.alone(batch.has_suspect):
            batch = self._sender.send(batch)
            batch = self._judge.judge(batch)
            report = self.settler.settle(batch)
        source.advance(batch, report)
        return report

    def settle_delivered(self, rows: Sequence[PendingRow]) -> Report:
        """Settle rows that an earlier relay has delivered; raises as `run` does."""
        batch = Batch(rows=rows, send=rows, outcomes=[None] * len(rows))
        return self.settler.settle(self._judge.judge(batch))

    def select(self, batch: Batch) -> Batch:
        """Choose what to send: nothing after a blocked key, nothing expired, a suspect alone."""
        doubts, clock = self.owned.doubts, self.owned.rows.clock
        is_blocked = self.owned.blocked.blocks
        send, hold, poisonous, expired = [], [], [], []
        for row in batch.rows:
            if is_blocked(row):
                hold.append(row)
            elif _has_expired(row, clock):
                expired.append(row)
            elif not row.crash_count:
                send.append(row)
            elif poison.is_poison(row):
                poisonous.append(row)
                break  # the events of its key that follow are in the next fetch
            else:
                if not send:
                    send.append(row)
                break
        return replace(
            batch,
            send=doubts.last(send),
            hold=hold,
            poison=poisonous,
            expired=expired,
            is_repeat=all(map(doubts.has, send)),
        )


def _has_expired(row: PendingRow, clock: DatabaseClock) -> bool:
    """Return True if the row's event has the extension `expirytime`, and that time has passed.

    https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
    """
    if '"expirytime"' not in row.extensions:  # as in nearly every event: nothing is decoded
        return False
    try:
        moment = orjson.loads(row.extensions).get("expirytime")
        return moment is not None and in_utc(moment).timestamp() <= clock.timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError):  # no valid time: it is sent
        return False
