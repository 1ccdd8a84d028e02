"""A project's `OutboxCelery`, for calls in a test and for a worker process on the test database.

BROADCASTER_CELERY_BROKER    the broker's URL
BROADCASTER_CELERY_QUEUE     the queue of all tasks
BROADCASTER_CELERY_RESULTS   the URL of the result backend
"""

from __future__ import annotations

import os
from typing import Any

from celery import chord, group
from django.db import IntegrityError, transaction

from django_broadcaster.celery_app import OutboxCelery


def make_app(broker: str, queue: str, results: str) -> OutboxCelery:
    """Return an app with the tasks below, which all go to one queue."""
    app = OutboxCelery("tests", broker=broker, backend=results, set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    for function in TASKS:
        app.task(name=f"shop.{function.__name__}", bind=True, shared=False)(function)
    return app


def add(task: Any, *numbers: int) -> int:
    """Return a sum; its last argument is a list in the callback of a chord."""
    return sum(sum(each) if isinstance(each, list) else each for each in numbers)


def place(task: Any, number: str, fails: bool = False) -> str:
    """Write an order, an event and a call in one transaction."""
    from django_broadcaster.publishers import publisher
    from tests.app.models import Order

    with transaction.atomic():
        Order.objects.create(number=number)
        publisher.publish_event("order.placed", "/shop", {"number": number}, backend="default")
        task.app.tasks["shop.confirm"].delay(number)
        if fails:
            raise ValueError(number)
    return number


def confirm(task: Any, number: str) -> None:
    """Write that an order is confirmed."""
    from tests.app.models import Order

    Order.objects.create(number=f"{number} confirmed")


def retry_in_transaction(task: Any, number: str, countdown: float = 0) -> int:
    """Succeed at the third attempt; the others are rolled back, and write an event beforehand."""
    from tests.app.models import Order

    Order.objects.create(number=f"{number} attempt {task.request.retries}")
    with transaction.atomic():
        Order.objects.create(number=f"{number} rolled back")
        if task.request.retries < 2:
            raise task.retry(countdown=countdown)
    return int(task.request.retries)


def retry_after_error(task: Any, number: str) -> int:
    """Ask for a retry while the transaction can do nothing but end."""
    from tests.app.models import Order

    with transaction.atomic():
        order = Order.objects.create(number=number)
        try:
            Order.objects.create(pk=order.pk, number="twice")
        except IntegrityError as error:
            if task.request.retries < 1:
                raise task.retry(exc=error, countdown=0) from error
    with transaction.atomic():
        return int(task.request.retries)


def replace(task: Any, first: int, second: int) -> Any:
    """Let another task take this one's place, from within a transaction."""
    with transaction.atomic():
        return task.replace(task.app.tasks["shop.add"].s(first, second))


def replace_by_group(task: Any, *numbers: int) -> Any:
    """Let a group take this task's place, which Celery makes a chord."""
    with transaction.atomic():
        return task.replace(group(task.app.tasks["shop.add"].s(each, 1) for each in numbers))


def replace_by_chord(task: Any, *numbers: int) -> Any:
    """Let a chord take this task's place."""
    add = task.app.tasks["shop.add"]
    with transaction.atomic():
        return task.replace(chord([add.s(each, 1) for each in numbers], add.s()))


TASKS = (
    *(add, place, confirm, retry_in_transaction, retry_after_error),
    *(replace, replace_by_group, replace_by_chord),
)

app = make_app(
    os.environ.get("BROADCASTER_CELERY_BROKER", "memory://"),
    os.environ.get("BROADCASTER_CELERY_QUEUE", "celery"),
    os.environ.get("BROADCASTER_CELERY_RESULTS", "cache+memory://"),
)
