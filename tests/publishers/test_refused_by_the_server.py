"""What MariaDB refuses by its configuration is said by a typed error, and costs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connections, transaction

from django_broadcaster.exceptions import (
    PayloadTooLarge,
    RefusedByDatabase,
    StatementTooLong,
    TransientError,
)
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.relay.loop import DeliveryLoop
from tests.relay.conftest import drain
from tests.support.backends import forget_scripts, script
from tests.support.own_servers import OwnDatabase, as_alias, own_instance, running, service_like

PACKET = 1 << 20


@pytest.fixture(scope="module")
def strict_server(
    django_db_setup: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[OwnDatabase]:
    """A MariaDB that takes statements of 1 MB, and writes a binary log."""
    pytest.importorskip("MySQLdb")
    words = "--max-allowed-packet=1M --log-bin=log --server-id=1 --binlog-format=MIXED"
    with (
        django_db_blocker.unblock(),  # type: ignore[attr-defined]
        own_instance(service_like("mariadb", serve=words)) as instance,
        running(instance) as server,
    ):
        yield server


@pytest.fixture
def strict(strict_server: OwnDatabase, committing: None, settings: Any) -> Iterator[str]:
    """The alias of its outbox, which is empty."""
    strict_server.execute("TRUNCATE TABLE django_broadcaster_outboxevent")
    strict_server.execute("TRUNCATE TABLE django_broadcaster_outboxattempt")
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": "tests.support.backends.ScriptedBackend"}}
    settings.OUTBOX_RETRY = {"initial": 600, "maximum": 600}
    forget_scripts()
    yield strict_server.alias
    forget_scripts()


@pytest.mark.parametrize(
    "data",
    ["x" * PACKET, b"x" * PACKET, "\\" * (PACKET // 4), "é" * (PACKET // 2), b"\0" * (PACKET // 2)],
    ids=["text", "bytes", "escapes", "characters", "escaped bytes"],
)
def test_an_event_over_the_packet_is_refused_before_it_is_sent(strict: str, data: Any) -> None:
    """The session and the caller's transaction are there afterwards, with what they had done."""
    with transaction.atomic(using=strict):
        publisher.publish_event("a.b", "/s", "before", using=strict)
        with pytest.raises(StatementTooLong) as refused:
            publisher.publish_event("a.b", "/s", data, using=strict)
        with pytest.raises(PayloadTooLarge):
            publisher.publish_events(
                [{"event_type": "a.b", "source": "/s", "data": each} for each in (1, data)],
                using=strict,
            )
    assert (refused.value.database, refused.value.limit) == (strict, PACKET)
    assert refused.value.size > PACKET
    assert [row.data for row in OutboxEvent.objects.using(strict)] == ["before"]


@pytest.mark.parametrize("data", ["x" * 1_000_000, b"\0" * 500_000], ids=["text", "escaped bytes"])
def test_an_event_that_fits_in_the_packet_is_stored(strict: str, data: Any) -> None:
    """What the server takes is not refused, next to others of its call as well."""
    small = {"event_type": "a.b", "source": "/s", "data": "x" * 20_000}
    events = [small, {**small, "data": data}, *[small] * 100]
    assert publisher.publish_events(events, using=strict) == len(events)
    first = OutboxEvent.objects.using(strict).order_by("id")[1]
    assert data in (first.data, first.data_binary)


def test_many_long_errors_are_settled(strict: str) -> None:
    """A batch whose errors are over the packet together is written down in parts."""
    for number in range(5):
        publisher.publish_events(
            [{"event_type": "a.b", "source": "/s", "subject": f"{number}"}] * 200, using=strict
        )
    script().fail("*", TransientError("\\" * 2000))
    with DeliveryLoop(strict, "default") as loop:
        drain(loop, 1000)
    assert OutboxEvent.objects.using(strict).filter(status="retry").count() == 1000
    assert OutboxAttempt.objects.using(strict).count() == 1000


def test_an_isolation_level_that_the_server_refuses_is_named(strict_server: OwnDatabase) -> None:
    """Publishing raises what to do about it, the transaction goes on, and a check has said it."""
    options = {"init_command": "SET SESSION binlog_format = 'STATEMENT'"}
    with as_alias("strange", {**strict_server.place, "OPTIONS": options}) as alias:
        found = [each for each in run_checks(tags=["database"], databases=[alias]) if each.id]
        (message,) = [each for each in found if each.id == "django_broadcaster.E031"]
        assert "['isolation_level'] to 'repeatable read'" in (message.hint or "")
        with transaction.atomic(using=alias):
            with pytest.raises(RefusedByDatabase, match="E031"):
                publisher.publish_event("a.b", "/s", using=alias)
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
        with pytest.raises(RefusedByDatabase, match="E031"):
            publisher.publish_events([{"event_type": "a.b", "source": "/s"}], using=alias)
    options["isolation_level"] = "repeatable read"
    with as_alias("strange", {**strict_server.place, "OPTIONS": options}) as alias:
        found = [each for each in run_checks(tags=["database"], databases=[alias]) if each.id]
        assert "django_broadcaster.E031" not in [each.id for each in found]
        assert publisher.publish_event("a.b", "/s", using=alias).pk
