"""Outboxes to look at: rows as the relays and the publishers would have left them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from django_broadcaster.models import (
    OutboxAttempt,
    OutboxEvent,
    OutboxPartition,
    OutboxReceiver,
    OutboxRelay,
    OutboxSample,
)
from django_broadcaster.states import OutboxEventStatus as S
from django_broadcaster.store import minute_of
from tests.support.events import insert


def write(number: int, **values: Any) -> OutboxEvent:
    """Return an event of the outbox, not saved."""
    columns: dict[str, Any] = {
        "event_id": f"0197-{number:08}",
        "source": "/shop/orders",
        "event_type": "order.placed",
        "publisher_backend": "default",
        "partition": number % 64,
        "data": {"order": number, "total": "42.00"},
        "data_content_type": "application/json",
    }
    return OutboxEvent(**{**columns, **values})


def busy_shop(now: datetime | None = None) -> None:
    """Fill the outbox: one backend at work, and one whose broker is away."""
    now = now or timezone.now()
    _events(now)
    _relays(now)
    _minutes(now)


def _events(now: datetime) -> None:
    ago = lambda seconds: now - timedelta(seconds=seconds)  # noqa: E731  # shorter in the lists
    rows = [write(n, created_at=ago(1), scheduled_at=ago(1)) for n in range(38)]
    rows += [
        write(100 + n, status=S.PUBLISHED, created_at=ago(90), published_at=ago(89.9))
        for n in range(60)
    ]
    rows += [write(200 + n, status=S.SCHEDULED, scheduled_at=ago(-3600)) for n in range(5)]
    for key, behind in (("customer-17", 31), ("customer-4711", 3)):
        head = {"status": S.RETRY, "retry_count": 2, "scheduled_at": ago(-17)}
        error = "TransientError: customer service answered 503 after 5.2 s"
        rows.append(write(300, partition_key=key, last_error=error, created_at=ago(340), **head))
        rows += [
            write(301 + n, partition_key=key, status=S.BLOCKED, created_at=ago(300 - n))
            for n in range(behind)
        ]
    errors = {
        "Rejected: there is no account {0}": 23,
        "Rejected: schema order/v3 refuses the field 'total' of event {0:08x}-aaaa-bbbb-cccc-"
        "0123456789ab": 9,
        "RuntimeError: handler shop.mail.send: recipient has no address": 4,
    }
    for text, number in errors.items():
        rows += [
            write(500 + n, status=S.FAILED, last_error=text.format(9000 + n), retry_count=3)
            for n in range(number)
        ]
    rows += [
        write(700 + n, publisher_backend="invoices", created_at=ago(260), scheduled_at=ago(260))
        for n in range(1234)
    ]
    insert(*rows)
    head = OutboxEvent.objects.get(status=S.RETRY, partition_key="customer-17")
    for number in (1, 2):
        OutboxAttempt.objects.create(
            row=head.pk,
            number=number,
            attempted_at=ago(340 - 60 * number),
            relay="web-1:4021",
            error="TransientError: customer service answered 503 after 5.2 s",
        )


def _relays(now: datetime) -> None:
    error = "BackendUnavailable: rabbit-1:5672: connection refused"
    for number, (name, backend) in enumerate(
        [("web-1:4021", "default"), ("web-2:3877", "default"), ("web-1:4021", "invoices")]
    ):
        away = backend == "invoices"
        relay = OutboxRelay.objects.create(
            name=name,
            backend=backend,
            started_at=now - timedelta(hours=5, minutes=12),
            heartbeat_at=now - timedelta(seconds=1 + number),
            in_flight_from=None if away else 1 + 500 * number,
            in_flight_to=None if away else 500 + 500 * number,
            circuit_open_since=now - timedelta(seconds=247) if away else None,
            circuit_error=error if away else "",
        )
        mine = range(64) if away else range(32 * number, 32 * number + 32)
        OutboxPartition.objects.bulk_create(
            OutboxPartition(backend=backend, number=n, relay=relay) for n in mine
        )


def _minutes(now: datetime) -> None:
    last = minute_of(now)
    # The minute that has begun, too: it may be over when a test asks for the last whole one.
    OutboxSample.objects.bulk_create(
        sample for back in range(61) for sample in _minute(last - back, max(back, 1))
    )


def _minute(minute: int, back: int) -> list[OutboxSample]:
    """Return the minute of both backends that is so many before the last."""
    wave = 1 + math.sin(back / 7) / 2
    slow = 4 if 20 < back < 26 else 1
    away = back <= 4
    default = OutboxSample(
        backend="default",
        minute=minute,
        published=int(3100 * wave),
        retried=int(12 * wave) * slow,
        failed=back % 9 == 0,
        timed=400,
        medians=int(400 * 14 * wave * slow),
        p99=int(160 * wave * slow),
        backlog=int(40 * wave * slow),
        oldest_age=int(450 * wave * slow),
    )
    invoices = OutboxSample(
        backend="invoices",
        minute=minute,
        published=0 if away else int(700 * wave),
        timed=0 if away else 60,
        medians=0 if away else int(60 * 30 * wave),
        p99=0 if away else int(220 * wave),
        backlog=1234 - 300 * (back - 1) if away else int(6 * wave),
        oldest_age=260_000 - 60_000 * (back - 1) if away else 300,
        circuit_open=away,
    )
    return [default, invoices]


MEMORY = "tests.support.memory_broker.MemoryConsumer"
CONSUMERS: dict[str, Any] = {
    alias: {"CONSUMER": MEMORY, "DELIVER_TO": "handlers"}
    for alias in ("orders", "payments", "partner", "archive")
}
"""The consumers of `receivers`, and one that nobody reads."""


def receivers(now: datetime | None = None) -> None:
    """Fill in receivers: one at work with another in reserve, one malformed, one without broker."""
    now = now or timezone.now()
    ago = lambda seconds: now - timedelta(seconds=seconds)  # noqa: E731  # shorter in the lists
    for consumer, name, values in (
        (
            *("orders", "web-1:12"),
            {"reads": "orders", "received": 128_400, "duplicates": 17, "lag": 312},
        ),
        ("orders", "web-2:15", {"stands_by": True}),
        (
            *("payments", "web-1:12"),
            {"reads": "payments", "received": 900, "malformed": 2, "lag": 0},
        ),
        (
            *("partner", "web-1:12"),
            {
                "reads": "partner",
                "unavailable_since": ago(312),
                "error": "redis.example:6379: connection refused",
            },
        ),
    ):
        reads = values.get("received", 0)
        OutboxReceiver.objects.create(
            name=name,
            consumer=consumer,
            started_at=ago(7200),
            heartbeat_at=ago(1),
            last_received_at=ago(2) if reads else None,
            received_per_second=reads / 7200,
            **values,
        )
