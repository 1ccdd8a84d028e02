"""On PostgreSQL a publisher wakes the relays once its transaction has committed."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings

from django_broadcaster import notify
from django_broadcaster.publishers import publisher

from .many import event
from .statements import statements
from .test_publish import backends, undone

pytestmark = pytest.mark.parametrize(
    "database",
    [
        alias
        for alias, entry in settings.DATABASES.items()
        if entry["ENGINE"].endswith("postgresql")
    ],
    indirect=True,
)


@pytest.fixture(autouse=True)
def nothing_sent_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget when this process sent its last NOTIFY, which would make others wait."""
    monkeypatch.setattr(notify, "_sent", {})


def notified(run: list[str]) -> int:
    """How many of the statements are a NOTIFY."""
    return sum(sql.startswith("NOTIFY ") for sql in run)


def publish(database: str, *, many: bool) -> None:
    """Publish five events, in one call or in five."""
    events = [event(number) for number in range(5)]
    if many:
        publisher.publish_events(events, using=database, batch_size=2)
        return
    for each in events:
        publisher.publish_event(**each, using=database)


@pytest.mark.parametrize("many", [True, False])
def test_each_backend_is_notified_once_after_the_commit(database: str, many: bool) -> None:
    """A transaction sends one NOTIFY for each backend that it published to, when it is over."""
    with backends("one", "two", routes={"*": ["one", "two"]}), statements() as run:
        with transaction.atomic(using=database):
            publish(database, many=many)
            publish(database, many=many)
            assert notified(run) == 0
        assert notified(run) == 2


@pytest.mark.parametrize("many", [True, False])
def test_events_that_were_rolled_back_wake_nobody(database: str, many: bool) -> None:
    """Neither a transaction nor a savepoint that failed sends a NOTIFY."""
    with statements() as run:
        with undone(database):
            publish(database, many=many)
        with transaction.atomic(using=database), undone(database):
            publish(database, many=many)
    assert notified(run) == 0


@pytest.mark.parametrize("many", [True, False])
def test_savepoint_that_is_rolled_back_takes_no_other_wake_up_along(
    database: str, many: bool
) -> None:
    """Events before it, behind it and inside of it count each for themselves."""
    for before, behind in ((True, False), (False, True)):
        notify._sent.clear()
        with statements() as run, transaction.atomic(using=database):
            if before:
                publish(database, many=many)
            with undone(database):
                publish(database, many=many)
            if behind:
                publish(database, many=many)
        assert notified(run) == 1


def test_many_events_leave_one_note_for_each_backend(database: str) -> None:
    """What a transaction remembers does not grow with its events."""
    names = [f"backend-{number}" for number in range(5)]
    with backends(*names, routes={"*": names}), transaction.atomic(using=database):
        for _ in range(3):
            publish(database, many=False)
            publish(database, many=True)
        assert len(connections[database].run_on_commit) == 5


@override_settings(OUTBOX_NOTIFY=False)
def test_notify_can_be_switched_off(database: str) -> None:
    """Without OUTBOX_NOTIFY nothing is sent, and relays poll."""
    with statements() as run:
        publish(database, many=False)
        publish(database, many=True)
    assert notified(run) == 0
