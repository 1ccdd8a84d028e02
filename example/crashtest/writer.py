"""One writer: it runs each step of an order in a transaction, and rolls some of them back first."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from django.db import transaction
from shop import services
from shop.models import Order, Product

from django_broadcaster.models import OutboxEvent
from django_broadcaster.signals import event_created

from .judge import Event
from .writers import Desk, Diary, Lane

CHANGES_OF_MIND = 0.1

Step = Callable[[], Order]


class ChangedMind(Exception):
    """Raised inside a transaction to roll it back."""


class Writer:
    """Takes lanes from the desk until none is left, and records events in a diary.

    The diary is in memory, outside of the database, so it also has the events of rolled-back
    transactions.
    """

    def __init__(self, desk: Desk, seed: int) -> None:
        self._desk = desk
        self._random = random.Random(seed)
        self._diary = Diary()
        self._published: list[OutboxEvent] = []  # by the step that runs now
        self._products = list(Product.objects.all())

    def work(self) -> Diary:
        """Run the next steps of orders until all are shipped; return the diary."""
        event_created.connect(self._note)
        while (lane := self._desk.lanes.get()) is not None:
            self._advance(lane)
            time.sleep(self._desk.pause)
        return self._diary

    def _advance(self, lane: Lane) -> None:
        order = self._perform(self._next_step(lane.order_id))
        if order.next_status:
            self._desk.lanes.put(Lane(order.pk, lane.to_come))
        elif lane.to_come > 1:
            self._desk.lanes.put(Lane(None, lane.to_come - 1))
        else:
            self._desk.retire_lane()

    def _next_step(self, order_id: int | None) -> Step:
        if order_id is None:
            product, quantity = self._random.choice(self._products), self._random.randint(1, 5)
            return lambda: services.place_order(product, quantity)
        if Order.objects.get(pk=order_id).status == Order.Status.PLACED:
            return lambda: services.pay_order(order_id)
        return lambda: services.ship_order(order_id)

    def _perform(self, step: Step) -> Order:
        """Run and commit a step; one in ten is rolled back and repeated.

        Half of these roll back a transaction of their own. The others roll back to a savepoint of
        the transaction in which the second attempt commits.
        """
        transaction_around: AbstractContextManager[object] = nullcontext()
        hesitates = self._random.random() < CHANGES_OF_MIND
        if hesitates and self._random.random() < 0.5:
            transaction_around = transaction.atomic()
        undone: list[Event] = []
        with transaction_around:
            if hesitates:
                undone = self._roll_back(step)
            order = step()
        self._diary.rolled_back += undone
        self._diary.committed += [_as_event(row) for row in self._take_published()]
        return order

    def _roll_back(self, step: Step) -> list[Event]:
        """Run a step and roll it back; return its events."""
        try:
            with transaction.atomic():
                step()
                raise ChangedMind
        except ChangedMind:
            return [_as_event(row) for row in self._take_published()]

    def _note(self, event: OutboxEvent, **_: object) -> None:
        self._published.append(event)

    def _take_published(self) -> list[OutboxEvent]:
        taken, self._published = self._published, []
        return taken


def _as_event(row: OutboxEvent) -> Event:
    return Event(row.event_id, row.partition_key, row.cloud_event.data["sequence"])
