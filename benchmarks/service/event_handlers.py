"""The handler: it inserts a row, and announces it once the transaction commits."""

from __future__ import annotations

from django.db import connection

from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import event_registry

INSERT = "INSERT INTO bench_handled (number, customer) VALUES (%s, %s)"
ANNOUNCE = "SELECT pg_notify('bench_handled', %s)"


@event_registry.register("order.placed", consumer="service")
def handle(event: CloudEvent) -> None:
    """Insert one row."""
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [event.data["n"], event.partition_key])
        cursor.execute(ANNOUNCE, [event.id])
