"""Tasks that tests enqueue and workers import (Django 6.0 or newer)."""

from __future__ import annotations

import sys
from threading import Barrier
from typing import Any

from django.db import router, transaction
from django.tasks import TaskContext, task

from django_broadcaster.exceptions import Reject, Retry
from tests.app.models import Order

CALLS: list[Any] = []
"""The arguments of the calls of `note` in this process."""

FAILURES: list[BaseException] = []
"""The errors that the next calls of `may_fail` raise, the last one first."""

MEETING = Barrier(2)


@task
def note(*args: Any, **kwargs: Any) -> None:
    """Note the arguments."""
    CALLS.append((list(args), kwargs))


@task
def meet() -> None:
    """Return once another task meets this one, in another thread."""
    MEETING.wait(20)


@task
def add(first: int, second: int) -> int:
    """Return a sum."""
    return first + second


@task
async def add_later(first: int, second: int) -> int:
    """Return a sum, in a coroutine."""
    return first + second


@task
def place_order(number: str) -> dict[str, str]:
    """Create an order."""
    Order.objects.create(number=number)
    return {"number": number}


@task
def place_order_by_itself(number: str) -> None:
    """Create an order in a transaction that must be the outermost."""
    with transaction.atomic(durable=True):
        Order.objects.create(number=number)


@task
def may_fail(number: str) -> str:
    """Create an order and raise the next error, if there is one."""
    Order.objects.create(number=number)
    if FAILURES:
        raise FAILURES.pop()
    return number


@task
def fail_after_commit(number: str) -> None:
    """Create an order, and let a function after the commit raise an error."""
    Order.objects.create(number=number)
    using = router.db_for_write(Order)
    transaction.on_commit(lambda: int("none"), using=using)


@task
def leave() -> None:
    """End the process, as far as a task can."""
    sys.exit("enough")


@task
def refuse() -> None:
    """Reject the event."""
    raise Reject("there is no such order")


@task
def ask_for_retry() -> None:
    """Ask for a retry in an hour."""
    raise Retry("not yet", after=3600)


@task
def return_what_is_no_json() -> Any:
    """Return an object that JSON does not have."""
    Order.objects.create(number="made")
    return object()


@task(takes_context=True)
def show_context(context: TaskContext) -> list[Any]:
    """Return what the context says."""
    result = context.task_result
    return [result.id, str(result.status), context.attempt, len(result.worker_ids)]
