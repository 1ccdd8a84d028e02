"""Everything works through PgBouncer in transaction mode, but the wake-ups.

The settings of the connection are those of docs/how-to/run-the-relay.md. What the tests of other
modules show on every database is shown here through the pooler once more: they are imported, and
the fixture `database` of this module takes the place of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from django_broadcaster.notify import CHANNEL, SHARES_CHANNEL
from django_broadcaster.relay import polling
from tests.publishers.test_publish import (  # noqa: F401  # run by pytest
    test_any_event_comes_back_as_it_was,
    test_event_commits_with_the_change,
    test_event_is_rolled_back_with_its_savepoint,
    test_event_is_rolled_back_with_the_change,
    test_fan_out_inside_of_a_transaction_cannot_commit_in_part,
    test_fan_out_outside_of_a_transaction_is_all_or_nothing,
    test_publishers_are_shared_by_threads,
    test_route_to_several_backends_writes_a_row_for_each,
    test_same_identity_from_many_transactions_at_once,
    test_same_identity_from_two_transactions_at_once,
    test_same_identity_writes_one_row_and_returns_it,
)
from tests.publishers.test_publish_events import (  # noqa: F401
    test_events_are_rolled_back_with_the_change,
    test_events_commit_with_the_change,
    test_generator_may_use_the_connection,
    test_known_identities_are_written_once,
    test_same_identities_from_two_transactions_at_once,
)
from tests.support.backends import Script
from tests.support.events import publish, row
from tests.support.load import all_settled, repeats, writing
from tests.support.pgbouncer import Pool, pooling
from tests.support.waiting import wait_until
from tests.support.workers import Worker, Workers
from tests.test_inbox import (  # noqa: F401
    test_many_consumers_at_once,
    test_two_consumers_at_once,
)

from .conftest import Stream, working
from .test_database_trouble import is_listening
from .test_delivery import (  # noqa: F401
    test_a_key_keeps_its_order_over_batches,
    test_a_retry_comes_by_itself,
    test_a_waiting_event_holds_back_its_own_key_only,
    test_more_followers_than_one_step_releases_come_in_order,
)
from .test_inline import test_pending_events_are_delivered_here_and_now  # noqa: F401
from .test_order import (  # noqa: F401
    test_a_late_event_is_found_behind_much_that_is_delivered,
    test_events_under_many_writers_arrive_once_and_in_order,
)
from .test_ownership import (  # noqa: F401
    lease,
    test_a_crash_is_laid_to_what_was_in_flight,
    test_a_fenced_relay_changes_no_row,
    test_a_lost_lease_takes_no_partition,
    test_a_stale_lease_is_taken_over,
    test_relays_in_a_hurry_never_own_the_same,
    test_shares_follow_who_joins_and_leaves,
)
from .test_plans import large, test_the_first_rows_are_read_and_no_others  # noqa: F401
from .test_purge import test_old_events_are_purged_past_those_that_stay  # noqa: F401

if TYPE_CHECKING:
    pass

REDIS = "django_broadcaster.backends.RedisStreamBackend"
BATCH = 20
SAID = "NOTIFY does not reach this relay"
pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def pgbouncer(django_db_setup: None, django_db_blocker: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pooler in front of the shared PostgreSQL, which is the alias `default`."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    with django_db_blocker.unblock(), pooling("default") as pool:  # type: ignore[attr-defined]
        yield pool


@pytest.fixture
def pooled(pgbouncer: Pool, committing: None) -> Iterator[str]:
    """The alias of the database behind the pooler, which has several sessions in use."""
    pgbouncer.open_sessions()
    yield pgbouncer.alias
    connections[pgbouncer.alias].close()


@pytest.fixture
def database(pooled: str) -> str:
    """What the imported tests run on."""
    return pooled


def test_each_transaction_may_have_another_session(pgbouncer: Pool, pooled: str) -> None:
    """This is what makes these tests of a pooler: no session is a client's own."""
    assert len(set(pgbouncer.ask_every_session("SELECT pg_backend_pid()"))) > 3


def test_relays_are_killed_and_the_pooler_restarts(
    pgbouncer: Pool, pooled: str, stream: Stream, workers: Workers
) -> None:
    """Under load everything arrives in order; of a dead relay's batch some may come twice."""
    arguments = ("--batch-size", str(BATCH), "--interval", "0.05")
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS), "OUTBOX_LEASE_SECONDS": 3}

    def start() -> Worker:
        return workers.start(pooled, *arguments, **settings)

    def some_more() -> None:
        goal = len(stream) + 100
        wait_until(lambda: len(stream) >= goal, 30, "deliveries")

    with writing(pooled) as load:
        first, second = start(), start()
        wait_until(lambda: SAID in first.output and SAID in second.output, 20, "both at work")
        some_more()
        first.kill()
        third = start()
        some_more()
        pgbouncer.instance.stop(SIGKILL)
        connections[pooled].close()
        pgbouncer.start()
        some_more()
    wait_until(lambda: all_settled(pooled), 30, "every event")
    wait_until(lambda: SAID in third.output, 20, "the third at work")
    for worker in (second, third):
        assert "Traceback" not in worker.output
        worker.stop()
    assert [second.end(), third.end()] == [0, 0]
    assert repeats(stream.names(), load.committed, pooled) <= BATCH
    for worker in (first, second, third):
        assert worker.output.count(SAID) == 1, worker.output


def test_no_session_of_the_pool_is_left_listening(
    pgbouncer: Pool, pooled: str, stream: Stream, workers: Workers
) -> None:
    """A relay that tried in vain to listen leaves no session that hears the publishers' NOTIFY."""
    worker = workers.start(pooled, OUTBOX_PUBLISHERS=stream.publishers(REDIS))
    wait_until(lambda: SAID in worker.output, 20, "the attempt to listen")
    heard = pgbouncer.ask_every_session("SELECT pg_listening_channels()")
    assert {CHANNEL, SHARES_CHANNEL}.isdisjoint(heard)


def test_a_direct_relay_is_woken_through_the_pooler(
    pooled: str, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a connection of its own, a relay hears at once of what is published behind a pooler."""
    monkeypatch.setattr(polling, "FIRST_PAUSE", 60)
    with working("default", interval=60):
        wait_until(is_listening, 20, "the relay to listen")
        publish("a1", using=pooled)
        wait_until(lambda: row("a1", "default").status == "published", 20, "the delivery")
