"""SQLite, where one process writes at a time: an application writes beside a relay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command
from django.db import OperationalError, connections, transaction

from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.app.models import Order
from tests.support.own_servers import as_alias
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

from .conftest import working

if TYPE_CHECKING:
    from pytest_django import Settings

    from tests.support.backends import Script

DOCUMENTED = {"transaction_mode": "IMMEDIATE"}
TRANSACTIONS = 100


@pytest.mark.chaos  # for the time that it takes
@pytest.mark.parametrize("options", [DOCUMENTED, {}], ids=["documented", "default"])
def test_transactions_that_read_before_they_write_beside_a_relay(
    committing: None, scripted: Script, settings: Settings, tmp_path: Path, options: dict[str, str]
) -> None:
    """With the documented option none of them is refused; without it one that is overtaken is."""
    place = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"timeout": 30, **options},
        "HOST": "",
        "PORT": "",
    }
    with as_alias("file", place) as alias:
        settings.DATABASE_ROUTERS = [OneDatabase(alias)]
        call_command("migrate", database=alias, verbosity=0)
        if not options:
            with pytest.raises(OperationalError, match="locked"):
                write_overtaken(alias)
            return
        with working(alias):
            for number in range(TRANSACTIONS):
                with transaction.atomic(using=alias):
                    assert Order.objects.using(alias).count() == number
                    Order.objects.using(alias).create(number=str(number))
                    publisher.publish_event("order.placed", "/s", subject=f"{number}", using=alias)
            wait_until(lambda: len(scripted.arrived) == TRANSACTIONS, 30, "every event")
        assert scripted.arrived == [str(number) for number in range(TRANSACTIONS)]
        assert not OutboxEvent.objects.using(alias).filter(retry_count__gt=0).exists()


def write_overtaken(alias: str) -> None:
    """Read, let another connection write, and write."""
    other = connections[alias].copy()
    try:
        with transaction.atomic(using=alias):
            assert Order.objects.using(alias).count() == 0
            with other.cursor() as cursor:
                cursor.execute("INSERT INTO tests_app_order (number, total) VALUES ('0', 0)")
            Order.objects.using(alias).create(number="1")
    finally:
        other.close()
