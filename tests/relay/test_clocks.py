"""Clocks that differ or jump: the database's decides, and a jump takes no lease away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxPartition, OutboxRelay
from django_broadcaster.relay.lease import Lease
from tests.support.databases import SERVERS
from tests.support.events import publish, row, statuses
from tests.support.fake_time import preloaded, preloaded_from
from tests.support.own_servers import OwnDatabase, own_instance, running, service_like
from tests.support.waiting import wait_until
from tests.support.workers import Workers

from .conftest import Stream

if TYPE_CHECKING:
    from pytest_django import Settings

REDIS = "django_broadcaster.backends.RedisStreamBackend"
pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_the_database_decides_what_is_due_and_what_is_old(
    database: str,
    stream: Stream,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    offset: str,
) -> None:
    """A relay whose own clock is an hour off sends nothing early or late, and purges on time."""
    now = timezone.now()
    soon = now + timedelta(minutes=30)
    rows = OutboxEvent.objects.using(database)
    publish("now1", "retry1", "fresh1", "old1", using=database)
    publish("expires1", using=database, extensions={"expirytime": soon})
    publish("later1", using=database, scheduled_at=soon)
    rows.filter(subject="retry1").update(status="retry", scheduled_at=now)
    for name, age in {"fresh1": timedelta(minutes=5), "old1": timedelta(minutes=40)}.items():
        rows.filter(subject=name).update(
            status="published", published_at=now - age, scheduled_at=now - age, created_at=now - age
        )
    with monkeypatch.context() as patch:
        for name, value in preloaded(offset).items():
            patch.setenv(name, value)
        workers.start(
            database,
            OUTBOX_PUBLISHERS=stream.publishers(REDIS),
            OUTBOX_RETENTION=timedelta(minutes=30).total_seconds(),
        )
    wait_until(lambda: {"now1", "retry1", "expires1"} <= set(stream.names()), 20, "what is due")
    wait_until(lambda: not rows.filter(subject="old1").exists(), 20, "the purge")
    expected = dict.fromkeys(("now1", "retry1", "expires1", "fresh1"), "published")
    wait_until(lambda: statuses(database) == {**expected, "later1": "scheduled"}, 20, "the settle")
    assert "later1" not in stream.names()
    published_at = row("now1", database).published_at
    assert published_at is not None
    assert abs(published_at - timezone.now()) < timedelta(minutes=5)


class Jumping:
    """A database server whose time of day a test can change."""

    def __init__(self, server: OwnDatabase, file: Path) -> None:
        self.server = server
        self._file = file

    def set(self, seconds: int) -> None:
        """Let its clock be so far ahead from now on."""
        self._file.write_text(f"{seconds:+d}")


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def jumping_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: pytest.FixtureRequest,
) -> Iterator[Jumping]:
    """A server of this module's own."""
    if request.param == "mariadb":
        pytest.importorskip("MySQLdb")
    with own_instance(service_like(request.param)) as instance:
        file = instance.home / "offset"
        file.write_text("+0")
        file.chmod(0o644)
        with (
            django_db_blocker.unblock(),  # type: ignore[attr-defined]
            running(instance, preloaded_from(file)) as server,
        ):
            yield Jumping(server, file)


@pytest.fixture
def jumping(jumping_server: Jumping, committing: None) -> Iterator[Jumping]:
    """The same with an empty outbox, and on time."""
    jumping_server.set(0)
    yield jumping_server
    for model in (OutboxEvent, OutboxPartition, OutboxRelay):
        model._base_manager.using("own").all()._raw_delete("own")


def test_a_jump_of_the_databases_clock_takes_no_lease_away(
    jumping: Jumping, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Healthy relays keep their leases, one that dies then is replaced, and no crash is counted."""
    settings.OUTBOX_LEASE_SECONDS = 2
    leases = [Lease("own", "default") for _ in range(3)]
    first, second, third = leases
    for lease in leases:
        lease.join()
    for _ in range(3):
        for lease in leases:
            lease.rebalance()
    (event,) = publish("a1", using="own")
    third.begin_delivery([event.pk])
    known = {lease.id for lease in leases}
    jumping.set(60)
    for lease in leases:
        lease.renew()
        lease.rebalance()
        assert set(OutboxRelay.objects.using("own").values_list("pk", flat=True)) == known
    assert "jumped ahead by" in caplog.text
    assert row("a1", "own").crash_count == 0

    def is_replaced() -> bool:
        for lease in (first, second):
            lease.renew()
            lease.rebalance()
        return third.id not in OutboxRelay.objects.using("own").values_list("pk", flat=True)

    wait_until(is_replaced, 20, "the end of the dead one's lease")
    assert {first.id, second.id} <= set(
        OutboxRelay.objects.using("own").values_list("pk", flat=True)
    )
    for lease in (first, second):
        lease.leave()


def test_a_jump_that_another_question_showed_takes_no_lease_away(
    jumping: Jumping, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay keeps in mind that its clock was wrong until it looks at the other relays."""
    settings.OUTBOX_LEASE_SECONDS = 2
    first, second = Lease("own", "default"), Lease("own", "default")
    for lease in (first, second):
        lease.join()
        lease.rebalance()
    jumping.set(60)
    first.clock.ask()
    first.renew()
    first.rebalance()
    assert OutboxRelay.objects.using("own").filter(pk=second.id).exists()
    assert "jumped ahead by" in caplog.text
    for lease in (first, second):
        lease.leave()


def test_relays_go_on_over_a_jump(jumping: Jumping, stream: Stream, workers: Workers) -> None:
    """Three processes keep their leases and deliver each event once: before, at, after the jump."""
    seconds = 5
    options = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": seconds}
    three = [workers.start("own", **options) for _ in range(3)]
    relays = OutboxRelay.objects.using("own")
    names = [f"{key}1" for key in "abcdefghijkl"]

    def deliver(*some: str) -> None:
        publish(*some, using="own")
        wait_until(lambda: set(statuses("own").values()) == {"published"}, 30, "every event")

    wait_until(lambda: relays.filter(partitions__isnull=False).distinct().count() == 3, 30, "three")
    known = set(relays.values_list("pk", flat=True))
    deliver(*names[:4])
    jumping.set(60)
    wait_until(lambda: any("jumped ahead" in each.output for each in three), 30, "a look")
    deliver(*names[4:8])
    after = relays.order_by("-heartbeat_at")[0].heartbeat_at + timedelta(seconds=seconds + 1)
    wait_until(lambda: relays.filter(heartbeat_at__gt=after).count() == 3, 30, "heartbeats of all")
    deliver(*names[8:])
    assert set(relays.values_list("pk", flat=True)) == known
    assert sorted(stream.names()) == names
    assert not any("Took over" in each.output for each in three)
